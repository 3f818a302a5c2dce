import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_day import GPU_TESTS, STEPS, main
from benchmarks.support.day import CHECKLIST, ROOT, Day, DayState, MachineFacts, Step, StepResult, print_facts, tick
from benchmarks.support.limits import error_over_floor, near_the_floor, not_slower_than_naive
from hwnas.cli.app import COMMANDS
from hwnas.cli.group import load
from hwnas.config import from_mapping, load_json, to_mapping

GPU = MachineFacts(device="h200", gpu=True, runtimes={"torch": "", "tensorrt": "it is not installed"})
NO_GPU = MachineFacts(device="toy-2c", gpu=False, runtimes={"torch": ""})

BLOCKER = """
import sys
from importlib.machinery import PathFinder

class Blocker(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        blocked = ("moocore", "openvino", "plotly", "pymoo", "tensorrt", "tensorrt_rtx", "tomli_w", "xgboost")
        return None if name.partition(".")[0] in blocked else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Blocker if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""A `sitecustomize` with which Python has no more packages than a machine that is lent with a GPU."""


def step(name: str, code: str, **changes: Any) -> Step:
    command = f"python -c {shlex.quote(code)}"
    return Step(**{"name": name, "command": command, "micro": command, "shows": r"figure (\d+)", **changes})


class Clocked:
    """A day in a folder, and what it says."""

    def __init__(self, out: Path, facts: MachineFacts = GPU, *, rehearse: bool = False) -> None:
        self.lines: list[str] = []
        self.day = Day(out, facts, rehearse=rehearse, say=self.lines.append)

    def statuses(self) -> dict[str, str]:
        state = from_mapping(DayState, load_json(self.day.out / "state.json"))
        return {name: result.status for name, result in state.results.items()}


def test_a_step_that_fails_is_recorded_and_the_next_goes_on_and_what_is_done_is_not_repeated(tmp_path: Path) -> None:
    steps = [
        step("broken", "print('error: no way'); raise SystemExit(3)"),
        step("silent", "print('nothing of note')"),
        step("good", "print('figure 41'); print('figure 42')"),
        step("absent", "print('figure 1')", needs=("no_such_module", "runtime:tensorrt", "file:profiles/*")),
    ]
    first = Clocked(tmp_path)
    assert not first.day.run(steps, minutes=10)
    assert first.statuses() == {"broken": "failed", "silent": "failed", "good": "done", "absent": "skipped"}
    assert first.lines[2].startswith("good: done in ")
    assert first.lines[2].endswith("(41, 42)")
    assert first.lines[0].endswith("(exit code 3, error: no way)")
    assert first.lines[1].endswith("(exit code 0, nothing of note)")
    assert first.lines[3] == (
        "absent: skipped, no_such_module is not installed; tensorrt: it is not installed; there is no profiles/* yet"
    )
    assert "| good | done |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "logs" / "good.log").read_text() == "figure 41\nfigure 42\n"

    mended = [replace(steps[0], command=steps[2].command), *steps[1:3], step("new", "print('figure 5')")]
    again = Clocked(tmp_path)
    assert not again.day.run(mended, minutes=10)
    assert [line.split(":")[0] for line in again.lines] == ["new", "broken", "silent", "good"]
    assert again.lines[-1] == "good: done before (41, 42)"
    assert again.day.state.results["good"].command == shlex.join(
        ["python", "-c", "print('figure 41'); print('figure 42')"]
    )
    assert again.day.state.results["broken"].attempts == 2


def test_a_step_is_ended_with_all_that_it_started_when_its_time_is_up(tmp_path: Path) -> None:
    code = "import subprocess, sys, time; print('figure 7', flush=True); subprocess.run(['sleep', '600'])"
    clock = iter([0.0, 5.0, 10.0, 60.0, 600.0, 600.0])
    day = Day(tmp_path, GPU, rehearse=False, say=lambda text: None, clock=lambda: next(clock))
    begin = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.support.day._MARGIN_S", 1.0)
        assert not day.run([step("slow", code, minutes=0.001), step("late", "print('figure 1')")], minutes=1)
    assert time.monotonic() - begin < 15
    assert day.state.results["slow"].status == "timed out"
    assert day.state.results["slow"].figure.startswith("7; no end after ")
    assert "late" not in day.state.results


def test_what_a_machine_lacks_is_done_where_it_is_there(tmp_path: Path) -> None:
    on_gpu = step("campaign", "print('figure 1')", needs=("gpu",))
    fit = step("fit", "print('figure 2'); print('{device}')", needs=("xgboost",))
    lent = Clocked(tmp_path)
    assert lent.day.run([on_gpu, replace(fit, needs=("no_such_module",))], minutes=10)
    home = Clocked(tmp_path, NO_GPU)
    assert home.day.run([on_gpu, fit], minutes=10)
    assert home.statuses() == {"campaign": "done", "fit": "done"}
    assert (tmp_path / "logs" / "fit.log").read_text() == "figure 2\nh200\n"
    with pytest.raises(SystemExit, match="holds a day of h200, and this machine has l4"):
        Clocked(tmp_path, replace(GPU, device="l4"))


def test_lines_are_ticked_when_all_of_their_steps_are_done() -> None:
    text = "# List\n\n- [ ] One thing:\n  in two lines.\n- [ ] Another\n"
    steps = [step("a", "", ticks="One thing"), step("b", "", ticks="One thing"), step("c", "", ticks="Another")]
    done = StepResult(status="done", figure="3 ms", started_utc="2026-11-29T01:02:03+00:00", commit="0123456789abcdef")
    part = DayState(device="h200", results={"a": done, "b": replace(done, status="failed"), "c": done})
    assert tick(text, steps, part).splitlines()[2:] == [
        "- [ ] One thing:",
        "  in two lines.",
        "- [x] Another",
        "  *2026-11-29, h200, 0123456789ab: c: 3 ms.*",
    ]
    whole = replace(part, results={**part.results, "b": done})
    assert tick(text, steps, whole).splitlines()[4] == "  *2026-11-29, h200, 0123456789ab: a: 3 ms; b: 3 ms.*"


def test_a_figure_beyond_its_limit_is_told_and_leaves_its_line_as_it_is(tmp_path: Path) -> None:
    def beyond(text: str, results: Any) -> str:
        return f"{text.strip()} > {len(results)}"

    slow = step("slow", "print('figure 7')", limit=beyond, ticks="`pytest -m gpu`")
    limited = Clocked(tmp_path / "day")
    assert limited.day.run([step("first", "print('figure 1')"), slow], minutes=10)
    assert limited.lines[1].endswith("(7; ran, but figure 7 > 1)")
    assert "| slow | done |" in (tmp_path / "day" / "results.md").read_text()
    assert "[x]" not in (tmp_path / "day" / CHECKLIST.name).read_text()
    within = Clocked(tmp_path / "within")
    assert within.day.run([replace(slow, limit=lambda text, results: "")], minutes=10)
    assert (tmp_path / "within" / CHECKLIST.name).read_text().count("[x]") == 1
    rehearsed = Clocked(tmp_path / "rehearsed", rehearse=True)
    assert rehearsed.day.run([slow], minutes=10)
    assert rehearsed.lines[0].endswith("(7)")
    assert "[x]" not in (tmp_path / "rehearsed" / CHECKLIST.name).read_text()


def test_a_tick_names_the_command_where_it_is_not_that_of_the_line() -> None:
    text = "- [ ] Floor: `hwnas profile --space a --device auto\n  --samples 120` and more\n"
    done = StepResult(status="done", figure="1%", started_utc="2026-11-29", command="hwnas profile --samples 120")
    steps = [step("a", "", ticks="Floor")]

    def ticked(command: str) -> str:
        state = DayState(device="h200", results={"a": replace(done, command=command)})
        return tick(text, steps, state).splitlines()[-1]

    assert ticked("hwnas profile --device h200 --samples 120 --space a").endswith(": a: 1%.*")
    other = "hwnas profile --device h200 --minutes 2 --space a"
    assert ticked(other).endswith(f": a: 1% by `{other}`.*")


@pytest.mark.parametrize(("ratio", "beyond"), [("1.20", ""), ("1.34", "error over noise floor 1.34 > 1.2")])
def test_the_error_of_the_predictors_of_autoformer_is_compared_with_their_floor(ratio: str, beyond: str) -> None:
    text = (
        "h200/glit-tiny-bf16\n"
        "metric       model      networks     MAPE   noise floor   MAPE/floor    Spearman (max)   90% coverage\n"
        "latency_ms   analytic         60    9.00%         1.00%         9.00   0.9737 (0.9853)          93.1%\n\n"
        "h200/autoformer-tiny-bf16\n"
        "metric       model      networks     MAPE   noise floor   MAPE/floor    Spearman (max)   90% coverage\n"
        f"latency_ms   analytic        120    1.34%         1.00%         {ratio}   0.9737 (0.9853)          93.1%\n"
        "memory_mb    analytic        120    1.34%         1.00%         9.00   0.9737 (0.9853)          93.1%\n"
        "written to predictors\n"
    )
    assert error_over_floor(text, {}) == beyond
    assert error_over_floor(text.replace(ratio, "     ").replace("   0.9737", ""), {})
    assert error_over_floor("nothing", {}) == "no error over the noise floor of autoformer-tiny was printed"


def test_a_supernet_is_compared_with_the_naive_side_in_the_same_precision() -> None:
    rows = [
        "| glit-tiny | naive | fp32 | 0.2 (0.1 – 0.3) | 1.00x | 2,000 | 1.0 |",
        "| glit-tiny | ours | fp32 | 0.2 (0.1 – 0.3) | 1.00x | 1,999 | 1.0 |",
        "| glit-tiny | naive | bf16 | 0.1 (0.1 – 0.3) | 2.00x | 1,000 | 1.0 |",
    ]
    assert not_slower_than_naive("\n".join(rows[:2]), {}) == ""
    assert not_slower_than_naive("\n".join(rows), {}) == "glit-tiny in bf16 has only naive"
    rows.append("| glit-tiny | ours | bf16 | 0.15 (0.1 – 0.3) | 1.33x | 1,500 | 1.0 |")
    assert not_slower_than_naive("\n".join(rows), {}) == (
        "glit-tiny in bf16: 0.15 s > 0.1 s; glit-tiny in bf16: 1500 MB > 1000 MB"
    )
    assert not_slower_than_naive("", {}) == "no row of a supernet was printed"


def test_a_front_is_compared_with_the_noise_floor_of_its_profile() -> None:
    profile = StepResult(status="done", figure="noise floor 0.90%, noise floor 0.60%", started_utc="2026-11-29")
    results = {"profile-autoformer": profile}
    text = "6 of 8 are on the measured front\nlatency_ms: predicted within {} on average, Spearman 0.990\n"
    assert near_the_floor(text.format("1.20%"), results) == ""
    assert near_the_floor(text.format("1.30%"), results) == "error on the front in % 1.3 > 1.2"
    assert near_the_floor(text.format("1.20%"), {}) == "no noise floor of autoformer-tiny is known"
    assert near_the_floor("", results) == "no error on the measured front was printed"


def test_only_some_steps_are_run_and_the_table_and_the_list_are_of_all(tmp_path: Path) -> None:
    done = StepResult(status="done", figure="noise floor 0.90%", started_utc="2026-11-29")
    (tmp_path / "state.json").write_text(json.dumps(to_mapping(DayState(device="h200"))))
    day = Day(tmp_path, GPU, rehearse=False, say=lambda text: None)
    day.state = replace(day.state, results={"profile-autoformer": done})
    assert day.run(STEPS, minutes=10, only=["profile-autoformer"])
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {each.name} | " in table for each in STEPS)
    assert table.count("| not run |") == len(STEPS) - 1
    assert "[x]" not in (tmp_path / CHECKLIST.name).read_text()  # three families and the predictors are left


def test_only_is_passed_with_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_day.read_facts", lambda name: NO_GPU)
    out = tmp_path / "day"
    with pytest.raises(SystemExit) as ended:
        main(["--only", "noise-floor,profile-glit", "--out", str(out)])
    assert ended.value.code == 0
    assert (out / "results.md").read_text().count("| skipped |") == 2
    assert (out / "results.md").read_text().count("| not run |") == len(STEPS) - 2


def test_a_rehearsal_and_a_day_are_not_mixed(tmp_path: Path) -> None:
    for rehearse, message in ((True, "holds a rehearsal, and a day does not"), (False, "holds a day, and a rehearsal")):
        out = tmp_path / str(rehearse)
        Clocked(out, rehearse=rehearse).day.run([step("a", "print('figure 1')")], minutes=10)
        Clocked(out, rehearse=rehearse)
        with pytest.raises(SystemExit, match=message):
            Clocked(out, rehearse=not rehearse)


def test_a_library_that_cannot_be_loaded_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr("hwnas.profile.runners.runner.load_runner", broken)
    print_facts("cpu")
    found = from_mapping(MachineFacts, json.loads(capsys.readouterr().out))
    assert found.runtimes["tensorrt"] == "libnvinfer.so.10: cannot open shared object file"


def test_commands_name_what_they_need_of_the_dependencies() -> None:
    for each in STEPS:
        if each.command.startswith("hwnas"):
            assert "click" in each.needs, each.name
        if each.command.startswith(("hwnas profile", "hwnas search")):
            assert "timm" in each.needs, each.name


def test_the_tests_of_every_runner_are_run_on_a_gpu() -> None:
    assert "{root}/tests/profile/runners/test_conformance.py" in GPU_TESTS.split()


def test_every_step_has_its_own_name_and_a_line_of_the_checklist() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
    lines = CHECKLIST.read_text(encoding="utf-8").splitlines()
    for ticks in {step.ticks for step in STEPS if step.ticks}:
        assert sum(line.startswith((f"- [ ] {ticks}", f"- [x] {ticks}")) for line in lines) == 1, ticks


@pytest.mark.parametrize("rehearse", [False, True])
def test_commands_of_hwnas_have_the_options_that_they_name(tmp_path: Path, rehearse: bool) -> None:
    day = Day(tmp_path, GPU, rehearse=rehearse)
    commands = {row.name: load(row) for row in COMMANDS}
    for each in STEPS:
        words = day.command(each, minutes=2.5, attempt=1)[1:]
        assert words[0] == "-m"
        if words[1] == "hwnas":
            commands[words[2]].make_context(words[2], words[3:], help_option_names=["-h", "--help"])
        else:
            assert words[1] in ("pytest", "benchmarks.supernet_step")


def rehearse(out: Path, *more: str, blocker: Path) -> subprocess.CompletedProcess[str]:
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(BLOCKER)
    path = os.pathsep.join([str(blocker), str(ROOT)])
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--rehearse", "--out", str(out), *more]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_rehearsal_of_three_steps_with_what_a_lent_machine_has(tmp_path: Path) -> None:
    done = rehearse(tmp_path / "day", "--only", "machine,gpu-tests,predictors", blocker=tmp_path / "blocked")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: done in ")
    assert lines[1].startswith("gpu-tests: done in ")
    assert lines[2].startswith("predictors: skipped, xgboost is not installed")


@pytest.mark.slow
def test_a_rehearsal_of_all_steps_with_what_a_lent_machine_has(tmp_path: Path) -> None:
    done = rehearse(tmp_path / "day", blocker=tmp_path / "blocked")
    assert done.returncode == 0, done.stdout + done.stderr
    state = from_mapping(DayState, load_json(tmp_path / "day" / "state.json"))
    statuses = {name: result.status for name, result in state.results.items()}
    assert {name for name, status in statuses.items() if status == "skipped"} == {
        "predictors",
        "parity-torch-graph-fp16",
        "parity-tensorrt-fp32",
        "parity-tensorrt-fp16",
        "parity-tensorrt-bf16",
        "parity-tensorrt-rtx-fp16",
        "export-tensorrt",
        "front",
    }
    assert set(statuses.values()) == {"done", "skipped"}
    # At home, with all packages, the same folder goes on.
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--rehearse", "--out", str(tmp_path / "day")]
    home = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert home.returncode == 0, home.stdout + home.stderr
    assert "predictors: done in " in home.stdout
    assert "front: done in " in home.stdout
