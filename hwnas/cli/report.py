"""`hwnas report`: write the report of one or several searches, or show runs while they are written."""

import sys
import webbrowser
from pathlib import Path

import click

from hwnas.cli.following import commands_for
from hwnas.cli.options import PATH, PORT, given_options, json_option
from hwnas.cli.output import print_footer, print_json, print_line
from hwnas.cli.progress import console_reporter
from hwnas.cli.project import project_run
from hwnas.errors import UsageError
from hwnas.pipeline.report import Report, RunSummary, write_report
from hwnas.report.live.server import LOOPBACK, LiveServer
from hwnas.search.record import read_record


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=PATH)
@click.option("--out", type=PATH, help="Folder to write to, instead of the first RUN.")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@click.option("--watch", is_flag=True, help="Serve a page that follows RUNs while they are written, until Ctrl-C.")
@click.option("--host", default=LOOPBACK, show_default=True, help="Address that --watch listens on.")
@click.option("--port", type=PORT, default=0, show_default="a free one", help="Port that --watch listens on.")
@json_option
@click.pass_context
def report(
    context: click.Context,
    /,
    runs: tuple[Path, ...],
    *,
    out: Path | None,
    show: bool,
    watch: bool,
    host: str,
    port: int,
    as_json: bool,
) -> None:
    """Write the report of a search: page, tables, figures.

    The page works offline. Several RUNs are compared on one page. An unfinished search is reported as far as it got.
    Without RUN, it is the search of hwnas.toml.
    With --watch nothing is written: a page on this machine follows searches, trainings and profiles while they run.
    """
    _require_effect(context, watch=watch)
    runs = runs or (project_run(),)
    if watch:
        _watch(runs, host=host, port=port, show=show, as_json=as_json)
        return
    written = write_report(runs, out=out)
    if as_json:
        print_json(written)
    else:
        _print(written)
    if show:
        _open(written.page.resolve().as_uri())


def _require_effect(context: click.Context, *, watch: bool) -> None:
    useless = ("--out",) if watch else ("--host", "--port")
    given = [option for option in given_options(context, except_for=()) if option in useless]
    if given:
        reason = "--watch writes no files" if watch else "only --watch listens"
        raise UsageError(f"{given[0]} has no effect: {reason}", got=given[0], hint=f"leave out {given[0]}")


def _watch(runs: tuple[Path, ...], *, host: str, port: int, show: bool, as_json: bool) -> None:
    with LiveServer(runs, host=host, port=port) as server:
        if as_json:
            print_json({"url": server.url})
        else:
            print_line(server.url, wrap=False)
        sys.stdout.flush()
        reporter = console_reporter()
        if host != LOOPBACK:
            reporter.message(f"warning: anyone who can reach {host} and knows this address can read the runs")
        reporter.message("Ctrl-C ends it; the runs go on")
        if show:
            _open(server.url)
        server.serve_forever()


def _open(address: str) -> None:
    if not webbrowser.open(address):
        console_reporter().message(f"warning: no browser could be opened; open {address} yourself")


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
    print_footer(*_next_commands(written.runs[0]))


def _next_commands(summary: RunSummary) -> tuple[tuple[object, ...], ...]:
    """Fine-tune and export the balanced network of the front; resume an unfinished search."""
    if not summary.finished:
        return (("hwnas", "search", "--resume", summary.run),)
    return () if summary.balanced is None else commands_for(summary.run, read_record(summary.run), summary.balanced)
