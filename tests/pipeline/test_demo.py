from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import InputError, UnknownNameError
from hwnas.pipeline.demo import DemoOptions, demonstrate
from hwnas.pipeline.meaning import sentences
from hwnas.pipeline.searching.reporter import Quiet, SearchReporter
from hwnas.pipeline.workplace import Reporter, Silent

SMALL = DemoOptions(epochs=1, pictures=200, samples=8, budget=10)


class Listener:
    """Keeps the titles of the steps; at the step `stop_at` the user presses Ctrl-C."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.titles: list[str] = []
        self.stop_at = stop_at

    def step(self, number: int, total: int, title: str) -> None:
        self.titles.append(title)
        if number == self.stop_at:
            raise KeyboardInterrupt

    def say(self, text: str) -> None: ...

    def campaign(self) -> Reporter:
        return Silent()

    def search(self) -> SearchReporter:
        return Quiet()


def test_a_demo_that_was_stopped_goes_on_to_a_measured_front_and_a_network_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt):
        demonstrate(SMALL, out=out, narrator=Listener(stop_at=3))
    weights = (out / "supernet" / "supernet.safetensors").read_bytes()

    listener = Listener()
    done = demonstrate(SMALL, out=out, narrator=listener)
    assert len(listener.titles) == 6
    assert (out / "supernet" / "supernet.safetensors").read_bytes() == weights
    assert done.record.verification is not None
    assert done.record.verification.status == "verified"
    assert {row.arch_id for row in done.front} == set(done.record.front)
    assert done.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert done.model.suffix == ".onnx"
    assert 0 <= done.trial.said <= 9
    assert 0 < done.trial.share <= 1
    assert len(sentences(done)) == 3

    with pytest.raises(InputError, match="holds another demo"):
        demonstrate(replace(SMALL, samples=9), out=out, narrator=Listener())
    again = demonstrate(SMALL, out=out, narrator=Listener())
    assert (again.record, again.front) == (done.record, done.front)


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        ("autoformer-tiny", InputError, "needs a space that trains on a CPU in about a minute"),
        ("autoformer-mikro", UnknownNameError, "autoformer-mikro"),
    ],
)
def test_a_space_that_is_no_micro_one_is_refused(
    space: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        demonstrate(replace(SMALL, space=space), out=tmp_path / "demo", narrator=Listener())
    assert not (tmp_path / "demo").exists()
