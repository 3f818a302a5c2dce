"""Campaigns on other machines, which are agents at the other end of a pipe."""

import io
import json
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwnas.devices import DEVICES, Gpu, Machine, detect
from hwnas.errors import HwnasError, InputError, MissingError, UsageError
from hwnas.metrics import Deployment
from hwnas.pipeline.measure import MeasureResult, measure
from hwnas.profile.agent_code import code_digest
from hwnas.profile.remote import agent, connection, host
from hwnas.profile.remote.connection import ConnectionLimits, HostConnection
from hwnas.profile.remote.host import Host, HostEnvironment, RemoteHosts, parse_hosts
from hwnas.profile.remote.protocol import Hello
from hwnas.profile.worker_process import GIVEN_GRAPHS
from hwnas.records import Measurement, Setting, load_profile
from hwnas.runs import environment as environment_here
from tests.profile.remote.pipes import QUICK, ROOT, agent_command, options, pipes, simulated


@pytest.fixture(autouse=True)
def own_cache_of_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))


def rows(result: MeasureResult) -> tuple[Measurement, ...]:
    (profile,) = result.profiles
    return load_profile(profile.path).measurements


def counts(result: MeasureResult) -> list[int]:
    """How often each network was measured."""
    return sorted(Counter(row.subject.network_id for row in rows(result)).values())


def run(hosts: RemoteHosts, out: Path, **changes: Any) -> MeasureResult:
    return measure(options(out, **changes), campaign_environment=hosts.environment())


ALL = [1] * 5 + [2] * 3


def test_a_campaign_on_another_machine_has_the_rows_of_one_here(tmp_path: Path) -> None:
    with pipes({"ann@nano1": simulated(tmp_path / "log")}) as hosts:
        result = run(hosts, tmp_path / "out")
    assert counts(result) == ALL
    found = rows(result)
    assert {row.host for row in found} == {"nano1"}
    assert all(row.export_s is None for row in found)  # the stand-in reports none
    by_network = {row.subject.network_id: set() for row in found}  # type: dict[str, set[str]]
    for row in found:
        by_network[row.subject.network_id].add(row.process_id)
    assert sorted(map(len, by_network.values())) == ALL  # a repeat is measured by another process
    environment = load_profile(result.profiles[0].path).manifest.environment
    assert environment["onnxruntime.graphs"] == "made on another machine"
    assert environment["torch"]
    assert environment["onnxruntime.torch"]
    assert result.profiles[0].quality.hosts == ("nano1",)


def test_equal_hosts_share_the_networks(tmp_path: Path) -> None:
    logs = {name: tmp_path / name for name in ("nano1", "nano2")}
    with pipes({name: simulated(log) for name, log in logs.items()}) as hosts:
        result = run(hosts, tmp_path / "out")
    assert counts(result) == ALL
    by_host = Counter(row.host for row in rows(result))
    assert set(by_host) == {"nano1", "nano2"}
    assert by_host == {name: len(log.read_text().splitlines()) for name, log in logs.items()}


def test_a_lost_connection_costs_nothing_that_was_measured(tmp_path: Path) -> None:
    messages: list[str] = []
    log = tmp_path / "log"
    command = simulated(log, then="os._exit(9) if number in (3, 7) else None")
    with pipes({"nano1": command}, on_message=messages.append) as hosts:
        result = run(hosts, tmp_path / "out")
    assert counts(result) == ALL
    assert len(log.read_text().splitlines()) == sum(ALL) + 2  # only what was being measured
    assert sum("connected again" in text for text in messages) == 2


def test_a_time_limit_also_holds_after_a_lost_connection(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    program, option, text = simulated(tmp_path / "log", then="os._exit(9) if number == 2 else None")
    note = f"Path({str(noted)!r}).open('a').write(str(options['limits'].task_s) + ' ')"
    text = text.replace("_agent.Worker = _Simulated", f"_agent.Worker = lambda **options: ({note}, _Simulated())[1]")
    with pipes({"nano1": (program, option, text)}, limit_s=77.0) as hosts:
        assert counts(run(hosts, tmp_path / "out")) == ALL
    assert noted.read_text().split() == ["77.0"] * 3  # one before, and two after: for first measurements and repeats


SILENT = """
import sys
sys.path.insert(0, {root!r})
from hwnas.profile.remote import agent as _agent
_agent.HEARTBEAT_S = 0.05
"""
NEVER = "import time; _agent.Agent._answer = lambda agent, message: time.sleep(600)"


@pytest.mark.parametrize("what", ["an upload", "an answer", "a new connection"])
def test_an_interrupt_ends_what_waits_for_a_host(tmp_path: Path, what: str) -> None:
    flag = tmp_path / "flag"
    reads = {
        "an upload": "import time; _agent.Agent._read = lambda agent, requests: time.sleep(600)",
        "an answer": NEVER,
        "a new connection": "import os; _agent.Agent._answer = lambda agent, message: os._exit(9)",
    }
    begin = f"import os, time\nos.path.exists({str(flag)!r}) and time.sleep(600)\nopen({str(flag)!r}, 'w').close()\n"
    program = (begin if what == "a new connection" else "") + SILENT.format(root=str(ROOT)) + reads[what]
    connected = connect(agent_command(program))
    problems: list[HwnasError] = []

    def ask() -> None:
        try:
            connected.request({"payload": True}, {"a" * 64: bytes(1 << 22)} if what == "an upload" else None)
        except HwnasError as error:
            problems.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(0.5)  # it waits
    assert thread.is_alive()
    connected.interrupt()
    thread.join(30)
    assert not thread.is_alive()
    assert [error.message for error in problems] == ["the connection to nano1 was ended"]
    connected.close()


def test_an_agent_that_never_answers_is_given_up(tmp_path: Path) -> None:
    program = SILENT.format(root=str(ROOT)) + NEVER
    connected = connect(agent_command(program), limits=replace(QUICK, answer_s=0.1))
    with pytest.raises(InputError, match="nano1 must answer within 0 s"):
        connected.request({"payload": True})
    with pytest.raises(InputError, match="must be open"):  # a late answer would be taken for that of this request
        connected.request({"payload": True})
    connected.close()


def test_a_process_that_a_library_forks_holds_up_no_agent(tmp_path: Path) -> None:
    forks = """
import multiprocessing, os, time
def _answer(agent, message):
    if os.fork() == 0:
        time.sleep(15)
        os._exit(0)
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join(10)
    return {"code": process.exitcode}
_agent.Agent._answer = _answer
"""
    command = agent_command(SILENT.format(root=str(ROOT)) + "_agent._TAKEOVER_S = 0.5\n" + forks)
    connected = connect(command)
    assert connected.request({"payload": True}) == {"code": 0}
    connected.close()
    connect(command, campaign="c" * 32).close()  # the process that is left has the lock's file, but not the lock


def test_an_agent_has_a_worker_for_each_gpu_and_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str | None, bool]] = []
    closed: list[int] = []

    class Noted:
        def __init__(self, *, limits: object, command: tuple[str, ...], gpu: str | None) -> None:
            self.number = len(started)
            started.append((gpu, GIVEN_GRAPHS in command))

        def close(self) -> None:
            closed.append(self.number)

    monkeypatch.setattr(agent, "Worker", Noted)
    one = agent.Agent(tmp_path, agent.Channel(io.BytesIO()), agent.LastAnswer(tmp_path / "last"))
    graphs = Setting(deployment=Deployment(device="d", runtime="onnxruntime", precision="fp32", batch=1, threads=1))
    larger = replace(graphs, deployment=replace(graphs.deployment, batch=8))
    built = replace(graphs, deployment=replace(graphs.deployment, runtime="torch-eager"))
    uses = [(0, None, graphs), (0, None, larger), (1, None, graphs), (0, "GPU-a", graphs), (0, "GPU-a", built)]
    workers = [one._worker(*use) for use in uses]
    assert workers[0] is workers[1]
    assert started == [(None, True), (None, True), ("GPU-a", True), ("GPU-a", False)]
    assert closed == [0, 2]
    one.close()
    assert sorted(closed) == [0, 1, 2, 3]


def test_each_of_several_hosts_measures_on_its_own_gpu() -> None:
    def machine(host: str) -> Machine:
        shared: dict[str, Any] = {"driver": "1", "memory_bytes": None}
        gpus = [
            Gpu(index=index, reported=name, uuid=f"GPU-{host}{index}", device=DEVICES.get(name), **shared)
            for index, name in enumerate(("t4", "a100"))
        ]
        return replace(detect(), gpus=tuple(gpus))

    names = ("one", "two")
    connections: list[Any] = [SimpleNamespace(welcome=SimpleNamespace(machine=machine(name))) for name in names]
    environment = HostEnvironment(
        machine=machine("one"),
        software=environment_here(),
        start=lambda gpu: pytest.fail("not here"),
        hosts=tuple((Host(address=name), item) for name, item in zip(names, connections, strict=True)),
        exporter=environment_here(),
    )
    assert [pair.gpu for pair in environment.worker_pairs(["GPU-one1"])] == ["GPU-one1", "GPU-two1"]
    assert [pair.gpu for pair in environment.worker_pairs([None])] == [None, None]


def test_a_result_that_was_not_delivered_is_not_measured_again(tmp_path: Path) -> None:
    log, flag = tmp_path / "log", tmp_path / "flag"
    lose = f"""
_write = _agent.LastAnswer.write
def _and_die(last, answer):
    _write(last, answer)
    number = len(_log.read_text().splitlines())
    if number == 4 and not Path({str(flag)!r}).exists():
        Path({str(flag)!r}).touch()
        os._exit(9)
_agent.LastAnswer.write = _and_die
"""
    program, option, text = simulated(log)
    with pipes(
        {"nano1": (program, option, text.replace("_agent.Worker = _Simulated", "_agent.Worker = _Simulated" + lose))}
    ) as hosts:
        result = run(hosts, tmp_path / "out")
    assert flag.exists()
    assert counts(result) == ALL
    assert len(log.read_text().splitlines()) == sum(ALL)


def test_a_host_that_disappears_leaves_its_networks_to_the_others(tmp_path: Path) -> None:
    messages: list[str] = []
    gone = tmp_path / "gone"
    dies = simulated(tmp_path / "log1", then=f"number == 2 and (Path({str(gone)!r}).touch(), os._exit(9))")
    program, option, text = dies
    dies = (program, option, f"import os, sys\nos.path.exists({str(gone)!r}) and sys.exit('no route to host')\n{text}")
    with pipes({"nano1": dies, "nano2": simulated(tmp_path / "log2")}, on_message=messages.append) as hosts:
        environment = hosts.environment()
        result = measure(options(tmp_path / "out"), campaign_environment=environment)
    assert counts(result) == ALL
    assert Counter(row.host for row in rows(result))["nano1"] == 1


def test_a_host_that_is_gone_ends_a_campaign_that_can_be_resumed(tmp_path: Path) -> None:
    gone, log = tmp_path / "gone", tmp_path / "log"
    program, option, text = simulated(log, then=f"number == 4 and (Path({str(gone)!r}).touch(), os._exit(9))")
    text = f"import os, sys\nos.path.exists({str(gone)!r}) and sys.exit('no route to host')\n{text}"
    with pipes({"nano1": (program, option, text)}) as hosts, pytest.raises(InputError, match="nano1 is gone") as caught:
        run(hosts, tmp_path / "out")
    assert "no route to host" in str(caught.value.got)
    assert "the same command resumes" in str(caught.value.hint)
    with pipes({"nano1": simulated(log)}) as hosts:
        result = run(hosts, tmp_path / "out")
    assert counts(result) == ALL
    assert (result.num_skipped, result.num_measured) == (3, sum(ALL) - 3)


def test_hosts_that_differ_are_not_mixed(tmp_path: Path) -> None:
    other = "import platform\nplatform.release = lambda: '1.0'\n"
    commands = {"nano1": agent_command(), "nano2": agent_command(other, cache=tmp_path / "nano2")}
    with pipes(commands) as hosts, pytest.raises(InputError, match="must be equal, nano1 and nano2 too") as caught:
        hosts.environment()
    assert "1.0" in str(caught.value.got)
    assert "fleet" in str(caught.value.hint)


def test_a_host_that_changed_while_it_was_away_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program, option, text = simulated(log, then="os._exit(9) if number == 2 else None")
    new = f"import os, platform\nif os.path.exists({str(log)!r}): platform.release = lambda: '2.0'\n{text}"
    with (
        pipes({"nano1": (program, option, new)}) as hosts,
        pytest.raises(InputError, match="must stay the same machine"),
    ):
        run(hosts, tmp_path / "out")


def test_two_campaigns_of_one_user_for_a_host_are_refused(tmp_path: Path) -> None:
    command = agent_command()
    with (
        pipes({"ann@nano1": command}),
        pytest.raises(InputError, match="ann@nano1 is being measured by another campaign"),
    ):
        pipes({"ann@nano1": command})


def connect(
    command: tuple[str, ...],
    *,
    campaign: str = "b" * 32,
    code: str | None = None,
    send: bool = True,
    limits: ConnectionLimits = QUICK,
) -> HostConnection:
    hello = Hello(code=code or code_digest(), campaign=campaign, owner="bob@desk")
    return HostConnection(command, hello, send_code=send, host="nano1", limits=limits)


def test_a_campaign_of_somebody_else_is_named(tmp_path: Path) -> None:
    impatient = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
    impatient += "from hwnas.profile.remote import agent\nagent._TAKEOVER_S = 0.1\n"
    with (
        pipes({"ann@nano1": agent_command()}),
        pytest.raises(InputError, match="another campaign measures there") as caught,
    ):
        connect(agent_command(impatient))
    assert f"{host._owner()} since" in str(caught.value.got)
    assert caught.value.hint == "wait until it has ended"
    connect(agent_command(impatient)).close()  # the host is free again


def test_another_version_there_is_refused() -> None:
    installed = (sys.executable, "-c", "from hwnas.profile.remote.agent import main; main()")
    connect(installed, send=False).close()
    with pytest.raises(InputError, match="another version of hwnas is installed there") as caught:
        connect(installed, code="0" * 64, send=False)
    assert "install the same version" in str(caught.value.hint)


def test_a_host_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="file/agent cannot be written there") as caught:
        connect(agent_command())
    assert "free some space there" in str(caught.value.hint)


def test_a_host_without_numpy_is_named() -> None:
    without = "import sys\nsys.modules['numpy'] = None\n"
    with pytest.raises(MissingError, match="the agent needs numpy there") as caught:
        connect(agent_command(without))
    assert "--remote-python" in str(caught.value.hint)


READY = 'print(\'{"hwnas_agent": "hwnas.agent/1", "ready": true}\', flush=True); '


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("import sys; sys.exit('Permission denied (publickey).')", "must be reachable by ssh"),
        ("print(('x' * 99 + '\\n') * 1000)", "must start the agent"),
        ('print(\'{"hwnas_agent": "hwnas.agent/9"}\')', "must be of the same version"),
        (READY + 'input(); print(\'{"hwnas_agent": "hwnas.agent/1", "welcome": {}}\')', "nano1: welcome"),
    ],
)
def test_what_is_no_agent_is_refused(program: str, problem: str) -> None:
    with pytest.raises(HwnasError, match=problem):
        connect((sys.executable, "-c", program), send=False)


def test_a_program_that_cannot_start_is_named() -> None:
    with pytest.raises(MissingError, match="must be able to start, to connect to nano1") as caught:
        connect(("/does/not/exist",))
    assert "HWNAS_SSH" in str(caught.value.hint)


TIMES = {"wall_ns": [10] * 8, "cpu_ns": [10] * 8, "switches": [0] * 8}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"samples": {**TIMES, "wall_ns": [-1] * 8}}, "the time of a run must be between"),
        ({"samples": None}, "must have samples"),
        ({"process_id": "../../x"}, "hexadecimal digits"),
        ({"subject": {}}, "subject"),
        ({"started_utc": "yesterday"}, "must be a time"),
    ],
)
def test_a_row_from_a_host_is_checked_like_one_of_a_file(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    row = {"process_id": "ab", "started_utc": "2026-01-02T03:04:05+00:00", "duration_s": 1.0}
    answer = {"key": "", "result": {**row, "samples": TIMES, "reference": TIMES, **change}}
    lie = f"import json\n_agent.Agent._measure = lambda agent, message, slot, gpu: json.loads({json.dumps(answer)!r})\n"
    program, option, text = simulated(tmp_path / "log")
    text = text.replace("_agent.Worker = _Simulated\n", f"_agent.Worker = _Simulated\n{lie}")
    with pipes({"nano1": (program, option, text)}) as hosts, pytest.raises(InputError, match=problem):
        run(hosts, tmp_path / "out")


def test_a_device_whose_name_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    lie = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\nfrom hwnas.devices import cpu\n"
    lie += "cpu.slug = lambda facts, num_cores: '../../outside'\n"
    with pytest.raises(InputError, match="a device of nano1 must have"):
        pipes({"nano1": agent_command(lie)})


@pytest.mark.parametrize("text", ["-oProxyCommand=x", "a b", "", "nano1,,nano2", "x;reboot", "u@-x", "$(id)"])
def test_a_name_that_ssh_would_take_for_something_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be named as ssh names it"):
        parse_hosts(text)


def test_hosts_are_named_as_in_ssh() -> None:
    hosts = parse_hosts("ann@nano1.lab,10.0.0.7,bob@[fe80::1%eth0]")
    assert [item.name for item in hosts] == ["nano1.lab", "10.0.0.7", "_fe80__1_eth0_"]
    command = hosts[0].command({"HWNAS_SSH": "ssh -F 'my config'"})
    assert command[:3] == ("ssh", "-F", "my config")
    assert command[-2] == "ann@nano1.lab"
    assert Host(address="x", agent="installed").command({})[-1] == "hwnas agent"
    assert connection.ConnectionLimits().silence_s > 10
