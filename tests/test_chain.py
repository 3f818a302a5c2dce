"""The whole chain once, at toy size: space, supernet, training, ONNX timing, fit, search, verified front, CSV.

The quick one takes invented times, because `tests/test_readme.py` times networks in the same chain on every run.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hwnas.pipeline.measure import measure
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import SearchResult, search_networks
from hwnas.pipeline.train import train_model
from hwnas.profile.options import CampaignOptions
from hwnas.search.spec import PostSearch
from hwnas.space import SPACES
from hwnas.train.options import TrainOptions
from hwnas.train.trainer import TrainerConfig
from tests.pipeline.campaigns import FakeEnvironment

SPACE = SPACES.get("autoformer-micro")


@pytest.mark.parametrize("verified", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_chain_ends_in_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, verified: bool) -> None:
    monkeypatch.chdir(tmp_path)
    training = TrainOptions(space=SPACE.name, data="digits", max_images=256, epochs=2)
    train_model(training, out=tmp_path / "runs" / "train", trainer_config=TrainerConfig())
    measured = CampaignOptions(space=SPACE.name, device="cpu", samples=8, repeats=0, landmarks=False, pairs=8)
    measure(measured, campaign_environment=None if verified else FakeEnvironment().make())

    # Only the space and the objective are named: the supernet is the newest run, the predictor is fitted on the way.
    finish = PostSearch(pairs=8, verify=verified, export_top=int(verified))
    options = SearchOptions(space=SPACE.name, device="cpu", objectives=("latency_ms",), budget=12, post_search=finish)
    found = search_networks(options)
    record = found.record
    (latency,) = [name for name in record.spec.objectives if name.startswith("latency_ms")]
    assert record.spec.predictors[0].metric == latency

    table = list(csv.DictReader((found.run / "front.csv").read_text().splitlines()))
    assert [row["arch_id"] for row in table] == list(record.front)
    values = np.array([[-float(row["accuracy"]), float(row["macs"]), float(row[latency_column(row)])] for row in table])
    assert np.isfinite(values).all()
    assert not any((other <= row).all() and (other < row).any() for row in values for other in values)
    if verified:
        require_verified(found)


def require_verified(found: SearchResult) -> None:
    """The front was measured, and the winner's files are there."""
    record = found.record
    assert record.verification is not None
    assert record.verification.status == "verified"
    checks = [check for member in record.verification.members for check in member.metrics.values()]
    assert all(check.measured and check.measured > 0 for check in checks)
    (winner,) = record.winners
    folder = found.run / winner.folder
    assert winner.arch_id in (record.measured_front or ())
    assert winner.failure is None
    assert {Path(name).suffix for name in winner.files} == {".safetensors", ".onnx", ".pt2", ".json"}
    arch = json.loads((folder / "arch.json").read_text())
    assert SPACE.adapted(num_classes=10).arch_id(SPACE.parse(arch["arch"])) == winner.arch_id
    assert (folder / "card.md").read_text().startswith("# autoformer-micro")


def latency_column(row: dict[str, str]) -> str:
    """The column of the searched latency."""
    return next(name for name in row if name.startswith("latency_ms") and name.count("_") == 1)
