"""Trainings for detection and segmentation: a supernet of every family, exact resume, warm starts, evaluation."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hwnas.errors import InputError, UsageError
from hwnas.pipeline.evaluate import evaluate
from hwnas.pipeline.train import train_model
from hwnas.supernet.store import load_supernet
from hwnas.train.data.preprocess import read_preprocess
from hwnas.train.options import TrainOptions
from hwnas.train.trainer import TrainerConfig

DETECTOR = TrainOptions(
    task="detection",
    space="vitas-twins-micro",
    data="digits-scene",
    max_images=8,
    heldout=2,
    epochs=2,
    batch_size=4,
    recipe="micro",
)
FAMILIES = ("autoformer-micro", "resnas-micro", "vitas-micro", "vitas-twins-micro", "glit-micro")


def trained(options: TrainOptions, out: Path, **how: Any) -> Any:
    return train_model(options, out=out, trainer_config=TrainerConfig(threads=1), **how)


@pytest.mark.parametrize("backbone", [*FAMILIES, pytest.param("maskrcnn-vitas-twins-micro", marks=pytest.mark.slow)])
def test_a_detector_of_every_family_is_trained_and_resumed_exactly(backbone: str, tmp_path: Path) -> None:
    result = trained(replace(DETECTOR, space=backbone), tmp_path / "whole")
    assert (result.steps, result.metric, result.accuracies) == (4, "mAP", {})
    assert result.task_quality.keys() == {"smallest", "largest"}
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "whole", again)
    (again / "supernet.safetensors").unlink()
    *_, last = sorted((again / "checkpoints").iterdir())
    last.unlink()
    trained(TrainOptions(), again, resume=True)
    weights, resumed = (load_file(folder / "supernet.safetensors") for folder in (tmp_path / "whole", again))
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "detector"
    trained(replace(DETECTOR, epochs=1), folder)
    return folder


def test_networks_of_a_detector_are_compared_by_map(run: Path) -> None:
    found = evaluate(run, ["min", "max"], device="cpu")
    assert (found.metric, found.space) == ("mAP", "retinanet-vitas-twins-micro")
    assert all(network.mAP is not None and network.top1 is None for network in found.networks)
    record = read_preprocess(run)
    assert record is not None
    assert (record.crop_mode, record.label_names) == ("letterbox", ("background", *"0123456789"))
    assert load_supernet(run / "supernet.safetensors").space.workload is not None
    with pytest.raises(InputError, match="networks for detection are compared by mAP"):
        evaluate(run, ["min"], metric="accuracy", device="cpu")


@pytest.mark.slow
def test_a_backbone_begins_with_the_weights_of_a_classifier(tmp_path: Path) -> None:
    classifier = TrainOptions(space="vitas-twins-micro", data="digits", max_images=32, epochs=1, batch_size=16)
    trained(classifier, tmp_path / "classifier")
    options = replace(
        DETECTOR, space=None, supernet=tmp_path / "classifier", epochs=1, overrides={"optimizer.lr": "1e-12"}
    )
    result = trained(options, tmp_path / "detector")
    assert any("the backbone begins with the weights of" in note for note in result.notes)
    before, after = (load_file(tmp_path / name / "supernet.safetensors") for name in ("classifier", "detector"))
    name = "stages.1.0.mlp.fc1.weight"
    torch.testing.assert_close(after[name], before[name])


@pytest.mark.slow
def test_one_network_is_trained_for_segmentation(tmp_path: Path) -> None:
    options = replace(DETECTOR, task="segmentation", arch="min", epochs=1)
    trained(options, tmp_path / "network")
    found = evaluate(tmp_path / "network", device="cpu", split="test")
    assert found.metric == "mIoU"
    (network,) = found.networks
    assert network.mIoU is not None


def test_tasks_and_heads_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--head must be one for segmentation"):
        trained(replace(DETECTOR, task="segmentation", head="fcos"), tmp_path / "run")
    with pytest.raises(UsageError, match="--task segmentation must be the task of the networks"):
        trained(replace(DETECTOR, task="segmentation", space="fcos-vitas-micro"), tmp_path / "run")
    with pytest.raises(UsageError, match="are those of a space"):
        trained(TrainOptions(task="detection", data="digits-scene", model="timm:test_vit"), tmp_path / "run")
    with pytest.raises(InputError, match="learn neither mixed images nor a teacher"):
        trained(replace(DETECTOR, overrides={"mix.mixup": "0.8"}), tmp_path / "run")
