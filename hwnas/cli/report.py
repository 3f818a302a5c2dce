"""`hwnas report`: write the report of one or several searches."""

import webbrowser
from pathlib import Path

import click

from hwnas.cli.options import PATH, json_option
from hwnas.cli.output import print_footer, print_json, print_line
from hwnas.cli.progress import console_reporter
from hwnas.pipeline.report import Report, RunSummary, write_report


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH)
@click.option("--out", type=PATH, help="Folder to write to, instead of the first RUN.")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@json_option
def report(runs: tuple[Path, ...], *, out: Path | None, show: bool, as_json: bool) -> None:
    """Write the report of a search: page, tables, figures.

    The page works offline. Several RUNs are compared on one page. An unfinished search is reported as far as it got.
    """
    written = write_report(runs, out=out)
    if as_json:
        print_json(written)
    else:
        _print(written)
    if show and not webbrowser.open(written.page.resolve().as_uri()):
        console_reporter().message(f"warning: no browser could be opened; open {written.page} yourself")


def _print(written: Report) -> None:
    reporter = console_reporter()
    for run in written.runs:
        name = "" if len(written.runs) == 1 else f"{run.run.name}: "
        print_line(f"{name}{run.verdict}")
        for warning in run.warnings:
            reporter.message(f"warning: {name}{warning}")
    for warning in written.warnings:
        reporter.message(f"warning: {warning}")
    print_line()
    for path in (written.page, *written.tables):
        print_line(str(path))
    if written.figures:
        print_line(f"{written.figures[0].parent}: {', '.join(path.name for path in written.figures)}")
    print_line()
    print_footer(_next_command(written.runs[0]))


def _next_command(summary: RunSummary) -> tuple[object, ...]:
    """Export the balanced network of the front; resume an unfinished search."""
    if not summary.finished:
        return ("hwnas", "search", "--resume", summary.run)
    if summary.balanced is None:
        return ()
    return ("hwnas", "export", summary.run, "--arch", summary.balanced, "--out", "exported")
