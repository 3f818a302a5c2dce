"""Hosts without ssh: agents at the other end of a pipe, and a program that stands in for a worker process."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwnas.profile.agent_code import bootstrap
from hwnas.profile.made_graphs import MadeGraph
from hwnas.profile.options import CampaignOptions
from hwnas.profile.remote.connection import ConnectionLimits
from hwnas.profile.remote.host import Host, RemoteHosts
from hwnas.profile.worker_messages import GraphFiles
from hwnas.records import Setting, Subject

QUICK = ConnectionLimits(start_s=120, silence_s=60, retry_s=(0.05,), give_up_s=0.5)

ROOT = Path(__file__).parents[3]

SIMULATED = """
import os, secrets, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from hwnas.profile.remote import agent as _agent
from tests.profile.stand_ins import FakeWorker
_log = Path({log!r})
class _Simulated(FakeWorker):
    def __init__(self, **options):
        super().__init__(process_id=secrets.token_hex(6))
    def measure(self, task, *, excluded_processes=()):
        with _log.open("a") as file:
            file.write(task.subject.network_id + "\\n")
        number = len(_log.read_text().splitlines())
        {then}
        return super().measure(task, excluded_processes=excluded_processes)
_agent.Worker = _Simulated
"""
"""Lines that replace the worker processes of an agent by one that measures at once and writes down what."""


def options(out: Path, **changes: Any) -> CampaignOptions:
    """A campaign of eight networks, three of them measured twice."""
    values = {"space": "autoformer-micro", "samples": 8, "repeats": 3, "runtime": "onnxruntime", "pairs": 8}
    return CampaignOptions(**{**values, "reference_networks": False, "out": out, **changes})


def agent_command(before: str = "", *, cache: Path | None = None) -> tuple[str, ...]:
    """The command of an agent whose code is sent, after some lines of Python.

    Args:
        before: The lines.
        cache: Cache of its machine; None: that of the tests.
    """
    machine = "" if cache is None else f"import os\nos.environ['HWNAS_CACHE'] = {str(cache)!r}\n"
    return (sys.executable, "-c", f"{machine}{before}\n{bootstrap()}")


def simulated(log: Path, *, then: str = "pass") -> tuple[str, ...]:
    """The command of an agent that measures at once.

    Args:
        log: File that gets a line for each measurement.
        then: Statement that is run for each measurement, of which `number` is the number.
    """
    lines = SIMULATED.format(root=str(ROOT), log=str(log), then=then)
    return agent_command(lines, cache=log.with_suffix(".cache"))


def made(subject: Subject, setting: Setting, *, seed: int) -> MadeGraph:
    """What stands in for a graph."""
    contents = {name: f"{name} of {subject.network_id} {seed}".encode() for name in ("graph", "images", "expected")}
    names = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    payloads = {names[name]: data for name, data in contents.items()}
    return MadeGraph(files=GraphFiles(**names, tolerance=1e-4), payloads=payloads, duration_s=0.25)


def pipes(commands: Mapping[str, Sequence[str]], **changes: Any) -> RemoteHosts:
    """Hosts whose agents are at the other end of pipes."""
    hosts = [Host(address=name) for name in commands]
    return RemoteHosts(hosts, **{"commands": commands, "limits": QUICK, "make": made, **changes})
