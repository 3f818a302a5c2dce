import sys

import pytest

from hwnas.cli.progress import CampaignReporter
from hwnas.progress import CampaignProgress


def state(done: int, *, total: int = 10, failure: str | None = None, elapsed_s: float = 20.0) -> CampaignProgress:
    failed = int(failure is not None)
    return CampaignProgress(
        done=done,
        total=total,
        failed=failed,
        network="autoformer-micro net-0",
        failure=failure,
        elapsed_s=elapsed_s,
    )


def test_lines_come_now_and_then_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("hwnas.cli.progress.time.monotonic", lambda: now[0])
    with CampaignReporter() as reporter:
        for done, seconds in ((1, 5.0), (2, 31.0), (3, 40.0), (10, 50.0)):
            now[0] = seconds
            reporter.progress(state(done, elapsed_s=seconds))
    assert capsys.readouterr().err.splitlines() == ["2 of 10, 2 min 04 s left", "10 of 10, 0 s left"]
    assert reporter.done == 4


def test_a_failure_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with CampaignReporter() as reporter:
        reporter.progress(state(1, failure="timeout: no answer within 300 s"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("autoformer-micro net")
    assert line.endswith(": timeout: no answer within 300 s")


def test_a_given_time_decides_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr("hwnas.cli.progress.time.monotonic", lambda: now[0])
    with CampaignReporter(minutes=90) as reporter:
        now[0] = 60.0
        reporter.progress(state(1))
    assert capsys.readouterr().err == "1 of 10, 1 h 29 min left\n"


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with CampaignReporter() as reporter:
        reporter.say("runtime [torch]")
        reporter.progress(state(4))
    err = capsys.readouterr().err
    assert "runtime [torch]" in err
    assert "4 of 10, 30 s left" in err
