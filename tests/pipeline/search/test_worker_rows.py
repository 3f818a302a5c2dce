"""Rows of networks are the same bit for bit, whichever worker evaluates them and with whichever others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.config import to_mapping
from hwnas.metrics import QualityMetric
from hwnas.pipeline.search.accuracy import OpenSupernet, SupernetAccuracy, open_supernet
from hwnas.pipeline.workers.evaluator import BatchEvaluator
from hwnas.pipeline.workers.messages import EvaluationTask, NetworkBatch
from hwnas.train.data.sources import DataSplits
from hwnas.train.evaluation import make_evaluator
from hwnas.train.executor import EvalPrecision, Measure
from tests.pipeline.search.workbench import DATA, ELASTIC, FIRST, write_supernet


def make_task(opened: OpenSupernet, **changes: Any) -> EvaluationTask:
    values: dict[str, Any] = {
        "supernet": str(opened.path),
        "digest": opened.digest,
        "data": opened.requested_data,
        "data_fingerprint": opened.data.fingerprint,
        "device": "cpu",
        "threads": 1,
        "matmul_backend": "default",
    }
    return EvaluationTask(**values | changes)


class OpenWorker:
    """The evaluator of a worker in this process, with its task."""

    def __init__(self, task: EvaluationTask) -> None:
        self.evaluator = BatchEvaluator()
        self.opened = self.evaluator.answer({"open": to_mapping(task)})
        self.evaluator.close()  # the tests have these settings themselves

    def rows(self, archs: Any, measure: Measure) -> list[Mapping[str, Any]]:
        batch = NetworkBatch(archs=tuple(arch.to_mapping() for arch in archs), measure=measure)
        answer = self.evaluator.answer({"batch": to_mapping(batch)})
        return list(answer["result"]["rows"])


def sampled(opened: OpenSupernet, count: int) -> list[Any]:
    return list(opened.space.decode(opened.space.sample(np.random.default_rng(5), count)))


@pytest.mark.parametrize(
    ("space", "precision"),
    [
        (FIRST, "fp32"),
        pytest.param("resnas-micro", "fp32", marks=pytest.mark.slow),
        pytest.param(FIRST, "int8", marks=pytest.mark.slow),
        pytest.param(FIRST, "bf16", marks=pytest.mark.slow),
    ],
)
def test_a_row_depends_on_its_network_alone(space: str, precision: EvalPrecision, tmp_path: Path) -> None:
    opened = open_supernet(write_supernet(tmp_path, space), space=space, data=DATA)
    archs, measure = sampled(opened, 4), Measure(precision=precision)
    one, other = OpenWorker(make_task(opened)), OpenWorker(make_task(opened))
    together = one.rows(archs, measure)
    assert other.opened == one.opened
    assert [row["loss"] for row in together] != [together[0]["loss"]] * 4
    assert [other.rows([arch], measure)[0] for arch in reversed(archs)] == together[::-1]
    assert isinstance(opened.data, DataSplits)
    here = make_evaluator(opened.supernet, opened.data, checkpoint_id=opened.digest, precision=precision)
    found = here.evaluate(archs)
    assert [(accuracy.top1, accuracy.loss) for accuracy in found] == [(row["top1"], row["loss"]) for row in together]


@pytest.mark.parametrize("quality", ["divergence", "knn_accuracy"])
def test_metrics_that_need_no_classifier_are_those_of_this_process(
    quality: QualityMetric, elastic_bench: dict[str, Any]
) -> None:
    opened = open_supernet(elastic_bench["supernet"], space=ELASTIC, data=None, quality=quality)
    archs = sampled(opened, 2)
    worker = OpenWorker(make_task(opened, quality=quality))
    here = SupernetAccuracy(opened, space=opened.space, quality=quality, cache=None, device="cpu")
    values = here.evaluate_archs(archs, None)
    assert values[0] != values[1]
    assert [row["value"] for row in worker.rows(archs, Measure(name=quality))] == values


def test_other_weights_or_images_than_those_of_the_command_are_refused(tmp_path: Path) -> None:
    opened = open_supernet(write_supernet(tmp_path, FIRST), space=FIRST, data=DATA)
    for changes, message in (
        ({"digest": "0"}, "must find the weights of the command"),
        ({"data_fingerprint": "0"}, "must find the images of the command"),
        ({"supernet": str(tmp_path / "nothing")}, "nothing"),
    ):
        error = OpenWorker(make_task(opened, **changes)).opened["error"]
        assert message in error["message"]
    broken = BatchEvaluator().answer({"open": {**to_mapping(make_task(opened)), "threads": 0}})
    assert "threads" in broken["error"]["message"]
