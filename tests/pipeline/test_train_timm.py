"""Fine-tuning of a model of timm: its weights, its classifier, its recipe, and the export of its run."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from hwnas.cli.app import run
from hwnas.errors import InputError
from hwnas.pipeline.export_model import export_model
from hwnas.train.options import PretrainedModel, TrainOptions, resolve_config
from hwnas.train.session import make_model
from hwnas.train.teacher import load_teacher

NAME = "timm:test_vit"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=32, num_classes=7).state_dict(), file)
    return file


def options(checkpoint: Path) -> TrainOptions:
    weights = PretrainedModel(name=NAME, checkpoint=checkpoint)
    return TrainOptions(model=NAME, model_weights=weights, image_size=32, data="digits")


def test_a_model_begins_with_its_weights_and_a_classifier_for_the_data(checkpoint: Path) -> None:
    config = resolve_config(options(checkpoint), num_classes=10)
    initial = make_model(config)
    given, found = load_file(checkpoint), initial.model.state_dict()
    assert {name for name in found if found[name].shape != given[name].shape} == {"head.weight", "head.bias"}
    assert all(torch.equal(found[name], given[name]) for name in found if not name.startswith("head."))
    assert initial.notes == ("initialized for 10 classes: head.weight, head.bias",)
    assert (config.recipe.epochs, config.recipe.optimizer.lr, config.recipe.strategy.name) == (20, 1e-4, "network")
    assert config.model_digest is not None


def test_weights_of_the_same_classes_are_taken_whole(checkpoint: Path) -> None:
    initial = make_model(resolve_config(options(checkpoint), num_classes=7))
    assert torch.equal(initial.model.state_dict()["head.weight"], load_file(checkpoint)["head.weight"])
    assert initial.notes == ()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_vit2", img_size=32).state_dict(), other)
    with pytest.raises(InputError, match=r"must hold the weights of timm:test_vit"):
        make_model(resolve_config(options(other), num_classes=10))


def test_a_teacher_of_other_classes_is_refused_with_the_command_that_trains_one(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="same 10 classes") as caught:
        load_teacher("timm:test_vit", image_size=160, num_classes=10, pretrained=True)
    assert caught.value.hint is not None
    assert "hwnas train --model timm:test_vit --pretrained" in caught.value.hint


@pytest.mark.slow
def test_a_run_of_a_model_is_continued_and_exported(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--data", "digits", "--image-size", "32", "--max-images", "64", "--batch", "32", "--epochs", "1", "-q"]
    model = ["train", "--model", NAME, *common]
    assert run([*model, "--checkpoint", str(checkpoint), "--out", "first"]) == 0
    assert run([*model, "--supernet", "first", "--out", "second"]) == 0
    assert run(["train", "--model", "timm:vit_tiny_patch16_224", *common, "--supernet", "first"]) == 1
    assert "must hold the weights of timm:vit_tiny" in capsys.readouterr().err
    exported = export_model(tmp_path / "second", out=tmp_path / "out")
    assert exported.files[0].name == "test_vit-fp32-b1.onnx"
    assert list(exported.preprocess["input_size"]) == [3, 32, 32]
    assert run(["export", "second", "--out", "safe", "--format", "safetensors"]) == 0
    assert "test_vit-fp32-b1.safetensors" in capsys.readouterr().out
