import sys
from dataclasses import replace

import pytest

from hwnas.cli.progress import ConsoleReporter, progress_state
from hwnas.progress import CampaignProgress, EvaluationProgress, SearchProgress, StageStarted, TrainingProgress

SEARCH = SearchProgress(
    generation=3,
    evaluations=60,
    max_evaluations=500,
    max_minutes=None,
    candidates=75,
    elapsed_s=120.0,
    hypervolume=0.41234,
    best={"accuracy": 0.7512, "throughput@cpu/onnxruntime/fp32/b1": 1234.56},
)


def campaign(
    done: int,
    *,
    failure: str | None = None,
    elapsed_s: float = 20.0,
    left_s: float | None = None,
    between_s: tuple[float, float] | None = None,
) -> CampaignProgress:
    return CampaignProgress(
        done=done,
        total=10,
        failed=int(failure is not None),
        network="autoformer-micro net-0",
        device="toy-2c",
        failure=failure,
        elapsed_s=elapsed_s,
        left_s=left_s,
        between_s=between_s,
    )


def training(step: int, *, first_step: int = 0, elapsed_s: float = 10.0) -> TrainingProgress:
    return TrainingProgress(
        step=step,
        total_steps=100,
        first_step=first_step,
        epoch=step // 50,
        total_epochs=2,
        loss=1.25,
        images_per_s=1234.5,
        elapsed_s=elapsed_s,
    )


def evaluation(done: int, total: int | None = None) -> EvaluationProgress:
    return EvaluationProgress(done=done, total=total, elapsed_s=1.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("hwnas.cli.progress.time.monotonic", lambda: now[0])
    return now


# ------------------------------------------------------------------------------------------- text


def test_a_campaign_shows_what_is_done_what_failed_and_the_time_left() -> None:
    assert progress_state(campaign(4)).text == "measuring 5 of 10 on toy-2c, 30 s left"
    assert progress_state(campaign(4, failure="crash: x")).text == ("measuring 5 of 10 on toy-2c, 1 failed, 30 s left")


def test_the_deadline_of_a_campaign_decides_the_time_left() -> None:
    assert progress_state(campaign(1, left_s=5340.0)).text == "measuring 2 of 10 on toy-2c, 1 h 29 min left"


def test_a_campaign_shows_an_estimate_before_its_first_measurement() -> None:
    begun = "measuring 1 of 10 on toy-2c, "
    assert progress_state(campaign(0, between_s=(50.0, 130.0))).text == begun + "estimated 50 s to 2 min 10 s"
    assert progress_state(campaign(0, between_s=(50.0, 50.2))).text == begun + "estimated 50 s"
    assert progress_state(campaign(0)).text == begun + "the time is known after the first"
    assert progress_state(campaign(0, left_s=60.0, between_s=(50.0, 130.0))).text == begun + "1 min 00 s left"


def test_a_search_shows_its_evaluations_and_its_best_values() -> None:
    assert progress_state(SEARCH).text == (
        "generation 3, 60 of 500 evaluations, 14 min 40 s left, hypervolume 0.4123, best accuracy 75.12%, "
        "throughput 1235"
    )


def test_a_resumed_training_counts_the_time_of_its_own_steps() -> None:
    assert progress_state(training(75, first_step=50)).text == ("epoch 2 of 2, 10 s left, loss 1.2500, 1,234 images/s")


# --------------------------------------------------------------------------------- without a terminal


def test_lines_come_now_and_then_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReporter() as reporter:
        for done, seconds in ((1, 5.0), (2, 11.0), (3, 16.0), (10, 50.0)):
            clock[0] = seconds
            reporter.update(campaign(done, elapsed_s=seconds))
    assert capsys.readouterr().err.splitlines() == [
        "measuring 2 of 10 on toy-2c, 45 s left",
        "measuring 4 of 10 on toy-2c, 37 s left",
        "10 of 10 measured on toy-2c",
    ]


def test_a_failure_is_shown_at_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReporter() as reporter:
        reporter.update(campaign(1))
        reporter.update(campaign(2, failure="timeout: no answer within 300 s"))
    _, line = capsys.readouterr().err.splitlines()
    assert line == "autoformer-micro net-0: timeout: no answer within 300 s"


def test_evaluations_within_a_generation_are_counted(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReporter() as reporter:
        reporter.update(evaluation(1))
        clock[0] = 31.0
        reporter.update(evaluation(2))
        clock[0] = 62.0
        reporter.update(SEARCH)
        clock[0] = 93.0
        reporter.update(evaluation(3))
    first, second, searched, more = capsys.readouterr().err.splitlines()
    assert (first, second) == ("first generation, 1 network evaluated", "first generation, 2 networks evaluated")
    assert more == f"{searched}; 1 network of the next evaluated"


def test_the_speed_of_a_training_is_the_mean_since_the_last_line(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ConsoleReporter() as reporter:
        for step, (elapsed_s, speed) in enumerate([(1.0, 100.0), (4.0, 100.0), (13.0, 300.0), (14.0, 60.0)], start=1):
            clock[0] = 20.0 * step
            reporter.update(replace(training(step, elapsed_s=elapsed_s), images_per_s=speed))
        clock[0] = 200.0
        reporter.update(training(1, elapsed_s=1.0))  # of another training
    speeds = [line.rpartition(", ")[2] for line in capsys.readouterr().err.splitlines()]
    # Equal numbers of images at 100 and at 300 images/s have 150 images/s; the first step is too long ago by then.
    assert speeds == ["100 images/s", "100 images/s", "150 images/s", "100 images/s", "1,234 images/s"]


def test_each_activity_shows_its_first_event(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReporter() as reporter:
        reporter.update(StageStarted(number=1, total=2, title="training"))
        reporter.update(training(1))
        reporter.update(training(2))
        clock[0] = 3.0
        reporter.update(StageStarted(number=2, total=2, title="evaluating"))
        reporter.update(evaluation(1, 3))
    stage, trained, next_stage, evaluated = capsys.readouterr().err.splitlines()
    assert (stage, next_stage) == ("1/2 training (0 s so far)", "2/2 evaluating (3 s so far)")
    assert trained.startswith("epoch 1 of 2, ")
    assert evaluated == "1 of 3 networks evaluated"


# ------------------------------------------------------------------------------------ on a terminal


def test_a_terminal_shows_a_bar_and_messages_above_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ConsoleReporter() as reporter:
        reporter.update(campaign(3))
        reporter.message("runtime [torch]")
        reporter.update(campaign(4))
    out, err = capsys.readouterr()
    assert out == ""
    assert "runtime [torch]" in err
    assert "measuring 5 of 10 on toy-2c, 30 s left" in err
    assert err.index("runtime [torch]") < err.index("measuring 5 of 10 on toy-2c, 30 s left")


def test_work_without_news_says_that_it_goes_on(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter()
    clock[0] = 50.0
    reporter.show_pulse()  # nothing has been said yet
    reporter.message("fitting a predictor")
    for now in (55.0, 61.0, 65.0, 72.0):
        clock[0] = now
        reporter.show_pulse()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["fitting a predictor", "fitting a predictor (11 s ago)", "fitting a predictor (22 s ago)"]
