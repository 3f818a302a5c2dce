"""`hwnas init`: look at images and machine, and write `hwnas.toml`."""

from typing import TYPE_CHECKING

import click

from hwnas.cli.options import MINUTES, json_option
from hwnas.cli.output import print_footer, print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.cli.project import FILE
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.progress import format_duration
from hwnas.train.data.sources import absolute_data_name, require_data

if TYPE_CHECKING:
    from hwnas.pipeline.project import Project


@click.command()
@click.argument("data")
@click.option(
    "--minutes",
    type=MINUTES,
    default=120,
    show_default=True,
    help="Wall time in minutes of all commands: training, profile, fit, search and fine-tuning a network.",
)
@click.option("--replace", is_flag=True, help="Replace a file that exists.")
@json_option
def init(data: str, *, minutes: float, replace: bool, as_json: bool) -> None:
    """Write hwnas.toml: options of all commands for these images.

    Looks at the images (a folder, Parquet, or another set as for hwnas train) and the devices, times a few training
    steps, and chooses space, recipe, epochs, batch, runtime, samples and budget that fit into the time. Commands that
    are run in this folder then need no options; those of a command line take precedence over the file.
    """
    if FILE.exists() and not replace:
        raise InputError(f"{FILE} exists already", hint="--replace, or edit it")
    require_data(absolute_data_name(data))
    from hwnas.pipeline.project import propose_project  # torch, which takes seconds

    with console_reporter() as reporter:
        reporter.message(f"looking at {data}, and timing a few training steps")
        project = propose_project(data, minutes=minutes)
    write_atomic(FILE, project.to_toml())
    if as_json:
        print_json({"path": FILE, "options": project.options, "minutes": project.minutes, "notes": project.notes})
    else:
        _print(project)


def _print(project: "Project") -> None:
    print_line(f"{FILE}: {project.proposal.describe()}")
    print_line()
    rows = [(f"hwnas {name}", format_duration(60 * minutes)) for name, minutes in project.minutes.items()]
    rows.append(("in all", format_duration(60 * project.total_minutes)))
    print_table(["", "estimated wall time"], rows)
    for note in project.notes:
        print_line(f"note: {note}")
    print_footer(("hwnas", "train"))
