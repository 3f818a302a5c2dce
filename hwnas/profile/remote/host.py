"""Hosts: how one is reached, and its devices and processes as a campaign knows those of this machine."""

import getpass
import hashlib
import os
import re
import secrets
import shlex
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count

from hwnas.config import from_mapping, require_valid, to_mapping
from hwnas.data_paths import cache_folder
from hwnas.devices import Device
from hwnas.errors import HwnasError, InputError, UsageError
from hwnas.files import WriterLock, printable, require_file_name
from hwnas.profile.agent_code import bootstrap, code_digest
from hwnas.profile.crew import Measurer, WorkerPair
from hwnas.profile.environment import PACKAGES, CampaignEnvironment
from hwnas.profile.made_graphs import MadeGraph, make_graph
from hwnas.profile.network_timer import classify_failure
from hwnas.profile.remote.connection import ConnectionLimits, HostConnection
from hwnas.profile.remote.protocol import Hello, Welcome
from hwnas.profile.runners.runner import Availability, RuntimeChecks, exporter_for
from hwnas.profile.worker_messages import (
    MeasurementTask,
    ReferenceNetworkError,
    TaskResult,
    WorkerError,
    WorkerFacts,
)
from hwnas.records import Failure, Setting
from hwnas.runs import Environment, environment

SSH_VARIABLE = "HWNAS_SSH"
"""Environment variable with the command that is used in place of `ssh`, with its options."""

_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9_:\[][A-Za-z0-9._:%\]-]{0,253}")
_SSH_OPTIONS = (
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=20"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=3"),
)
_EXPORTERS = ("onnx", "onnxscript", "timm", "torch")
"""Packages that make graphs."""

_REFERENCE_SEED = 0
"""The reference network has the same weights everywhere."""

_MAX_FACTS, _MAX_FACT = 200, 300


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine that is reached by ssh."""

    address: str
    """Address for ssh: `user@host`, or a name of its configuration."""
    python: str = "python3"
    """Python of the agent there."""
    agent: str = "sent"
    """`sent`: the code of this version is sent; `installed`: `hwnas agent` is started there."""

    def __post_init__(self) -> None:
        require_valid(self)
        if not _HOST.fullmatch(self.address):
            message = "a host must be named as ssh names it: user@host, or a name of ~/.ssh/config"
            raise UsageError(message, got=printable(self.address, limit=80), hint="--on user@host")
        if self.agent not in ("sent", "installed"):
            raise UsageError("agent must be 'sent' or 'installed'", got=printable(self.agent, limit=80))
        if self.python.startswith("-") or not self.python.isprintable():
            raise UsageError("python must be the path of a program there", got=printable(self.python, limit=80))

    @property
    def name(self) -> str:
        """The name that rows have, without the user."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", self.address.rpartition("@")[2]).lstrip(".-")[:100]

    def command(self, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """Return the command whose standard streams are those of the agent."""
        ssh = shlex.split(environ.get(SSH_VARIABLE, "")) or ["ssh"]
        remote = "hwnas agent"
        if self.agent == "sent":
            remote = f"{shlex.quote(self.python)} -c {shlex.quote(bootstrap())}"
        return (*ssh, *_SSH_OPTIONS, "--", self.address, remote)

    def lock(self) -> WriterLock:
        """Take the right to measure on the host, among the campaigns of this user here.

        Raises:
            InputError: Another campaign has it.
        """
        name = f"{self.name[:60]}-{hashlib.sha256(self.address.encode()).hexdigest()[:8]}"
        message = f"{self.address} is being measured by another campaign"
        return WriterLock(cache_folder() / "hosts" / f"{name}.json", activity="campaign", message=message)


class RemoteRunner:
    """Answers of a host about a runtime, in the place of the runner there."""

    def __init__(self, connection: HostConnection, name: str) -> None:
        self._connection, self._name = connection, name

    def available(self, device: Device) -> Availability:
        """Check if the runtime is installed there and can use a device there."""
        return self._ask({"device": device.name})

    def supports(self, setting: Setting) -> Availability:
        """Check if the runtime there can run in a setting."""
        return self._ask({"setting": to_mapping(setting)})

    def _ask(self, values: Mapping[str, object]) -> Availability:
        answer = self._connection.request({"runtime": self._name, **values})
        found = from_mapping(Availability, _answered(answer, "availability"), where=self._connection.host)
        extra = found.extra if found.extra and re.fullmatch(r"[a-z-]{1,30}", found.extra) else None
        return replace(found, reason=printable(f"{self._connection.host}: {found.reason}", limit=600), extra=extra)


class RemoteMeasurer:
    """A worker process on a host.

    Args:
        connection: The agent of the host.
        slot: Number of the process there.
        gpu: UUID of the GPU that the process sees; None: those that the agent sees.
        make: Makes graphs; tests replace it.
    """

    def __init__(
        self,
        connection: HostConnection,
        *,
        slot: int,
        gpu: str | None = None,
        make: Callable[..., MadeGraph] = make_graph,
    ) -> None:
        self._connection, self._make = connection, make
        self._worker = {"slot": slot, "gpu": gpu}
        self._references: dict[Setting, MadeGraph] = {}
        self._facts: dict[Setting, WorkerFacts] = {}

    def facts(self, setting: Setting) -> WorkerFacts:
        """Return facts about the process and its runtime there, and the versions that make graphs here."""
        facts = self._ask_facts(setting)
        self._facts[setting] = facts
        if setting.runtime.startswith("torch"):
            return facts
        from hwnas.profile.runners.preparation import exporter_facts

        return replace(facts, runtime={**exporter_facts(), **facts.runtime, "graphs": "made on another machine"})

    def measure(self, task: MeasurementTask, *, excluded_processes: Collection[str] = ()) -> TaskResult:
        """Measure one network there, in a process that is not in `excluded_processes`.

        Raises:
            ReferenceNetworkError: The reference network does not run in the setting.
            InputError: The host is gone, or it has changed.
        """
        try:
            return self._measure(task, excluded_processes)
        except ReferenceNetworkError:
            raise
        except HwnasError as error:
            self._connection.problem = error
            raise

    def _measure(self, task: MeasurementTask, excluded_processes: Collection[str]) -> TaskResult:
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        made: MadeGraph | None = None
        payloads: dict[str, bytes] = {}
        sent = task
        if not task.setting.runtime.startswith("torch"):
            reference = self._reference(task)
            try:
                made = self._make(task.subject, task.setting, seed=task.seed)
            except Exception as error:  # of any type: it concerns this network alone
                failure = classify_failure(error, stage="prepare")
                return TaskResult(process_id="", started_utc=started, duration_s=0.0, failure=failure)
            sent = replace(task, graph_files=made.files, reference_files=reference.files)
            payloads = {**reference.payloads, **made.payloads}
        is_own = made is not None and made.graph_name not in self._kept()
        forget = [made.graph_name, made.files.expected] if made is not None and is_own else []
        request = {
            **self._worker,
            "task": to_mapping(sent),
            "excluded": list(excluded_processes),
            "forget": forget,
        }
        answer = self._connection.request(
            request, payloads, key=secrets.token_hex(8), on_reconnect=partial(self._require_same_facts, task.setting)
        )
        self._connection.forget(forget)
        result = self._result(task, answer)
        return (
            result
            if made is None or result.export_s is None
            else replace(result, export_s=made.duration_s + result.export_s)
        )

    def interrupt(self) -> None:
        """End the connection, and with it what is measured there."""
        self._connection.interrupt()

    def close(self) -> None:
        """Leave the process to the agent, which ends with its connection."""

    def _kept(self) -> set[str]:
        return {name for reference in self._references.values() for name in reference.payloads}

    def _reference(self, task: MeasurementTask) -> MadeGraph:
        setting = replace(task.setting, exporter=exporter_for(task.setting.runtime, task.reference))
        if setting not in self._references:
            try:
                self._references[setting] = self._make(task.reference, setting, seed=_REFERENCE_SEED)
            except Exception as error:
                raise ReferenceNetworkError(task, classify_failure(error, stage="prepare")) from error
        return self._references[setting]

    def _ask_facts(self, setting: Setting) -> WorkerFacts:
        answer = self._connection.request({**self._worker, "facts": to_mapping(setting)})
        found = from_mapping(WorkerFacts, _answered(answer, "facts"), where=self._connection.host)
        if len(found.runtime) > _MAX_FACTS:
            raise InputError(f"{self._connection.host} must state at most {_MAX_FACTS} facts", got=len(found.runtime))
        runtime = {printable(name, limit=100): printable(text, limit=_MAX_FACT) for name, text in found.runtime.items()}
        notes = tuple(printable(note, limit=_MAX_FACT) for note in found.notes[:10])
        return replace(found, process_id=_process_id(found.process_id), runtime=runtime, notes=notes)

    def _require_same_facts(self, setting: Setting) -> None:
        """Require that a host is what it was before the connection was lost: rows of one profile share it."""
        known = next((facts for known, facts in self._facts.items() if known.deployment == setting.deployment), None)
        if known is None:
            return
        now = self._ask_facts(setting)
        names = known.runtime.keys() | now.runtime.keys()
        different = sorted(name for name in names if known.runtime.get(name) != now.runtime.get(name))
        if different:
            message = f"{self._connection.host} must stay as it is during a campaign"
            raise InputError(message, got=f"another {different[0]} after the connection was lost")

    def _result(self, task: MeasurementTask, answer: Mapping[str, object]) -> TaskResult:
        """The result in an answer, checked as rows of files are; whose it is follows from the task alone."""
        if "error" in answer:
            error = from_mapping(WorkerError, answer["error"], where=self._connection.host)
            if error.failure is not None:
                raise ReferenceNetworkError(task, _printable_failure(error.failure))
            raise _printable_error(self._connection.host, error)
        result = from_mapping(TaskResult, _answered(answer, "result"), where=f"{self._connection.host}: result")
        failure = None if result.failure is None else _printable_failure(result.failure)
        result = replace(result, process_id=_process_id(result.process_id), failure=failure)
        result.to_measurement(task, environment_id="")  # raises what is no row
        return result


def _answered(answer: Mapping[str, object], name: str) -> object:
    if "error" in answer:
        raise _printable_error("the host", from_mapping(WorkerError, answer["error"], where="error"))
    return answer.get(name)


def _printable_failure(failure: Failure) -> Failure:
    return replace(failure, message=printable(failure.message, limit=1600))


def _printable_error(host: str, error: WorkerError) -> HwnasError:
    got, hint = (None if text is None else printable(text, limit=600) for text in (error.got, error.hint))
    message = f"{host}: {printable(error.message, limit=600)}"
    return replace(error, message=message, got=got, hint=hint).rebuilt()


def _process_id(text: str) -> str:
    """The identifier of a process there, which rows keep."""
    if not re.fullmatch(r"[0-9a-f]{0,32}", text):
        raise InputError("a process must be identified by hexadecimal digits", got=printable(text, limit=80))
    return text


class RemoteHosts:
    """Equal hosts, as the environment of one campaign.

    Args:
        hosts: The hosts.
        on_message: Called when a connection is lost and when there is one again.
        limits: Times after which a host is given up.
        limit_s: Time after which a network is given up; None: an hour.
        commands: Commands in place of ssh, by address; tests use them.
        make: Makes graphs; tests replace it.
        cancelled: Ends the waiting for hosts while it is set.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        *,
        on_message: Callable[[str], None] = lambda text: None,
        limits: ConnectionLimits | None = None,
        limit_s: float | None = None,
        commands: Mapping[str, Sequence[str]] | None = None,
        make: Callable[..., MadeGraph] = make_graph,
        cancelled: threading.Event | None = None,
    ) -> None:
        twice = {host.address for host in hosts if [other.address for other in hosts].count(host.address) > 1}
        if twice:
            raise UsageError("each host must be named once", got=", ".join(sorted(twice)))
        self.hosts, self._make = tuple(hosts), make
        self._stack = ExitStack()
        self.connections: dict[str, HostConnection] = {}
        try:
            for host in hosts:
                self._stack.enter_context(host.lock())
                connection = HostConnection(
                    (commands or {}).get(host.address) or host.command(),
                    Hello(code=code_digest(), campaign=secrets.token_hex(16), owner=_owner(), limit_s=limit_s),
                    send_code=host.agent == "sent",
                    host=host.address,
                    limits=limits,
                    on_message=on_message,
                    cancelled=cancelled,
                )
                self._stack.callback(connection.close)
                self.connections[host.address] = connection
                for device in connection.welcome.machine.devices:
                    require_file_name(device.name, what=f"a device of {host.address}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RemoteHosts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interrupt(self) -> None:
        """End what is measured, from any thread, for good."""
        for connection in self.connections.values():
            connection.interrupt()

    def close(self) -> None:
        """End all agents."""
        self._stack.close()

    @property
    def welcomes(self) -> list[Welcome]:
        """The descriptions that the agents gave of their machines."""
        return [connection.welcome for connection in self.connections.values()]

    def environment(self, *, among: "Sequence[RemoteHosts]" = (), keeps_apart: bool = False) -> "HostEnvironment":
        """Return the environment of a campaign on these hosts, and on those of others.

        Raises:
            InputError: Two hosts differ in their devices, system or versions.
        """
        everyone = [*self.connections.items(), *(item for other in among for item in other.connections.items())]
        by_address = {host.address: host for other in (self, *among) for host in other.hosts}
        (address, connection), *others = everyone
        first, here = connection.welcome, environment()
        for other_address, other in others:
            different = differences(first, other.welcome)
            if different:
                message = f"the hosts of one campaign must be equal, {address} and {other_address} too"
                hint = "a fleet file, in which hosts may differ, or one command for each of them"
                raise InputError(message, got="; ".join(different), hint=hint)
        software = replace(
            first.software, commit=here.commit, modified=here.modified, commit_problem=here.commit_problem
        )
        return HostEnvironment(
            machine=first.machine,
            software=software,
            start=lambda gpu: RemoteMeasurer(connection, slot=0, gpu=gpu, make=self._make),
            make=self._make,
            hosts=tuple((by_address[name], item) for name, item in everyone),
            exporter=here,
            keeps_apart=keeps_apart,
        )


def equality_key(welcome: Welcome, runtime: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return all facts about a host that must be equal for rows of one profile, as far as they are known beforehand.

    Args:
        welcome: What its agent said.
        runtime: A runtime; None: any.
    """
    software, machine = welcome.software, welcome.machine
    facts = {
        "devices": ", ".join(device.name for device in machine.devices),
        "cpu": machine.cpu.model,
        "drivers": ", ".join(sorted({gpu.driver for gpu in machine.gpus})),
        "system": f"{software.system} {software.release} {software.machine}",
        "python": software.python,
    }
    unused = _EXPORTERS if runtime is not None and not runtime.startswith("torch") else ()
    versions = dict(entry.split("==", 1) for entry in software.packages if "==" in entry)
    facts |= {name: versions[name] for name in PACKAGES if name in versions and name not in unused}
    return tuple(facts.items())


def differences(first: Welcome, second: Welcome) -> list[str]:
    """Return what differs between two hosts, but for packages that only make graphs."""
    one, two = (dict(equality_key(welcome, "any")) for welcome in (first, second))
    names = dict.fromkeys((*one, *two))
    return [
        f"{name} {printable(one.get(name, 'none'), limit=100)} and {printable(two.get(name, 'none'), limit=100)}"
        for name in names
        if one.get(name) != two.get(name)
    ]


@dataclass(frozen=True, kw_only=True)
class HostEnvironment(CampaignEnvironment):
    """Machine, packages and workers of hosts."""

    hosts: tuple[tuple[Host, HostConnection], ...]
    exporter: Environment
    """Software of this machine, which makes the graphs."""
    make: Callable[..., MadeGraph] = make_graph

    @property
    def find_runner(self) -> Callable[[str], RuntimeChecks]:
        """Returns what can be asked about a runtime there."""
        return partial(RemoteRunner, self.hosts[0][1])

    def worker_pairs(self, gpus: Sequence[str | None]) -> list[WorkerPair]:
        """Return a pair of workers for each host, on the first GPU there of the device."""
        wanted = next((gpu.device.name for gpu in self.machine.gpus if gpu.uuid == gpus[0]), None)
        pairs = []
        for host, connection in self.hosts:
            slots = count()
            gpu = next((gpu.uuid for gpu in connection.welcome.machine.gpus if gpu.device.name == wanted), None)
            start = partial(_start, connection, slots, gpu, self.make)
            pairs.append(WorkerPair(start, gpu=gpu, host=host.name))
        return pairs

    def software_for(self, runtime: str) -> Environment:
        """Return the packages there, but those that make graphs from here unless networks are built there."""
        if runtime.startswith("torch"):
            return self.software
        there = [entry for entry in self.software.packages if entry.partition("==")[0] not in (*_EXPORTERS, "triton")]
        here = [entry for entry in self.exporter.packages if entry.partition("==")[0] in _EXPORTERS]
        return replace(self.software, packages=tuple(sorted((*there, *here))))


def _start(
    connection: HostConnection, slots: "count[int]", gpu: str | None, make: Callable[..., MadeGraph]
) -> Measurer:
    return RemoteMeasurer(connection, slot=next(slots), gpu=gpu, make=make)


def _owner() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


def parse_hosts(text: str, *, python: str = "python3") -> tuple[Host, ...]:
    """Parse the hosts of `--on`: `user@host[,host2]`.

    Raises:
        UsageError: A host is not named as ssh names it, or twice.
    """
    return tuple(Host(address=part.strip(), python=python) for part in text.split(","))
