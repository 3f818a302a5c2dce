"""`hwnas search`: from predictors and a supernet to a front of networks that is measured on the device."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import numpy as np

from hwnas.arguments import checked_arguments
from hwnas.devices import Machine
from hwnas.errors import InputError, Interrupted, UsageError, signal_number
from hwnas.metrics import QualityMetric
from hwnas.pipeline.search.context import SearchContext, pinned_cpu_settings, prepare_search, reload_search
from hwnas.pipeline.search.execution import make_evaluators, run_all
from hwnas.pipeline.search.levels import (
    LAYOUTS,
    LEVELS,
    create_levels,
    first_level,
    lock_levels,
    read_levels,
    require_layouts,
    second_level,
)
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.recording import make_record
from hwnas.pipeline.search.run_folder import create_run, extend_run, lock_run
from hwnas.pipeline.search.verify import FrontVerifier, front_members, unmeasured_front
from hwnas.pipeline.search.winners import WinnerExporter
from hwnas.pipeline.workers.evaluate_on import EvaluateOn, evaluation_workers
from hwnas.pipeline.workers.messages import EvaluationTask
from hwnas.profile.environment import CampaignEnvironment
from hwnas.profile.lookup import free_name
from hwnas.progress import NullReporter, Reporter
from hwnas.runs import MANIFEST, Run, record_error
from hwnas.search.constraint_check import ConstraintCheck, check_constraints, require_satisfiable
from hwnas.search.ledger import Stopwatch
from hwnas.search.objective import Estimate
from hwnas.search.record import RECORD_FILE, SearchRecord, VerifiedMember, read_record, write_record
from hwnas.search.result import SearchResult, load_search
from hwnas.search.spec import SearchSpec, read_spec
from hwnas.search.study import Study
from hwnas.space.deployed import networks_of

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import SupernetAccuracy
    from hwnas.train.executor import Executor


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """A search that has ended: its run folder and its record."""

    run: Path
    record: SearchRecord

    @cached_property
    def result(self) -> SearchResult:
        """All candidates and the front as objects, read from the run when it is first used."""
        return load_search(self.run)


@dataclass(frozen=True, kw_only=True)
class SearchDryRun:
    """A search that was resolved, but not run."""

    spec: SearchSpec
    space_size: int
    constraint_check: ConstraintCheck
    seconds_per_evaluation: float | None
    """Seconds for the largest network; None if evaluations are free."""


@dataclass(frozen=True, kw_only=True)
class _Execution:
    """The execution of a search, which its results do not depend on."""

    workers: int
    evaluate_on: EvaluateOn | None
    reporter: Reporter
    campaign_environment: CampaignEnvironment | None


@checked_arguments
def search_networks(
    options: SearchOptions | None = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    budget: int | None = None,
    workers: int = 0,
    evaluate_on: str | None = None,
    reporter: Reporter | None = None,
    campaign_environment: CampaignEnvironment | None = None,
) -> SearchRun:
    """Search for the best networks for a device, measure the front there, and export the winners.

    Args:
        options: The search to run; None with `resume`, which takes them from the run.
        out: The run folder; None: a new one under `options.runs`.
        resume: The run of a search that was interrupted, or whose front is still to be measured or exported.
        budget: With `resume`: the evaluations that the search is to have in all, more than it had. It goes on where it
            ended, as if it had not ended there, with the sizes of generations that its first budget gave it.
        workers: Processes that load images.
        evaluate_on: Workers that evaluate networks: `local:N` for processes of this machine, `ray` or `ray:ADDRESS` for
            a Ray cluster; None: this process. The front is the same on any number of them.
        reporter: Receives messages and progress.
        campaign_environment: Where the front is measured, for tests.

    Returns:
        The run folder and its record. What is evaluated is stored at once, so an interrupted search can be resumed.

    Raises:
        HwnasError: The options are wrong, no network can meet the constraints, or a supernet or predictors are
            missing.
    """
    if resume is not None and (options is not None or out is not None):
        raise UsageError("a resumed search takes options and folder from its run", got="options or out")
    if budget is not None and resume is None:
        raise UsageError("a budget beside the options is for a search that is resumed", got=budget)
    reporter, options = reporter or NullReporter(), options or SearchOptions()
    execution = _Execution(
        workers=workers,
        evaluate_on=None if evaluate_on is None else EvaluateOn.parse(evaluate_on),
        reporter=reporter,
        campaign_environment=campaign_environment,
    )
    if resume is not None and (between := read_levels(resume)) is not None:
        if budget is not None:
            message = "a search of two levels that has not begun the second has the budget that it began with"
            raise UsageError(message, got=budget, hint=f"hwnas search --resume {resume}")
        return _search_levels(resume, between, None, execution)
    if resume is not None:
        return _resume(resume, execution, budget=budget)
    separate = options.levels == "separate"
    prepared = _prepare(first_level(options) if separate else options, execution)
    run = out or default_run_folder(prepared.context, options)
    if not separate:
        return _search_new(run, prepared, execution)
    require_layouts(prepared.context, options)
    create_levels(run, options, prepared.context)
    return _search_levels(run, options, prepared, execution)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """The inputs of a new search, whose constraints can be met."""

    context: SearchContext
    constraint_check: ConstraintCheck


def _prepare(options: SearchOptions, execution: _Execution) -> _Prepared:
    environment, reporter = execution.campaign_environment, execution.reporter
    context = prepare_search(options, reporter=reporter, machine=None if environment is None else environment.machine)
    _require_evaluations(context, execution)
    constraint_check = require_satisfiable(context.problem, context.cheap, seed=context.spec.seed)
    for text in (*context.spec.notes, str(constraint_check)):
        reporter.message(text)
    return _Prepared(context=context, constraint_check=constraint_check)


def _search_new(run: Path, prepared: _Prepared, execution: _Execution, *, beside: tuple[str, ...] = ()) -> SearchRun:
    with create_run(run, prepared.context, beside=beside), _add_resume_hint(run):
        return _search(prepared.context, run, prepared.constraint_check, execution)


def _resume(run: Path, execution: _Execution, *, budget: int | None = None) -> SearchRun:
    read_spec(Run.open(run))  # nothing but the run of a search is locked
    with lock_run(run), _add_resume_hint(run):
        if budget is not None:
            extend_run(run, budget)
        context = reload_search(run)
        _require_evaluations(context, execution)
        constraint_check = check_constraints(context.problem, context.cheap, seed=context.spec.seed)
        return _search(context, run, constraint_check, execution)


def _search_levels(run: Path, options: SearchOptions, prepared: _Prepared | None, execution: _Execution) -> SearchRun:
    """Search layouts, train what the second level needs, and search the details: each unless it is done."""
    layouts = run / LEVELS / LAYOUTS
    with lock_levels(run), _add_resume_hint(run):
        if (layouts / MANIFEST).is_file():
            _resume(layouts, execution)
        else:
            _search_new(layouts, prepared or _prepare(first_level(options), execution), execution)
        second = second_level(run, options, reporter=execution.reporter)
    return _search_new(run, _prepare(second, execution), execution, beside=(LEVELS,))


def dry_run_search(
    options: SearchOptions, *, reporter: Reporter | None = None, machine: Machine | None = None
) -> SearchDryRun:
    """Resolve a search and time one evaluation, without keeping anything."""
    separate = options.levels == "separate"
    with TemporaryDirectory() as scratch:
        context = prepare_search(
            first_level(options) if separate else options,
            reporter=reporter or NullReporter(),
            machine=machine,
            scratch=Path(scratch),
        )
    if separate:
        require_layouts(context, options)
    with pinned_cpu_settings(context.spec):
        return SearchDryRun(
            spec=context.spec,
            space_size=networks_of(context.space).size,
            constraint_check=check_constraints(context.problem, context.cheap, seed=context.spec.seed),
            seconds_per_evaluation=_seconds_per_evaluation(context),
        )


def default_run_folder(context: SearchContext, options: SearchOptions) -> Path:
    """Return a new folder under `options.runs`."""
    name = f"search-{context.space.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return options.runs / free_name(options.runs, name)  # two searches may begin in the same second


def _search(context: SearchContext, run: Path, constraint_check: ConstraintCheck, execution: _Execution) -> SearchRun:
    """Search in a run folder that exists, unless that is done; then do the steps that follow."""
    reporter = execution.reporter
    with pinned_cpu_settings(context.spec), _executor(context, execution) as executor:
        accuracy = _supernet_accuracy(context, run=run, workers=execution.workers, executor=executor, reporter=reporter)
        if (run / RECORD_FILE).is_file():
            record = read_record(run)
            # Winners inherit their weights from the supernet that was searched, and from no other.
            searched, found = record.spec.supernet, context.spec.supernet
            if searched is not None and (found is None or found.digest != searched.digest):
                message = "the supernet must be the one that was searched"
                raise InputError(message, got=f"{searched.path}, which has changed", hint="put the old file back there")
        else:
            watch = Stopwatch()
            finished = run_all(context, run, make_evaluators(context, accuracy), reporter=reporter)
            record = make_record(
                context, finished, satisfiable=str(constraint_check), supernet_accuracy=accuracy, runs=run.parent
            )
            # The search itself may have been resumed; what is compared with it was done by this process.
            record = replace(record, steps_s={"search": max(watch.seconds(), record.elapsed_s)})
            write_record(run, record)
        record = _finalize(
            context,
            run,
            record,
            supernet_accuracy=accuracy,
            reporter=reporter,
            campaign_environment=execution.campaign_environment,
        )
    return SearchRun(run=run, record=record)


def _finalize(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    *,
    supernet_accuracy: "SupernetAccuracy | None",
    reporter: Reporter,
    campaign_environment: CampaignEnvironment | None,
) -> SearchRecord:
    """Measure the front, export the winners, write the tables: each unless it is done; the record after each step."""
    from hwnas.report.front import write_front

    post_search, searched = context.spec.post_search, record
    # A run is verified when it comes to the machine of its device, or when the device is available again.
    if record.verification is None or (post_search.verify and record.verification.status != "verified"):
        watch = Stopwatch(before_s=record.steps_s.get("measuring", 0.0))
        record = _verify(context, run, record, reporter=reporter, campaign_environment=campaign_environment)
        record = replace(record, steps_s={**record.steps_s, "measuring": watch.seconds()})
        write_record(run, record)
    front = record.front if record.measured_front is None else record.measured_front
    num_missing = min(post_search.num_winners, len(front)) - len(record.winners)
    failed = any(item.failure is not None for item in record.winners)
    if num_missing > 0 or failed or record.measured_front != searched.measured_front:
        watch = Stopwatch(before_s=record.steps_s.get("exporting", 0.0))
        with Study.read(run) as study:
            members = front_members(context, study, record)
        exporter = WinnerExporter(context=context, run=run, supernet_accuracy=supernet_accuracy, reporter=reporter)
        record = replace(record, winners=exporter.export(record, members))
        record = replace(record, steps_s={**record.steps_s, "exporting": watch.seconds()})
        write_record(run, record)
    write_front(run)
    return record


def _verify(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    *,
    reporter: Reporter,
    campaign_environment: CampaignEnvironment | None,
) -> SearchRecord:
    reason = None if context.cheap.predictors else "the search had no metric of a device"
    if not context.spec.post_search.verify:
        reason = "verification was turned off (--no-verify)"
    if reason is not None:
        return replace(record, verification=unmeasured_front(context, "skipped", reason))
    environment = campaign_environment or CampaignEnvironment.of_this_machine()
    verifier = FrontVerifier(context=context, run=run, reporter=reporter, campaign_environment=environment)
    record = verifier.verify(record)
    if record.verification is not None and record.verification.has_measurements:
        _store_measured(context, run, record, record.verification.members)
    return record


def _store_measured(context: SearchContext, run: Path, record: SearchRecord, rows: tuple[VerifiedMember, ...]) -> None:
    """Store measured values in the study, in addition to the predicted ones."""
    # The versions in the specification decide what is searched, not what is measured: a study of other versions is
    # opened with its own configuration.
    with Study.read(run) as study:
        config = study.config
    with Study.resume(run, config=config) as study:
        candidates = {member.candidate.id: member.candidate for member in front_members(context, study, record)}
        for row in rows:
            for name, check in row.metrics.items():
                if check.measured is None:
                    continue
                limits = (check.measured_lower, check.measured_upper)
                ends = (check.measured, *(check.measured if end is None else end for end in limits))
                value = Estimate(*(np.array([end]) for end in ends))
                study.store_value(candidates[row.arch_id].genome[None], metric=name, value=value, source="measured")


def _supernet_accuracy(
    context: SearchContext,
    *,
    run: Path | None,
    workers: int = 0,
    executor: "Executor | None" = None,
    reporter: Reporter | None = None,
) -> "SupernetAccuracy | None":
    """Return the evaluator of accuracy, which stores its values in a run; None for a search without accuracy."""
    if context.supernet is None or context.spec.supernet is None:
        return None
    from hwnas.pipeline.search.accuracy import SupernetAccuracy
    from hwnas.train.evaluated import ACCURACIES_FILE

    cache = None if run is None else run / ACCURACIES_FILE
    device = context.spec.supernet.compute
    return SupernetAccuracy(
        context.supernet,
        space=context.space,
        quality=context.problem.expensive or "accuracy",
        precision=context.spec.supernet.precision,
        cache=cache,
        device=device,
        workers=workers,
        executor=executor,
        reporter=reporter,
    )


def _require_evaluations(context: SearchContext, execution: _Execution) -> None:
    if execution.evaluate_on is not None and context.supernet is None:
        message = "--evaluate-on has no effect: without accuracy no network is evaluated"
        raise UsageError(message, got=execution.evaluate_on.kind, hint="leave out --evaluate-on")


@contextmanager
def _executor(context: SearchContext, execution: _Execution) -> "Iterator[Executor | None]":
    """Yield the executor of a search, with the CPU settings of this process; None: networks are evaluated here."""
    if execution.evaluate_on is None:
        yield None
        return
    opened = context.supernet
    assert opened is not None, "workers without a supernet"
    assert context.spec.supernet is not None, "a supernet without its specification"
    from hwnas.train.machine import current_cpu_settings

    cpu = current_cpu_settings()
    task = EvaluationTask(
        supernet=str(opened.path.resolve()),
        digest=opened.digest,
        data=opened.requested_data,
        data_fingerprint=opened.data.fingerprint,
        quality=cast("QualityMetric", context.problem.expensive or "accuracy"),
        device=context.spec.supernet.compute,
        threads=cpu.threads,
        matmul_backend=cpu.matmul_backend,
        loaders=execution.workers,
    )
    with evaluation_workers(execution.evaluate_on, task, keeps_images=opened.keeps_images) as executor:
        yield executor


def _seconds_per_evaluation(context: SearchContext) -> float | None:
    accuracy = _supernet_accuracy(context, run=None)
    if accuracy is None:
        return None
    started_s = time.perf_counter()
    accuracy.evaluate(context.space.encode([context.space.largest()]))
    return time.perf_counter() - started_s


@contextmanager
def _add_resume_hint(run: Path) -> Iterator[None]:
    with record_error(run):
        try:
            yield
        except KeyboardInterrupt as error:
            message = f"all that was evaluated is kept\n  try     hwnas search --resume {shlex.quote(str(run))}"
            raise Interrupted(message, number=signal_number(error)) from error
