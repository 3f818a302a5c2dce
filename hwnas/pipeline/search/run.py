"""`hwnas search`: from predictors and a supernet to a front of networks that holds on the device."""

import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hwnas.devices import Machine
from hwnas.errors import InputError
from hwnas.pipeline.search.context import Bench, begin, reopen, settled
from hwnas.pipeline.search.execution import make_evaluators, run_all
from hwnas.pipeline.search.finalize import finish
from hwnas.pipeline.search.options import RunConfig, SearchOptions, read_run_config
from hwnas.pipeline.search.recording import make_record
from hwnas.profile.environment import Workplace
from hwnas.progress import MessageRecorder, NullReporter, Reporter
from hwnas.runs import Run
from hwnas.search.record import FILE, SearchRecord, read_record, write_record
from hwnas.search.satisfiable import Satisfiable, check_satisfiable, require_satisfiable

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import TrueAccuracy


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search came to."""

    run: Path
    record: SearchRecord


@dataclass(frozen=True, kw_only=True)
class SearchRehearsal:
    """What a search would be; nothing was evaluated or written."""

    config: RunConfig
    space_size: int
    satisfiable: Satisfiable
    num_pictures: int | None
    seconds_per_evaluation: float | None
    """Of the largest network; None where evaluations are free."""
    notes: tuple[str, ...]


def search_networks(
    options: SearchOptions | None = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    workers: int = 0,
    reporter: Reporter | None = None,
    workplace: Workplace | None = None,
) -> Searched:
    """Search, or go on with the search in the run `resume`; the run folder explains itself.

    At the end the front is measured again where its device is here, and the winners are exported.
    """
    reporter = reporter or NullReporter()
    machine = None if workplace is None else workplace.machine
    if resume is not None:
        run = Run.open(resume).path
        bench = reopen(run, read_run_config(Run.open(run)))
        satisfiable = check_satisfiable(bench.problem, bench.cheap, seed=bench.search.seed)
    else:
        bench = begin(options or SearchOptions(), reporter=reporter, machine=machine)
        satisfiable = require_satisfiable(bench.problem, bench.cheap, seed=bench.search.seed)
        reporter.message(str(satisfiable))
        run = _new_run(out or default_out(bench, options or SearchOptions()), bench)
    with _telling_how_to_go_on(run), settled(bench.search):
        truth = _truth(bench, run, workers=workers, reporter=reporter)
        if (run / FILE).is_file():
            record = read_record(run)
            _require_same_supernet(bench, record)
        else:
            ended = run_all(bench, run, make_evaluators(bench, truth), reporter=reporter)
            record = make_record(bench, ended, satisfiable=str(satisfiable), truth=truth, runs=run.parent)
            write_record(run, record)
        record = finish(bench, run, record, truth=truth, reporter=reporter, workplace=workplace)
    return Searched(run=run, record=record)


def rehearse_search(
    options: SearchOptions, *, reporter: Reporter | None = None, machine: Machine | None = None
) -> SearchRehearsal:
    """Work a search out without evaluating anything that is kept."""
    notes = MessageRecorder(reporter)
    with TemporaryDirectory() as scratch:
        bench = begin(options, reporter=notes, machine=machine, scratch=Path(scratch))
    with settled(bench.search):
        return SearchRehearsal(
            config=bench.config,
            space_size=bench.space.size,
            satisfiable=check_satisfiable(bench.problem, bench.cheap, seed=bench.search.seed),
            num_pictures=None if bench.supernet is None else len(bench.supernet.data.heldout),
            seconds_per_evaluation=_seconds(bench),
            notes=tuple(notes.messages),
        )


def default_out(bench: Bench, options: SearchOptions) -> Path:
    """A new folder under `runs`."""
    return options.runs / f"search-{bench.space.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _new_run(folder: Path, bench: Bench) -> Path:
    """Make the run, with copies of the predictors that it uses; it appears whole or not at all."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} must be a new or an empty folder", got="a file", hint="another --out")
    if folder.exists() and any(folder.iterdir()):
        hint = f"hwnas search --resume {folder}, or another --out"
        raise InputError(f"{folder} must be a new or an empty folder", got="a folder with files", hint=hint)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
    command, seeds = ("hwnas", *sys.argv[1:]), {"seed": bench.search.seed}
    try:
        Run.create(aside, command=command, config=bench.config, seeds=seeds)
        for choice, (source, _) in zip(bench.search.predictors, bench.predictors, strict=True):
            # A predictor for any batch may be behind several metrics.
            shutil.copytree(source, aside / choice.path, dirs_exist_ok=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _require_same_supernet(bench: Bench, record: SearchRecord) -> None:
    """Winners are cut out of the supernet that was searched, and of no other."""
    if bench.search.supernet_digest != record.supernet_digest:
        message = "the supernet must be the one that was searched"
        raise InputError(message, got=f"{record.supernet}, which has changed", hint="put the old file back there")


def _truth(bench: Bench, run: Path, *, workers: int, reporter: Reporter) -> "TrueAccuracy | None":
    if bench.supernet is None:
        return None
    from hwnas.pipeline.search.accuracy import TrueAccuracy
    from hwnas.train.evaluation import ACCURACIES

    return TrueAccuracy(
        bench.supernet,
        memo=run / ACCURACIES,
        device=bench.search.compute,
        workers=workers,
        reporter=reporter,
    )


def _seconds(bench: Bench) -> float | None:
    if bench.supernet is None:
        return None
    import time

    from hwnas.pipeline.search.accuracy import TrueAccuracy

    truth = TrueAccuracy(bench.supernet, memo=None, device=bench.search.compute)
    began = time.perf_counter()
    truth.of(bench.space.encode([bench.space.largest()]))
    return time.perf_counter() - began


@contextmanager
def _telling_how_to_go_on(run: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(f"all that was evaluated is kept\n  try     hwnas search --resume {run}") from stopped
