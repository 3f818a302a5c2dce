"""Campaigns over a fleet, whose agents are at the other end of pipes."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import CheckFailedError, InputError
from hwnas.pipeline.measure_fleet import FleetResult, measure_fleet
from hwnas.profile.remote.fleet import Fleet, FleetHost
from hwnas.profile.remote.host import Host, RemoteHosts
from hwnas.progress import NullReporter
from hwnas.records import load_profile
from tests.profile.remote.pipes import QUICK, made, options, simulated


@pytest.fixture(autouse=True)
def own_cache_of_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))


def over_pipes(commands: Mapping[str, Sequence[str]]) -> Callable[..., RemoteHosts]:
    def connect(hosts: Sequence[Host], **changes: Any) -> RemoteHosts:
        return RemoteHosts(hosts, **{**changes, "commands": commands, "limits": QUICK, "make": made})

    return connect


def fleet(*names: str) -> Fleet:
    return Fleet(hosts=tuple(FleetHost(address=name, runtimes=("onnxruntime",)) for name in names))


def counts(result: FleetResult) -> list[int]:
    (campaign,) = result.campaigns
    rows = load_profile(campaign.profiles[0].path).measurements
    return sorted(Counter(row.subject.network_id for row in rows).values())


ALL = [1] * 5 + [2] * 3


def test_equal_hosts_of_a_fleet_share_a_campaign(tmp_path: Path) -> None:
    commands = {name: simulated(tmp_path / name) for name in ("one", "two")}
    result = measure_fleet(fleet("one", "two"), options(tmp_path / "out"), connect=over_pipes(commands))
    assert counts(result) == ALL
    assert [(row.host, row.runtime, row.state) for row in result.rows] == [
        ("one", "onnxruntime", "done"),
        ("two", "onnxruntime", "done"),
    ]
    assert sum(row.num_measured for row in result.rows) == sum(ALL)
    assert min(row.num_measured for row in result.rows) > 0
    result.require_complete()


def test_a_fleet_goes_on_without_hosts_that_are_gone_and_is_resumed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    program, option, text = simulated(
        tmp_path / "two", then=f"number == 2 and (Path({str(gone)!r}).touch(), os._exit(9))"
    )
    leaves = (program, option, f"import os, sys\nos.path.exists({str(gone)!r}) and sys.exit('no route')\n{text}")
    never = (program, option, "import sys; sys.exit('Permission denied (publickey).')")
    commands = {"one": simulated(tmp_path / "one"), "two": leaves, "three": never}
    messages: list[str] = []

    class Notes(NullReporter):
        def message(self, text: str) -> None:
            messages.append(text)

    hosts, campaign = fleet("one", "two", "three"), options(tmp_path / "out")
    result = measure_fleet(hosts, campaign, reporter=Notes(), connect=over_pipes(commands))
    assert counts(result) == ALL
    states = {row.host: row.state for row in result.rows}
    assert states["one"] == "done"
    assert "two is gone" in states["two"]
    assert any("two is gone" in text for text in messages)
    assert "Permission denied" in states["three"]
    with pytest.raises(CheckFailedError, match="every host of the fleet must measure"):
        result.require_complete()
    again = measure_fleet(fleet("one"), campaign, connect=over_pipes(commands))
    assert [(item.num_measured, item.num_skipped) for item in again.campaigns] == [(0, sum(ALL))]


def dies(log: Path, runtime: str) -> tuple[str, ...]:
    """The command of an agent that ends for good when it measures with a runtime."""
    gone = str(log.with_suffix(".gone"))
    program, option, text = simulated(
        log, then=f"task.setting.runtime == {runtime!r} and (Path({gone!r}).touch(), os._exit(9))"
    )
    return program, option, f"import os, sys\nos.path.exists({gone!r}) and sys.exit('no route')\n{text}"


def test_a_host_that_is_gone_has_completed_what_it_measured_before(tmp_path: Path) -> None:
    first, second = runtimes = ("onnxruntime", "openvino")
    commands = {"one": dies(tmp_path / "one", second), "two": dies(tmp_path / "two", first)}
    commands["three"] = simulated(tmp_path / "three")
    hosts = Fleet(hosts=tuple(FleetHost(address=name, runtimes=runtimes) for name in commands))
    campaign = options(tmp_path / "out", samples=4, repeats=0)
    result = measure_fleet(hosts, campaign, connect=over_pipes(commands))
    states = {(row.host, row.runtime): row.state.partition(":")[0] for row in result.rows}
    assert states == {
        ("one", first): "done",
        ("one", second): "one is gone",
        **dict.fromkeys((("two", first), ("two", second)), "two is gone"),
        **dict.fromkeys((("three", first), ("three", second)), "done"),
    }


def test_an_interrupt_ends_the_attempts_to_connect(tmp_path: Path) -> None:
    noticed: list[bool] = []

    def connect(hosts: Sequence[Host], *, cancelled: threading.Event, **options: object) -> RemoteHosts:
        if hosts[0].address == "two":
            raise KeyboardInterrupt
        noticed.append(cancelled.wait(60))
        raise InputError("it was ended")

    with pytest.raises(KeyboardInterrupt):
        measure_fleet(fleet("two", "one"), options(tmp_path / "out"), connect=connect)
    assert noticed == [True]
