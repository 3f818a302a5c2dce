"""Run a list of steps as processes with a time limit, keep what came of each, and tick a checklist.

OUT/state.json          what came of each step; a step that is done is not repeated
OUT/logs/STEP.log       what it printed
OUT/results.md          a table of the steps
OUT/gpu-checklist.md    the checklist with the lines ticked whose steps are all done and show what they must
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from hwnas.config import from_mapping, load_json, to_mapping
from hwnas.files import write_atomic
from hwnas.runs import environment

ROOT = Path(__file__).parents[2]
CHECKLIST = ROOT / "docs" / "gpu-checklist.md"

_MARGIN_S = 40.0
"""Time that a campaign needs to begin and to end, in addition to its limit for measuring."""

_LEAST_S = 20.0
"""Time below which no step is started."""

_END_S = 20.0
"""Time for a step to end after SIGTERM."""

Status = Literal["done", "failed", "timed out", "skipped"]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of a step."""

    status: Status
    figure: str = ""
    """The figures that it printed, or why there are none."""
    beyond: str = ""
    """Figures beyond what its line of the checklist allows; empty if there are none."""
    command: str = ""
    """The command that ran."""
    seconds: float = 0.0
    started_utc: str
    commit: str | None = None
    attempts: int = 1


def no_limit(text: str, results: Mapping[str, StepResult]) -> str:
    """The limit of a step whose exit code says enough."""
    return ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the day: a command, and what it must print."""

    name: str
    command: str
    """Begins with `hwnas` or `python`, and runs in the output folder; {root}, {device}, {minutes} and {attempt} are
    filled in."""
    micro: str
    """The same at micro size, for a rehearsal on a CPU."""
    shows: str
    """Regular expression that its output must match; its groups are the figures that are kept."""
    needs: tuple[str, ...] = ()
    """Modules, `gpu`, `runtime:NAME`, or files of the output folder as `file:PATTERN`."""
    minutes: float = 1.0
    """Time that it may take; longer in proportion if there are more than 30 minutes for all steps."""
    ticks: str = ""
    """Beginning of the line of the checklist that is ticked when all steps with it are done."""
    limit: Callable[[str, Mapping[str, StepResult]], str] = no_limit
    """Returns which figures of what was printed are beyond what that line allows; not asked in a rehearsal."""


@dataclass(frozen=True, kw_only=True)
class DayState:
    """Results by step, and the device that they are of."""

    device: str
    rehearse: bool = False
    results: Mapping[str, StepResult] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The device that is measured, and which runtimes can use it."""

    device: str
    gpu: bool
    runtimes: Mapping[str, str]
    """Empty for a runtime that can be used, else why not."""


def read_facts(device: str) -> MachineFacts:
    """Return the facts of this machine, found by a process of its own, because CUDA stays in the one that asked it."""
    code = f"from benchmarks.support.day import print_facts; print_facts({device!r})"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if found.returncode:
        raise SystemExit(found.stderr)
    return from_mapping(MachineFacts, json.loads(found.stdout.splitlines()[-1]))


def print_facts(name: str) -> None:
    """Print the facts of this machine, for `read_facts`."""
    from hwnas.devices import require
    from hwnas.metrics import RUNTIMES
    from hwnas.profile.runners.runner import load_runner

    device = require(name)
    reasons = {}
    for runtime in RUNTIMES:
        try:
            availability = load_runner(runtime).available(device)
            reasons[runtime] = "" if availability.available else availability.reason or "it is not available"
        except (ImportError, OSError) as error:  # a library that it loads may be missing, too old or damaged
            reasons[runtime] = str(error) or type(error).__name__
    print(json.dumps({"device": device.name, "gpu": device.vendor == "nvidia", "runtimes": reasons}))


class Day:
    """The steps of a day and what came of them.

    Args:
        out: Output folder. Results of an earlier call are kept.
        facts: Facts of this machine.
        rehearse: Run the micro commands, and leave out the need for a GPU.
        say: Prints a line.
        clock: Seconds, increasing.
    """

    def __init__(
        self,
        out: Path,
        facts: MachineFacts,
        *,
        rehearse: bool,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out, self.facts, self.rehearse = out.absolute(), facts, rehearse
        self._say, self._clock = say, clock
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        path = self.out / "state.json"
        new = DayState(device=facts.device, rehearse=rehearse)
        self.state = from_mapping(DayState, load_json(path)) if path.exists() else new
        if rehearse != self.state.rehearse:
            held, asked = ("a rehearsal", "a day") if self.state.rehearse else ("a day", "a rehearsal")
            raise SystemExit(f"{out} holds {held}, and {asked} does not go on with it; try --out")
        if facts.gpu and facts.device != self.state.device:
            raise SystemExit(
                f"{out} holds a day of {self.state.device}, and this machine has {facts.device}; try --out"
            )

    def run(self, steps: Sequence[Step], *, minutes: float, only: Sequence[str] | None = None) -> bool:
        """Run the steps that are not done, those that were not tried yet first.

        Args:
            steps: All steps in order of worth; the table and the checklist are of all of them.
            minutes: Time for all that are run.
            only: Names of the steps to run; None for all.

        Returns:
            True if every step is done, or cannot be done on this machine.
        """
        end, complete = self._clock() + 60 * minutes, True
        scale = max(1.0, minutes / 30)
        attempts = {name: result.attempts for name, result in self.state.results.items() if result.status != "skipped"}
        chosen = [step for step in steps if only is None or step.name in only]
        for step in sorted(chosen, key=lambda step: attempts.get(step.name, 0)):
            before = self.state.results.get(step.name)
            if before is not None and before.status == "done":
                self._say(f"{step.name}: done before ({before.figure})")
                continue
            missing = self.missing(step)
            if missing:
                self._say(f"{step.name}: skipped, {missing}")
                if before is None or before.status == "skipped":
                    self._keep(step, StepResult(status="skipped", figure=missing, started_utc=_now()))
                continue
            left_s = end - self._clock()
            if left_s < _LEAST_S:
                self._say(f"{step.name}: no time is left")
                complete = False
                continue
            result = self._run_step(step, left_s=left_s, scale=scale, attempt=attempts.get(step.name, 0) + 1)
            self._keep(step, result)
            self._say(f"{step.name}: {result.status} in {result.seconds:.0f} s ({result.figure})")
            complete = complete and result.status == "done"
        write_atomic(self.out / "results.md", self._table(steps))
        write_atomic(self.out / CHECKLIST.name, tick(CHECKLIST.read_text(), steps, self.state))
        return complete

    def missing(self, step: Step) -> str:
        """Return what a step needs and this machine lacks; empty if nothing."""
        missing = []
        for need in step.needs:
            kind, _, name = need.partition(":")
            if kind == "gpu":
                missing += [] if self.facts.gpu or self.rehearse else ["there is no GPU"]
            elif kind == "runtime":
                reason = self.facts.runtimes.get(name, "it is not known")
                missing += [f"{name}: {reason}"] if reason else []
            elif kind == "file":
                missing += [] if any(self.out.glob(name)) else [f"there is no {name} yet"]
            elif find_spec(need) is None:
                missing.append(f"{need} is not installed")
        return "; ".join(missing)

    def command(self, step: Step, *, minutes: float, attempt: int) -> list[str]:
        """Return the command of a step as words."""
        device = "cpu" if self.rehearse else self.state.device
        values = {"root": ROOT, "device": device, "minutes": f"{minutes:.2f}", "attempt": attempt}
        words = [word.format(**values) for word in shlex.split(self.step_text(step))]
        return [sys.executable, *(("-m", *words) if words[0] == "hwnas" else words[1:])]

    def _command_text(self, command: Sequence[str]) -> str:
        """Return words of `command` as one would type them in the root of the checkout."""
        words = [word.replace(str(ROOT), ".") for word in command[1:]]
        return shlex.join(words[1:] if words[:2] == ["-m", "hwnas"] else ["python", *words])

    def step_text(self, step: Step) -> str:
        """Return the command of a step as it is written."""
        return step.micro if self.rehearse else step.command

    def _run_step(self, step: Step, *, left_s: float, scale: float, attempt: int) -> StepResult:
        share_s = 60 * step.minutes * scale
        minutes = max(0.1, min(share_s, left_s - _MARGIN_S) / 60)  # for a campaign, which begins and ends in the rest
        command = self.command(step, minutes=minutes, attempt=attempt)
        started, begin = _now(), self._clock()
        log = self.out / "logs" / f"{step.name}.log"
        with log.open("w") as file:
            limit_s = left_s if self.rehearse else min(left_s, 1.5 * share_s + _MARGIN_S)
            code = run_limited(command, cwd=self.out, output=file.fileno(), limit_s=limit_s)
        text = log.read_text(errors="replace")
        matches = re.finditer(step.shows, text, re.MULTILINE)
        figure = ", ".join(" ".join(filter(None, match.groups())) for match in matches)
        status: Status = "timed out" if code is None else "done" if code == 0 and figure else "failed"
        if status != "done":
            reason = f"no end after {limit_s:.0f} s" if code is None else f"exit code {code}, {_last_line(text)}"
            figure = f"{figure}; {reason}" if figure else reason
        beyond = step.limit(text, self.state.results) if status == "done" and not self.rehearse else ""
        return StepResult(
            status=status,
            figure=f"{figure}; ran, but {beyond}" if beyond else figure,
            beyond=beyond,
            command=self._command_text(command),
            seconds=self._clock() - begin,
            started_utc=started,
            commit=environment().commit,
            attempts=attempt,
        )

    def _keep(self, step: Step, result: StepResult) -> None:
        self.state = replace(self.state, results={**self.state.results, step.name: result})
        write_atomic(self.out / "state.json", json.dumps(to_mapping(self.state), indent=1) + "\n")

    def _table(self, steps: Sequence[Step]) -> str:
        env = environment()
        rows = [f"# A day of {self.state.device}", "", f"Python {env.python}, {', '.join(env.packages)}", ""]
        rows += ["| step | status | seconds | figures | command |", "| --- | --- | --- | --- | --- |"]
        for step in steps:
            result = self.state.results.get(step.name)
            cells = ("not run", "", "") if result is None else (result.status, f"{result.seconds:.0f}", result.figure)
            figures = cells[2].replace("|", "/")
            rows.append(f"| {step.name} | {cells[0]} | {cells[1]} | {figures} | `{self.step_text(step)}` |")
        return "\n".join(rows) + "\n"


def run_limited(command: Sequence[str], *, cwd: Path, output: int, limit_s: float) -> int | None:
    """Run a command in a process group of its own.

    Args:
        command: The command.
        cwd: Its working folder.
        output: Descriptor of the file that it prints to.
        limit_s: Time after which it is ended with all that it started.

    Returns:
        Its exit code; None if it was ended.
    """
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
    with subprocess.Popen(command, cwd=cwd, env=_environment(), start_new_session=True, **streams) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def tick(text: str, steps: Sequence[Step], state: DayState) -> str:
    """Tick the lines of a checklist whose steps are all done, with date, device, commit and figures.

    A step with figures beyond its limit leaves its line as it is, and so does a rehearsal. A command that is not the
    one of the line is named.
    """
    lines = text.splitlines()
    for ticks in dict.fromkeys(step.ticks for step in steps if step.ticks):
        names = [step.name for step in steps if step.ticks == ticks]
        results = [state.results[name] for name in names if name in state.results]
        ran = len(results) == len(names) and all(result.status == "done" for result in results)
        if state.rehearse or not ran or any(result.beyond for result in results):
            continue
        row = next(row for row, line in enumerate(lines) if line.startswith(f"- [ ] {ticks}"))
        lines[row] = lines[row].replace("- [ ]", "- [x]", 1)
        end = row + 1
        while end < len(lines) and lines[end].startswith("  "):
            end += 1
        item = " ".join(line.strip() for line in lines[row:end])
        figures = "; ".join(
            f"{name}: {result.figure}{_other_command(result.command, item, device=state.device)}"
            for name, result in zip(names, results, strict=True)
        )
        commit = (results[0].commit or "no commit")[:12]
        lines.insert(end, f"  *{results[0].started_utc[:10]}, {state.device}, {commit}: {figures}.*")
    return "\n".join(lines) + "\n"


def _other_command(command: str, item: str, *, device: str) -> str:
    """Return the command that ran if an item of the checklist does not name it, in any order of its options."""
    named = [sorted(words.replace("--device auto", f"--device {device}").split()) for words in item.split("`")[1::2]]
    return "" if not command or sorted(command.split()) in named else f" by `{command}`"


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _last_line(text: str) -> str:
    """The line that names an error, or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["nothing was printed"])[-1][:200]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
