"""`hwnas report`."""

from pathlib import Path

import click

from hwnas.cli.ending import print_ending
from hwnas.cli.options import json_option
from hwnas.cli.output import print_json, print_line
from hwnas.cli.progress import console_reporter
from hwnas.pipeline.report import Report, RunSummary, write_report


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write into this folder, not into the first RUN.")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@json_option
def report(runs: tuple[Path, ...], *, out: Path | None, show: bool, as_json: bool) -> None:
    """Show what a search found: one page that needs no network, tables and figures.

    RUN is the folder of a search; of several, the fronts are laid over each other. A search that has not ended is
    shown as far as it is.
    """
    written = write_report(runs, out=out)
    if as_json:
        print_json(written)
    else:
        _print(written)
    if show:
        _open(written.page)


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
    print_ending(_following(written.runs[0]))


def _following(first: RunSummary) -> tuple[object, ...]:
    """The network that gives up least of every objective, taken; of a search that has not ended, its end."""
    if not first.finished:
        return ("hwnas", "search", "--resume", first.run)
    if first.balanced is None:
        return ()
    return ("hwnas", "export", first.run, "--arch", first.balanced, "--out", "exported")


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        console_reporter().message(f"warning: no browser could be opened; open {page} yourself")
