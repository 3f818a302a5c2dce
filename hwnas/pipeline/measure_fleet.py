"""Measure on the hosts of a fleet: one campaign for each device and runtime, shared by the hosts that are equal."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from hwnas.arguments import checked_arguments
from hwnas.devices import require
from hwnas.errors import CheckFailedError, HwnasError
from hwnas.pipeline.measure import MeasureResult, measure
from hwnas.profile.environment import choose_runtime
from hwnas.profile.options import CampaignOptions
from hwnas.profile.remote.fleet import FLEET_COLUMNS, Fleet, FleetHost, FleetRow, fleet_cells
from hwnas.profile.remote.host import RemoteHosts, equality_key
from hwnas.progress import CampaignProgress, NullReporter, ProgressEvent, Reporter

_TABLE_S = 60.0
"""Time between two tables while hosts measure."""


@dataclass(frozen=True, kw_only=True)
class FleetResult:
    """Result of a campaign over a fleet."""

    rows: tuple[FleetRow, ...]
    """The work of each host, by device and runtime."""
    campaigns: tuple[MeasureResult, ...]

    def require_complete(self) -> None:
        """Raise a CheckFailedError if a host could not measure all that it should."""
        ended = [f"{row.host}: {row.state}" for row in self.rows if row.state != "done"]
        if ended:
            hint = "everything measured is kept; the same command measures the rest"
            raise CheckFailedError("every host of the fleet must measure", got="; ".join(ended), hint=hint)


@dataclass(frozen=True)
class _Job:
    """One campaign: equal hosts that share its networks."""

    device: str
    runtime: str
    addresses: tuple[str, ...]


@checked_arguments
def measure_fleet(
    fleet: Fleet,
    options: CampaignOptions,
    *,
    retry: bool = False,
    reporter: Reporter | None = None,
    connect: Callable[..., RemoteHosts] = RemoteHosts,
) -> FleetResult:
    """Measure networks on all hosts of a fleet.

    Hosts with equal devices and versions share the networks of a campaign; others have a profile of their own, next to
    those of the same device. A host that cannot be reached or disappears is reported, and the others go on.

    Args:
        fleet: The hosts.
        options: Which networks are measured and how; device and runtime are those of the fleet.
        retry: Measure networks again that failed before.
        reporter: Receives messages, progress and the table of who does what.
        connect: Connects to hosts; tests replace it.

    Returns:
        What each host did, and the campaigns.
    """
    board = _Board(reporter or NullReporter())
    with ExitStack() as stack:
        hosts = _connect(fleet, stack, board, connect)
        jobs = _jobs(fleet, hosts, options, board)

        def run(job: _Job) -> MeasureResult:
            connections = {address: hosts[address].connections[address] for address in job.addresses}
            there = [address for address in job.addresses if connections[address].is_open] or job.addresses
            before = {address: connections[address].problem for address in there}
            first, *others = (hosts[address] for address in there)
            environment = first.environment(among=others, keeps_apart=True)
            own = replace(options, device=job.device, runtime=job.runtime)
            watching = board.watch(job, {host.name: host.address for item in (first, *others) for host in item.hosts})
            measured = measure(own, retry=retry, reporter=watching, campaign_environment=environment)
            problems = {address: connection.problem for address, connection in connections.items()}
            # A problem of an earlier campaign is one of this campaign if the host is gone since then.
            board.end_job(job, {key: item for key, item in problems.items() if item is not before.get(key)})
            return measured

        campaigns = _run_jobs(jobs, run, board, stop=partial(_interrupt, hosts))
    return FleetResult(rows=board.rows(), campaigns=tuple(campaigns))


def _connect(
    fleet: Fleet, stack: ExitStack, board: "_Board", connect: Callable[..., RemoteHosts]
) -> dict[str, RemoteHosts]:
    """Connect to all hosts at the same time; those that cannot be reached have a row with the reason."""
    cancelled, limits = threading.Event(), fleet.limits

    def open_host(item: FleetHost) -> RemoteHosts:
        limit_s = 60 * item.limit_minutes
        opened = connect([item.host], on_message=board.message, limits=limits, limit_s=limit_s, cancelled=cancelled)
        return stack.enter_context(opened)

    connected = {}
    with ThreadPoolExecutor(max_workers=len(fleet.hosts)) as threads:
        try:
            waiting = [(item, threads.submit(open_host, item)) for item in fleet.hosts]
            for item, future in waiting:
                try:
                    connected[item.address] = future.result()
                except HwnasError as error:
                    board.fail(item.address, "-", "-", error)
        except BaseException:
            cancelled.set()  # before the threads are waited for
            raise
    return connected


def _jobs(fleet: Fleet, hosts: dict[str, RemoteHosts], options: CampaignOptions, board: "_Board") -> list[_Job]:
    """Campaigns of the fleet, each with the hosts that are equal."""
    sharing: dict[tuple[object, str, str], list[str]] = {}
    for item in fleet.hosts:
        if item.address not in hosts:
            continue
        environment = hosts[item.address].environment()
        for name in item.devices:
            for wanted in item.runtimes:
                try:
                    device = require(name, machine=environment.machine)
                    find = environment.find_runner
                    runtime = choose_runtime(wanted, device, NullReporter(), find=find)
                except HwnasError as error:
                    board.fail(item.address, name, wanted, error)
                    continue
                key = (equality_key(hosts[item.address].welcomes[0], runtime), device.name, runtime)
                sharing.setdefault(key, []).append(item.address)
                board.set(item.address, device.name, runtime, state="waits")
    return [_Job(device, runtime, tuple(dict.fromkeys(shared))) for (_, device, runtime), shared in sharing.items()]


def _run_jobs(
    jobs: Sequence[_Job], run: Callable[[_Job], MeasureResult], board: "_Board", *, stop: Callable[[], object]
) -> list[MeasureResult]:
    """Run campaigns side by side that have no host and no folder in common; `stop` ends what they measure."""
    left, running, done = list(jobs), dict[Future[MeasureResult], _Job](), []
    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as threads, ExitStack() as stack:
        stack.callback(stop)  # before the threads are waited for; without an interrupt, nothing is measured any more
        while left or running:
            for job in list(left):
                if all(_apart(job, other) for other in running.values()):
                    left.remove(job)
                    board.set_job(job, "measures")
                    running[threads.submit(run, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    done.append(future.result())
                except HwnasError as error:
                    for address in job.addresses:
                        board.fail(address, job.device, job.runtime, error)
    return done


def _apart(job: _Job, other: _Job) -> bool:
    return job.device != other.device and not set(job.addresses) & set(other.addresses)


def _interrupt(hosts: dict[str, RemoteHosts]) -> None:
    for item in hosts.values():
        item.interrupt()


class _Board:
    """The table of who does what, and the reporter that sees it now and then."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._lock = reporter, threading.RLock()
        self._rows: dict[tuple[str, str, str], FleetRow] = {}
        self._progress: dict[_Job, CampaignProgress] = {}
        self._shown_s = self._begin_s = time.monotonic()

    def rows(self) -> tuple[FleetRow, ...]:
        """Return the rows, in the order of the fleet."""
        with self._lock:
            return tuple(self._rows.values())

    def message(self, text: str) -> None:
        """Pass a message on, also from the threads of several hosts."""
        with self._lock:
            self._reporter.message(text)

    def set(self, host: str, device: str, runtime: str, *, state: str) -> None:
        """Set the state of a row."""
        with self._lock:
            key = (host, device, runtime)
            row = self._rows.get(key) or FleetRow(host=host, device=device, runtime=runtime)
            self._rows[key] = replace(row, state=state)

    def set_job(self, job: _Job, state: str) -> None:
        """Set the state of all hosts of a campaign."""
        for address in job.addresses:
            self.set(address, job.device, job.runtime, state=state)

    def end_job(self, job: _Job, problems: Mapping[str, HwnasError | None]) -> None:
        """Set the state of the hosts of a campaign that ended.

        Args:
            job: The campaign.
            problems: Why hosts were given up in it, while others completed it.
        """
        for address in job.addresses:
            problem = problems.get(address)
            self.set(address, job.device, job.runtime, state="done" if problem is None else _reason(problem))

    def fail(self, host: str, device: str, runtime: str, error: HwnasError) -> None:
        """Set the reason why a host ended."""
        reason = _reason(error)
        self.set(host, device, runtime, state=reason)
        self.message(f"{host}: {reason}" if host not in reason else reason)

    def watch(self, job: _Job, addresses: dict[str, str]) -> "_JobReporter":
        """Return a reporter for a campaign.

        Args:
            job: The campaign.
            addresses: Addresses by the names of hosts in rows.
        """
        return _JobReporter(message=self.message, update=partial(self._count, job, addresses))

    def _count(self, job: _Job, addresses: dict[str, str], event: ProgressEvent) -> None:
        if not isinstance(event, CampaignProgress):
            return
        with self._lock:
            self._progress[job] = event
            key = (addresses.get(event.worker, event.worker), job.device, job.runtime)
            if event.done and key in self._rows:
                row = self._rows[key]
                failed = event.failure is not None
                measured = row.num_measured + (not failed)
                self._rows[key] = replace(row, num_measured=measured, num_failed=row.num_failed + failed)
            total = [getattr(item, name) for name in ("done", "total", "failed") for item in self._progress.values()]
            size = len(self._progress)
            done, all_tasks, failures = (sum(total[index * size : (index + 1) * size]) for index in range(3))
            elapsed_s = time.monotonic() - self._begin_s
            counts = {"done": done, "total": all_tasks, "failed": failures}
            whole = replace(event, **counts, device="", elapsed_s=elapsed_s, left_s=None, between_s=None)
            self._reporter.update(whole)
            if time.monotonic() - self._shown_s > _TABLE_S:
                self._shown_s = time.monotonic()
                self._reporter.message(self._table())

    def _table(self) -> str:
        """The table as text."""
        cells = [FLEET_COLUMNS, *(tuple(map(str, row)) for row in fleet_cells(self.rows()))]
        widths = [max(len(row[index]) for row in cells) for index in range(len(FLEET_COLUMNS))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
        return "\n".join(line.rstrip() for line in lines)


def _reason(error: HwnasError) -> str:
    return error.message if error.got is None else f"{error.message}, got {error.got}"


@dataclass(frozen=True)
class _JobReporter:
    message: Callable[[str], None]
    update: Callable[[ProgressEvent], None]
