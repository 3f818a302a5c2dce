"""The whole chain once, at toy size: space, supernet, training, ONNX timing, fit, search, verified front, CSV.

The quick one takes invented times, because `tests/test_readme.py` times networks in the same chain on every run.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import hwnas
from hwnas.pipeline.measure import measure
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.query import query
from hwnas.pipeline.search.run import SearchRun, search_networks
from hwnas.pipeline.train import train_model
from hwnas.profile.options import CampaignOptions
from hwnas.search.spec import PostSearch
from hwnas.space import SPACES
from hwnas.space.space import Candidate
from hwnas.supernet.families import make_network
from hwnas.train.options import PretrainedModel, TrainOptions
from hwnas.train.trainer import TrainerConfig
from tests.pipeline.campaigns import FakeEnvironment

SPACE = SPACES.get("autoformer-micro")


@pytest.mark.parametrize("verified", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_chain_ends_in_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, verified: bool) -> None:
    monkeypatch.chdir(tmp_path)
    training = TrainOptions(space=SPACE.name, data="digits", max_images=256, epochs=2)
    train_model(training, out=tmp_path / "runs" / "train", trainer_config=TrainerConfig())
    measured = CampaignOptions(space=SPACE.name, device="cpu", samples=8, repeats=0, reference_networks=False, pairs=8)
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


def test_the_chain_begins_with_a_pretrained_model(tmp_path: Path) -> None:
    """A model of timm, its networks without training, and the front of accuracy and parameters among them."""
    training = TrainOptions(
        model="timm:test_vit", image_size=32, data="digits", max_images=256, recipe="micro", epochs=2, batch_size=64
    )
    train_model(training, out=tmp_path / "model", trainer_config=TrainerConfig(threads=1))
    elastic = TrainOptions(
        elastic=PretrainedModel(name=str(tmp_path / "model")), data="digits", max_images=256, epochs=0, batch_size=64
    )
    train_model(elastic, out=tmp_path / "elastic", trainer_config=TrainerConfig(threads=1))
    finish = PostSearch(verify=False, export_top=1)
    options = SearchOptions(
        supernet=tmp_path / "elastic", objectives=("params",), budget=10, runs=tmp_path, post_search=finish
    )
    record = search_networks(options).record
    assert record.spec.space == "elastic-test_vit-32px"
    assert record.front
    (winner,) = record.winners
    assert winner.failure is None
    assert {Path(name).suffix for name in winner.files} >= {".safetensors", ".onnx"}


def test_the_chain_of_a_detector_ends_in_a_front_of_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supernet inside a detector, with invented times: search, query and report compare its networks by mAP."""
    monkeypatch.chdir(tmp_path)
    training = TrainOptions(
        task="detection",
        space="vitas-twins-micro",
        data="digits-scene",
        max_images=8,
        heldout=2,
        epochs=1,
        batch_size=8,
    )
    train_model(training, out=tmp_path / "detector", trainer_config=TrainerConfig(threads=1))
    space = "retinanet-vitas-twins-micro"
    measured = CampaignOptions(space=space, device="cpu", samples=8, repeats=0, reference_networks=False, pairs=8)
    measure(measured, campaign_environment=FakeEnvironment().make())
    options = SearchOptions(
        supernet=tmp_path / "detector",
        device="cpu",
        objectives=("throughput",),
        budget=4,
        post_search=PostSearch(verify=False, export_top=0),
    )
    found = search_networks(options, out=tmp_path / "search")
    assert found.record.spec.space == space
    assert [text.partition("@")[0] for text in found.record.spec.objectives] == ["mAP", "macs", "throughput"]
    assert any("mAP in place of accuracy" in note for note in found.record.spec.notes)
    asked = query(found.run)
    assert all("mAP" in network.metrics for network in asked.networks)
    assert "mAP" in (found.run / "front.csv").read_text().splitlines()[0]


def test_the_chain_ends_in_a_front_of_networks_in_deployments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two precisions and two runtimes, with invented times: the front says which network runs in what."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_PREDICTORS", str(tmp_path / "predictors"))  # none that ship, for whatever CPU this is
    train_model(
        TrainOptions(space=SPACE.name, data="digits", max_images=256, epochs=1), out=tmp_path / "runs" / "train"
    )
    for runtime, precision in (("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("torch", "bf16")):
        options = CampaignOptions(
            space=SPACE.name,
            device="cpu",
            runtime=runtime,
            precision=precision,
            samples=8,
            repeats=0,
            reference_networks=False,
            pairs=8,
        )
        measure(options, campaign_environment=FakeEnvironment().make())
    searched = SearchOptions(
        space=SPACE.name,
        device="cpu",
        precisions=("fp32", "bf16", "int8"),
        objectives=("latency_ms",),
        budget=10,
        post_search=PostSearch(verify=False, export_top=0),
    )
    found = search_networks(searched)
    deployments = ("onnxruntime/fp32", "torch/bf16", "onnxruntime/int8")
    assert found.record.spec.deployments == deployments
    table = list(csv.DictReader((found.run / "front.csv").read_text().splitlines()))
    assert {row["deployment"] for row in table} <= set(deployments)
    assert [row["arch_id"].partition("-")[2].replace("-", "/") for row in table] == [row["deployment"] for row in table]
    report = hwnas.write_report(found.run)
    assert "onnxruntime/int8" in report.page.read_text()


def require_verified(found: SearchRun) -> None:
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


def test_the_chain_works_with_objects_of_ones_own(tmp_path: Path) -> None:
    """The same without a supernet and without a run: an own accuracy, a shipped predictor, an exported module."""
    space = SPACES.get("autoformer-tiny")
    predictor = hwnas.find_predictor(
        "latency_ms@amd-epyc-f26m2-2c-avx512bf16/onnxruntime/fp32/b1",
        space=space.name,
        predictors=Path(__file__).parents[1] / "predictors",
    )

    def accuracy(networks: Sequence[Candidate]) -> list[float]:
        return [float(np.tanh(space.costs(network.genome[None]).params[0] / 1e7)) for network in networks]

    result = hwnas.optimize(space, accuracy=accuracy, metrics={"latency_ms": predictor}, budget=14, seed=1)
    chosen = result.best(latency_ms=max(network.metrics["latency_ms"] for network in result.front))
    low, high = chosen.intervals["latency_ms"]
    assert chosen is result.front[0]
    assert low <= chosen.metrics["latency_ms"] <= high
    single = predictor.predict([space.workload(chosen.candidate.arch)])
    assert single.mean[0] == pytest.approx(chosen.metrics["latency_ms"], rel=0.1)

    module = make_network(SPACES.get("autoformer-micro"), SPACES.get("autoformer-micro").smallest())
    exported = hwnas.export_module(module, torch.zeros(1, 3, 32, 32), tmp_path / "smallest.onnx")
    assert exported.parity.max_relative <= (exported.parity.tolerance or 0.0)
