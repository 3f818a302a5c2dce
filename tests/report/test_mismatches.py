from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.report.data import RunData
from hwnas.report.gather import gather
from hwnas.report.page import render
from hwnas.report.verdict import mismatches
from tests.report.example import LATENCY, THROUGHPUT, Example, make_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return gather(make_run(tmp_path_factory.mktemp("runs") / "a", Example(count=60)))


def test_runs_that_share_everything_have_nothing_to_tell(data: RunData) -> None:
    assert mismatches([data]) == ()
    assert mismatches([data, replace(data, name="b")]) == ()


def test_another_device_is_told(data: RunData) -> None:
    metrics = tuple(replace(metric, where="h200, torch") if metric.where else metric for metric in data.metrics)
    (text,) = mismatches([data, replace(data, name="b", metrics=metrics)])
    assert text.startswith("latency_ms refers to different deployments (a: amd-epyc-9b45-1c")
    assert text.endswith("; b: h200, torch).")


def test_other_pictures_are_told(data: RunData) -> None:
    assert data.record is not None
    assert data.record.spec.supernet is not None
    spec = replace(data.record.spec, supernet=replace(data.record.spec.supernet, num_images=10))
    other = replace(data, name="b", record=replace(data.record, spec=spec))
    assert mismatches([data, other]) == (
        "Networks were evaluated on different images, and the results cannot be compared.",
    )


def test_other_bounds_are_shown_on_the_page(tmp_path: Path) -> None:
    runs = [
        gather(make_run(tmp_path / name, Example(count=60, objectives=("accuracy", speed), verified=False)))
        for name, speed in (("a", LATENCY), ("b", THROUGHPUT))
    ]
    text = "cannot be compared."
    assert [text in said for said in mismatches(runs)] == [True]
    assert text in render(runs)
    assert text not in render(runs[:1])
