"""`hwnas profiles`: list profiles, show one, and import published tables."""

import shlex
from pathlib import Path
from typing import Any

import click

from hwnas.cli.options import PATH, json_option, profiles_option
from hwnas.cli.output import Column, print_json, print_line, print_table
from hwnas.cli.profile import print_quality, quality_values
from hwnas.cli.progress import console_reporter
from hwnas.config import to_mapping
from hwnas.data_paths import PROFILES
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.import_timm import ImportOptions, import_timm
from hwnas.pipeline.profiles import (
    ProfileDetails,
    ProfileOverview,
    ProfileSummary,
    describe_profile,
    list_profiles,
    load_profile,
)


@click.group(invoke_without_command=True)
@profiles_option
@json_option
@click.pass_context
def profiles(context: click.Context, /, *, profiles: Path | None, as_json: bool) -> None:
    """List measured profiles, show or import one.

    Without a subcommand, your own profiles are listed first, then those that ship with hwnas.
    """
    context.obj = profiles
    if context.invoked_subcommand is None:
        _print_list(list_profiles(profiles), as_json=as_json)


@profiles.command()
@click.argument("name")
@profiles_option
@json_option
@click.pass_context
def show(context: click.Context, /, *, name: str, profiles: Path | None, as_json: bool) -> None:
    """Show the quality of a profile.

    Failures, noise floor, drift, environment and the commands that measured it are printed. NAME is DEVICE/FOLDER as
    listed, just FOLDER if that is unambiguous, or a path.
    """
    folder = profiles or context.obj
    if as_json:
        print_json(_values(load_profile(name, profiles=folder)))
    else:
        _print_overview(describe_profile(name, profiles=folder))


@profiles.command("import-timm")
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option("--device", help="Device, if it is not in the file name.")
@click.option("--precision", help="Precision, if it is not in the file name (amp becomes fp16).")
@click.option("--runtime", help="torch or torch-compile, if it is not in the file name.")
@click.option("--match", default="", help="Import only models whose names match this regular expression.")
@click.option("--out", type=PATH, default=PROFILES, show_default=True, help="Folder to write to.")
@json_option
def import_timm_tables(
    *,
    files: tuple[Path, ...],
    device: str | None,
    precision: str | None,
    runtime: str | None,
    match: str,
    out: Path,
    as_json: bool,
) -> None:
    """Import tables of timm's inference benchmark as profiles.

    They let hwnas fit predict models of timm on devices that you do not have. FILES are CSV files such as
    benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo.csv.
    """
    deployment = Deployment(device=device, runtime=runtime, precision=precision)
    options = ImportOptions(deployment=deployment, match=match, out=out)
    with console_reporter() as reporter:
        tables = import_timm(files, options, reporter=reporter)
    if as_json:
        print_json([{**vars(table), "manifest": to_mapping(table.manifest)} for table in tables])
        return
    for table in tables:
        deployment = table.manifest.deployment
        setting = f"{deployment.device}, {deployment.runtime}, {deployment.precision}"
        missing = f", {len(table.not_traced)} models not in this version of timm" if table.not_traced else ""
        print_line(f"{table.path}: {table.num_used} of {table.num_rows} rows, {setting}{missing}")


_COLUMNS = (
    "profile",
    "origin",
    Column("networks", numeric=True),
    Column("failed", numeric=True),
    Column("noise floor", numeric=True),
    "created",
)


def _print_list(found: tuple[ProfileSummary, ...], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif found:
        print_table(_COLUMNS, map(_row, found))
        for summary in found:
            if summary.problem is not None:
                console_reporter().message(f"{summary.name}: {summary.problem}")
    else:
        print_line("There are no profiles yet; hwnas profile makes one.")


def _row(found: ProfileSummary) -> tuple[object, ...]:
    floor = None if found.noise_floor is None else f"{found.noise_floor:.2%}"
    return (found.name, found.origin, found.num_networks, found.num_failed, floor, found.created_utc[:10])


def _values(details: ProfileDetails) -> dict[str, Any]:
    values = {name: getattr(details, name) for name in details.__dataclass_fields__}
    return {**values, "manifest": to_mapping(details.manifest), "quality": quality_values(details.quality)}


def _print_overview(overview: ProfileOverview) -> None:
    for note in overview.notes:
        console_reporter().message(note)
    print_quality(str(overview.path), overview.quality)
    print_line()
    print_table(["", ""], sorted(overview.manifest.environment.items()), title="Environment")
    print_line()
    for session in overview.manifest.sessions:
        commit = f" at {session.commit[:12]}{' + changes' if session.modified else ''}" if session.commit else ""
        print_line(f"{session.started_utc}  {shlex.join(session.command)}{commit}", wrap=False)
