"""Supernets of pretrained models: prepared without training, trained, resumed, and what is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from hwnas.config import load_json
from hwnas.errors import InputError, Interrupted, UsageError
from hwnas.pipeline.evaluate import evaluate
from hwnas.pipeline.train import train_model
from hwnas.runs import Run
from hwnas.space import SPACES
from hwnas.supernet.store import load_supernet
from hwnas.train import step as steps
from hwnas.train.metrics_file import read_metrics
from hwnas.train.options import PretrainedModel, TrainOptions, read_train_config
from hwnas.train.session import CLASSIFIER
from hwnas.train.trainer import TrainerConfig
from hwnas.train.weights import load_model

QUIET = TrainerConfig(threads=1)
MODEL = TrainOptions(
    model="timm:test_vit", image_size=32, data="digits", max_images=256, recipe="micro", epochs=1, batch_size=64
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of timm that was trained here."""
    folder = tmp_path_factory.mktemp("model") / "run"
    train_model(MODEL, out=folder, trainer_config=QUIET)
    return folder


def options(model: Path, **changes: Any) -> TrainOptions:
    elastic = PretrainedModel(name=str(model))
    return replace(TrainOptions(elastic=elastic, data="digits", max_images=256, epochs=0, batch_size=64), **changes)


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Stop a training in front of a step, as a signal does."""
    original, count = steps.Stepper.run, 0

    def stopping(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            raise Interrupted("stopped")
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Stepper, "run", stopping)
        yield


def test_without_epochs_the_largest_network_is_the_model(model: Path, tmp_path: Path) -> None:
    trained = train_model(options(model), out=tmp_path / "run", trainer_config=QUIET)
    assert trained.steps == 0
    supernet = load_supernet(trained.weights).eval()
    assert supernet.space.name == "elastic-test_vit-32px"
    assert supernet.space.config.image_size == 32
    original, x = load_model(model).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = original(x)
        assert (supernet.subnet(supernet.space.largest())(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    order = load_json(tmp_path / "run" / "order.json")
    assert isinstance(order, dict)
    assert order["score"] in ("activation", "taylor", "l1")
    assert any("units ordered by" in note for note in trained.notes)
    assert read_train_config(Run.open(tmp_path / "run")).elastic_digest is not None


def test_a_resumed_training_ends_with_the_same_weights(model: Path, tmp_path: Path) -> None:
    requested = options(model, epochs=1)
    train_model(requested, out=tmp_path / "whole", trainer_config=QUIET)
    with stopped_at(3), pytest.raises(Interrupted):
        train_model(requested, out=tmp_path / "stopped", trainer_config=QUIET)
    train_model(TrainOptions(), out=tmp_path / "stopped", resume=True, trainer_config=QUIET)
    one, other = (load_file(tmp_path / name / "supernet.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    before = load_file(tmp_path / "whole" / "original.safetensors")
    assert any(not torch.equal(one[name], before[name]) for name in one)


def test_another_number_of_classes_gets_a_fitted_classifier(model: Path, tmp_path: Path) -> None:
    trained = train_model(options(model, data="digits-clutter"), out=tmp_path / "run", trainer_config=QUIET)
    assert trained.accuracies["largest"] > 0
    name = "timm:test_vit"
    checkpoint = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), checkpoint)
    given = PretrainedModel(name=name, checkpoint=checkpoint)
    requested = options(model, elastic=given, image_size=32, epochs=1, overrides={"strategy.outputs": "features"})
    fitted = train_model(requested, out=tmp_path / "fitted", trainer_config=QUIET)
    assert any("the classifier was fitted to 10 classes" in note for note in fitted.notes)
    assert not (tmp_path / "fitted" / CLASSIFIER).exists()  # the features to learn are those of the model


@pytest.mark.slow
def test_a_model_with_a_new_classifier_is_trained_on_labels_first(model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), checkpoint)
    given = PretrainedModel(name="timm:test_vit", checkpoint=checkpoint)
    requested = options(model, elastic=given, image_size=32, epochs=1)
    trained = train_model(requested, out=tmp_path / "whole", trainer_config=QUIET)
    assert any("trained on labels for 1 epochs first" in note for note in trained.notes)
    assert [row["macs"] for row in read_metrics(tmp_path / "whole" / CLASSIFIER)] == [[]] * 4
    train_model(replace(requested, epochs=0), out=tmp_path / "fitted", trainer_config=QUIET)
    assert not (tmp_path / "fitted" / CLASSIFIER).exists()
    one, other = (load_file(tmp_path / run / "original.safetensors") for run in ("whole", "fitted"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with stopped_at(2), pytest.raises(Interrupted):
        train_model(requested, out=tmp_path / "stopped", trainer_config=QUIET)
    assert not (tmp_path / "stopped" / "original.safetensors").exists()
    train_model(TrainOptions(), out=tmp_path / "stopped", resume=True, trainer_config=QUIET)
    for name in ("original.safetensors", "supernet.safetensors"):
        one, other = (load_file(tmp_path / run / name) for run in ("whole", "stopped"))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"space": "autoformer-micro"}, "cannot be combined with others"),
        ({"supernet": Path("run")}, "cannot be combined with others"),
        ({"elastic": PretrainedModel(name="timm:test_vit")}, "needs the weights of its model"),
        ({"elastic": None, "space": "autoformer-micro"}, "--epochs 0"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    model: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        train_model(options(model, **changes), out=tmp_path / "run", trainer_config=QUIET)
    assert not (tmp_path / "run").exists()


def test_pretrained_is_for_a_model_of_timm(model: Path, tmp_path: Path) -> None:
    given = PretrainedModel(name=str(model), pretrained=True)
    with pytest.raises(UsageError, match="are for a model of timm"):
        train_model(options(model, elastic=given), out=tmp_path / "run", trainer_config=QUIET)


def test_a_model_of_another_kind_and_too_few_images_are_refused(model: Path, tmp_path: Path) -> None:
    given = PretrainedModel(name="timm:resnet18", checkpoint=tmp_path / "none.pth")
    with pytest.raises(InputError, match="elastic spaces are made of"):
        train_model(options(model, elastic=given), out=tmp_path / "run", trainer_config=QUIET)
    with pytest.raises(InputError, match="at least 16 images are needed"):
        train_model(options(model, max_images=12, batch_size=4), out=tmp_path / "run", trainer_config=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("other", ["test_vit3", "test_byobnet"])
def test_weights_of_another_model_are_refused(model: Path, tmp_path: Path, other: str) -> None:
    checkpoint = tmp_path / "weights.pth"
    torch.save(timm.create_model(other).state_dict(), checkpoint)
    given = PretrainedModel(name="timm:test_vit", checkpoint=checkpoint)
    with pytest.raises(InputError, match="must hold the weights of timm:test_vit"):
        train_model(options(model, elastic=given, image_size=32), out=tmp_path / "run", trainer_config=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_model_that_was_trained_here_takes_images_of_another_size(model: Path, tmp_path: Path) -> None:
    trained = train_model(options(model, image_size=48), out=tmp_path / "run", trainer_config=QUIET)
    supernet = load_supernet(trained.weights)
    assert supernet.space.name == "elastic-test_vit-48px"
    before, after = load_model(model).state_dict(), supernet.shared.state_dict()
    assert torch.equal(after["stem.patch_embed.weight"], before["patch_embed.proj.weight"])
    assert after["stem.position"].shape[1] == 9 + before["pos_embed"].shape[1] - 4


@pytest.mark.parametrize("pretrained", [False, True])
def test_images_that_are_no_multiple_of_the_patch_are_refused(model: Path, tmp_path: Path, pretrained: bool) -> None:
    changes: dict[str, Any] = {"image_size": 40}
    if pretrained:
        checkpoint = tmp_path / "weights.pth"
        torch.save(timm.create_model("test_vit").state_dict(), checkpoint)
        changes["elastic"] = PretrainedModel(name="timm:test_vit", checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"multiple of .*16"):
        train_model(options(model, **changes), out=tmp_path / "run", trainer_config=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of images."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(120):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_images_without_classes_are_learned_from_the_model_alone(model: Path, photos: Path, tmp_path: Path) -> None:
    wanted = options(model, data=str(photos), epochs=2, batch_size=32)
    trained = train_model(wanted, out=tmp_path / "whole", trainer_config=QUIET)
    config = read_train_config(Run.open(tmp_path / "whole"))
    assert (config.labelled, config.num_classes) == (False, 10)
    assert (config.recipe.teacher.weight, config.recipe.classifier_epochs) == (1.0, 0)
    assert trained.accuracies == {}
    assert 0 <= trained.divergences["largest"] < trained.divergences["smallest"]
    result = load_json(tmp_path / "whole" / "result.json")
    assert isinstance(result, dict)
    assert (result["accuracies"], result["divergences"]) == ({}, trained.divergences)
    with stopped_at(3), pytest.raises(Interrupted):
        train_model(wanted, out=tmp_path / "stopped", trainer_config=QUIET)
    train_model(TrainOptions(), out=tmp_path / "stopped", resume=True, trainer_config=QUIET)
    one, other = (load_file(tmp_path / name / "supernet.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    found = evaluate(tmp_path / "whole", ["min"])
    assert (found.metric, found.networks[0].top1) == ("divergence", None)
    assert found.networks[0].divergence == pytest.approx(trained.divergences["smallest"], rel=1e-4)
    with pytest.raises(InputError, match="accuracy needs images with classes") as caught:
        evaluate(tmp_path / "whole", metric="accuracy")
    assert str(caught.value.hint).startswith(f"hwnas evaluate {tmp_path / 'whole'} --metric divergence")


def test_without_any_classes_networks_are_compared_by_clusters_of_features(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "weights.pth")
    given = PretrainedModel(name="timm:test_vit", checkpoint=tmp_path / "weights.pth")
    wanted = TrainOptions(elastic=given, data=str(photos), image_size=32, epochs=0, heldout=20)
    trained = train_model(wanted, out=tmp_path / "run", trainer_config=QUIET)
    assert "the images have no classes: networks learn the outputs of the model alone" in trained.notes
    assert any("networks are compared by 22 clusters" in note for note in trained.notes)
    assert trained.divergences["largest"] == pytest.approx(0, abs=1e-5)
    assert trained.divergences["smallest"] > 1e-4
    supernet = load_supernet(trained.weights).eval()
    assert supernet.space.config.num_classes == 22  # a quarter of the 88 training images
    with torch.inference_mode():
        shares = supernet.subnet(supernet.space.largest())(torch.randn(16, 3, 32, 32)).softmax(dim=1)
    assert shares.argmax(dim=1).unique().numel() > 1
    assert (shares.max(dim=1).values < 0.99).all()  # similarities, not one cluster for each image


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"teacher.weight": "0.5"}}, "can only be learned from the outputs of a pretrained model"),
        ({"overrides": {"strategy.name": "sandwich"}}, "can only be learned from the outputs of a pretrained model"),
        ({"num_classes": 3}, "the classes are the 10 of the model"),
        ({"elastic": None, "model": "timm:test_vit", "epochs": 1}, "must have a folder of images for each class"),
    ],
)
def test_labels_that_images_do_not_have_cannot_be_learned(
    model: Path, photos: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    wanted = replace(options(model, data=str(photos), image_size=32), **changes)
    with pytest.raises(InputError, match=message) as caught:
        train_model(wanted, out=tmp_path / "run", trainer_config=QUIET)
    assert caught.value.hint is not None
    assert not (tmp_path / "run").exists()


def test_the_strategy_is_for_elastic_supernets(tmp_path: Path) -> None:
    wrong = TrainOptions(space="autoformer-micro", data="digits", max_images=256, recipe="elastic", batch_size=64)
    with pytest.raises(InputError, match="strategy elastic trains the networks inside a pretrained model"):
        train_model(wrong, out=tmp_path / "run", trainer_config=QUIET)
    assert SPACES.get("autoformer-micro").family == "autoformer"
