"""`hwnas study`: searches for other programs, and several of them in one figure."""

import shlex
from pathlib import Path

import click

from hwnas.cli.options import PATH, json_option
from hwnas.cli.output import Column, print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.pipeline.study_comparison import compare_searches
from hwnas.pipeline.study_export import StudyFormat, export_study


@click.group()
def study() -> None:
    """Export a search for other programs, or compare several."""


@study.command("export")
@click.argument("run", type=PATH)
@click.option(
    "--to",
    type=click.Choice(["optuna", "csv", "parquet", "pandas"]),
    default="optuna",
    show_default=True,
    help="A storage of Optuna, or a table; pandas is a Feather file.",
)
@click.option("--out", type=PATH, show_default="study.* in RUN", help="File to write, which must be new.")
@json_option
def export(run: Path, *, to: StudyFormat, out: Path | None, as_json: bool) -> None:
    """Write all candidates of a search for other programs.

    A storage of Optuna has a trial for each candidate, with its genes as parameters, its objectives as values, and
    ids, intervals and measured values as attributes. It is a journal, or an SQLite database if the name of --out ends
    in .db. The search may still be running.
    """
    written = export_study(run, to=to, out=out)
    if as_json:
        print_json(written)
        return
    print_line(f"{written.file}: {written.num_trials:,} candidates")
    if written.url is not None:
        print_line(f"next: optuna-dashboard {shlex.quote(written.url)}", wrap=False)


@study.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH)
@click.option("--out", type=PATH, default=Path("comparison"), show_default=True, help="Folder for the figures.")
@json_option
def compare(runs: tuple[Path, ...], *, out: Path, as_json: bool) -> None:
    """Draw several searches into one figure: hypervolume over evaluations, and fronts.

    Searches that differ in their seeds alone are a group, with their median and a band from the smallest to the largest
    value; the further seeds of a run (`hwnas search --seeds`) count as well. Groups are named by what they differ in:
    strategy, device, constraints, space or supernet. Hypervolumes are computed again within common bounds.
    """
    written = compare_searches(runs, out=out)
    if as_json:
        print_json(written)
        return
    for note in written.notes:
        console_reporter().message(f"note: {note}")
    rows = [
        (group.label, group.num_searches, group.evaluations, group.median, group.smallest, group.largest)
        for group in written.groups
    ]
    numeric = ("searches", "evaluations", "hypervolume", "smallest", "largest")
    print_table(
        [Column("group"), *(Column(name, numeric=True) for name in numeric)],
        [
            [label, count, evaluations, *(f"{value:.4f}" for value in values)]
            for label, count, evaluations, *values in rows
        ],
    )
    for path in written.files:
        print_line(str(path))
