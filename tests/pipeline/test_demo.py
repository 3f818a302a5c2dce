import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwnas.cli.demo import summarize_demo
from hwnas.errors import InputError, MissingError, UnknownNameError
from hwnas.metrics import Deployment
from hwnas.pipeline import demo
from hwnas.pipeline.demo import DemoOptions, choose_deployments, run_demo
from hwnas.progress import NullReporter, ProgressEvent, StageStarted

SPEED = "throughput@h200"
SMALL = DemoOptions(epochs=1, max_images=200, samples=8, budget=10)


class Listener(NullReporter):
    """Keeps the titles of the steps; at the step `stop_at` the user presses Ctrl-C."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.titles: list[str] = []
        self.stop_at = stop_at

    def update(self, event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            self.titles.append(event.title)
            if event.number == self.stop_at:
                raise KeyboardInterrupt


@pytest.mark.slow
def test_a_demo_that_was_stopped_goes_on_to_a_measured_front_and_a_network_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt):
        run_demo(SMALL, out=out, reporter=Listener(stop_at=3))
    weights = (out / "supernet" / "supernet.safetensors").read_bytes()

    listener = Listener()
    done = run_demo(SMALL, out=out, reporter=listener)
    assert len(listener.titles) == 6
    assert (out / "supernet" / "supernet.safetensors").read_bytes() == weights
    assert done.record.verification is not None
    assert done.record.verification.status == "verified"
    assert {row.arch_id for row in done.front} == set(done.record.front)
    assert {Deployment.parse(text).precision for text in done.record.spec.deployments or ()} >= {"fp32", "int8"}
    assert done.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert done.model.suffix == ".onnx"
    assert 0 <= done.inference.predicted <= 9
    assert 0 < done.inference.probability <= 1
    assert len(summarize_demo(done)) == 3

    with pytest.raises(InputError, match="holds another demo"):
        run_demo(replace(SMALL, samples=9), out=out, reporter=Listener())
    again = run_demo(SMALL, out=out, reporter=Listener())
    assert (again.record, again.front) == (done.record, done.front)


def test_a_demo_without_onnxruntime_is_refused_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match="onnxruntime must be installed"):
        run_demo(SMALL, out=tmp_path / "demo", reporter=Listener())
    assert not (tmp_path / "demo").exists()


def test_a_network_for_a_fixed_batch_repeats_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, *given: object, **options: object) -> None: ...

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="images", shape=[4, 1, 2, 2])]

        def run(self, names: None, given: dict[str, Any]) -> list[Any]:
            assert given["images"].shape == (4, 1, 2, 2)
            return [np.array([[0.0, 2.0, 0.0]] * 4)]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr(demo, "_first_heldout_image", lambda run: (np.zeros((1, 1, 2, 2), np.float32), 2, "a picture"))
    found = demo.classify_heldout_image(Path("model.onnx"), run=Path("run"))
    assert (found.predicted, found.label) == (1, 2)
    assert found.probability == pytest.approx(np.exp(2) / (np.exp(2) + 2))


def _row(arch_id: str, accuracy: float, speed: float, deployment: str | None = None, *, stands: bool = True) -> Any:
    metrics = {"accuracy": accuracy, SPEED: speed}
    return SimpleNamespace(arch_id=arch_id, deployment=deployment, metrics=metrics, stands=stands)


def _done(rows: tuple[Any, ...], *failures: str | None) -> Any:
    members = [SimpleNamespace(failure=failure) for failure in failures]
    found = SimpleNamespace(
        status="verified", profiles=(), members=members, mean_error=0.02, covers=lambda metric: metric == SPEED
    )
    spec = SimpleNamespace(objectives=("accuracy", SPEED))
    return SimpleNamespace(front=rows, record=SimpleNamespace(spec=spec, verification=found, winners=()))


def test_the_sentences_claim_no_more_than_was_found() -> None:
    rows = (_row("a", 0.9, 200.0), _row("b", 0.8, 100.0))
    front, belief, _ = summarize_demo(_done(rows, None, "crash"))
    assert front == "One of the 2 networks on the front is the most accurate and the fastest: 90.0% at 200 images/s."
    assert belief == "1 of 2 were measured: the predictions were off by 2.0% on average."
    left = _row("c", 0.99, 999.0, stands=False)  # measuring took it from the front
    front, belief, _ = summarize_demo(_done((left, _row("a", 0.9, 100.0), _row("b", 0.8, 250.0)), None, None))
    assert front.startswith("The front has 2 networks, from 90.0%")
    assert "2.5 times the throughput" in front
    assert belief.startswith("All of them were measured")


def test_the_sentences_of_a_front_of_precisions_name_them() -> None:
    rows = (_row("a", 0.9, 100.0, "openvino/fp32"), _row("b", 0.8, 250.0, "openvino/int8"))
    front, errors, _ = summarize_demo(_done(rows, None, None))
    assert front.startswith("The front has 2 networks (1 in fp32, 1 in int8), ")
    assert "from 90.0% at 100 images/s in fp32 to 80.0% at 250 images/s in int8: 2.5 times" in front
    assert errors == "All of them were measured: the predictions were off by 2.0% on average."


def test_a_demo_searches_the_precisions_that_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, precisions = choose_deployments(1)
    assert runtime in ("openvino", "onnxruntime")
    assert {"fp32", "int8"} <= set(precisions) <= {"fp32", "bf16", "int8"}
    monkeypatch.setattr("hwnas.profile.runners.runner.default_runtime", lambda device: "onnxruntime")
    assert choose_deployments(1) == ("onnxruntime", ("fp32", "int8"))


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
        run_demo(replace(SMALL, space=space), out=tmp_path / "demo", reporter=Listener())
    assert not (tmp_path / "demo").exists()
