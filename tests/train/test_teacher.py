from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from hwnas.errors import InputError, MissingError, UnknownNameError
from hwnas.supernet.store import save_network
from hwnas.train.data.augment import IMAGENET
from hwnas.train.models import build_network
from hwnas.train.presets import single_network_recipe
from hwnas.train.teacher import load_teacher
from hwnas.train.weights import TimmOrigin, save_weights
from tests.train.toys import AUTOFORMER, toy_recipe

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NAME = "timm:test_vit"


def small_vit() -> torch.nn.Module:
    model: torch.nn.Module = timm.create_model("test_vit", num_classes=3, img_size=32)
    return model.eval()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_model_of_timm_with_a_checkpoint(tmp_path: Path, suffix: str) -> None:
    model, file = small_vit(), tmp_path / f"teacher.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), file)
    else:
        save_file(model.state_dict(), str(file))
    teacher = load_teacher(NAME, image_size=32, num_classes=3, checkpoint=file)
    own = (IMAGES * torch.tensor(IMAGENET.std).view(3, 1, 1) + torch.tensor(IMAGENET.mean).view(3, 1, 1) - 0.5) / 0.5
    assert torch.allclose(teacher(IMAGES), model(own), atol=1e-5)  # its config at timm has 0.5 throughout
    assert not torch.allclose(teacher(IMAGES), model(IMAGES), atol=1e-3)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_model_of_timm_that_was_trained_here(tmp_path: Path) -> None:
    model = small_vit()
    save_weights(model, tmp_path, TimmOrigin(name="test_vit", image_size=32, num_classes=3))
    assert torch.equal(load_teacher(str(tmp_path), image_size=32, num_classes=3)(IMAGES), model(IMAGES))


def test_a_network_of_a_space(tmp_path: Path) -> None:
    network = build_network(AUTOFORMER, AUTOFORMER.largest(), single_network_recipe(toy_recipe()), seed=0).eval()
    save_network(network, tmp_path / "network.safetensors", space=AUTOFORMER, arch=AUTOFORMER.largest())
    images = torch.randn(2, 2, 15, 15)
    for name in (tmp_path, tmp_path / "network.safetensors"):
        assert torch.equal(load_teacher(str(name), image_size=15, num_classes=3)(images), network(images))


def test_published_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("the hub cannot be reached\nand more")

    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda *a, **k: (unreachable if k["pretrained"] else create)(*a, **k))
    with pytest.raises(MissingError, match="timm:test_vit must be on this machine or downloadable") as caught:
        load_teacher(NAME, image_size=32, num_classes=1000, pretrained=True)
    assert caught.value.got == "the hub cannot be reached"
    assert caught.value.hint == "a file of the weights: --checkpoint FILE, or --teacher-weights FILE"


def test_bad_teachers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs weights"):
        load_teacher(NAME, image_size=32, num_classes=3)
    with pytest.raises(UnknownNameError, match="test_vitt"):
        load_teacher("timm:test_vitt", image_size=32, num_classes=3, pretrained=True)
    with pytest.raises(InputError, match="a file of a single network"):
        load_teacher(str(tmp_path), image_size=32, num_classes=3)
    with pytest.raises(InputError, match="there is no file"):
        load_teacher(NAME, image_size=32, num_classes=3, checkpoint=tmp_path / "none.pth")
    (tmp_path / "bad.safetensors").write_text("no weights")
    with pytest.raises(InputError, match=r"must hold (the )?weights"):
        load_teacher(NAME, image_size=32, num_classes=3, checkpoint=tmp_path / "bad.safetensors")
    save_weights(small_vit(), tmp_path, TimmOrigin(name="test_vit", image_size=32, num_classes=3))
    with pytest.raises(InputError, match="must know the same 5 classes"):
        load_teacher(str(tmp_path), image_size=32, num_classes=5)
    network = build_network(AUTOFORMER, AUTOFORMER.largest(), single_network_recipe(toy_recipe()), seed=0)
    save_network(network, tmp_path / "network.safetensors", space=AUTOFORMER, arch=AUTOFORMER.largest())
    with pytest.raises(InputError, match="must take images of 48 x 48"):
        load_teacher(str(tmp_path), image_size=48, num_classes=3)


def test_a_published_classifier_of_other_classes_is_no_teacher() -> None:
    with pytest.raises(InputError, match=r"(?s)must know the same 3 classes.* which knows 1000") as caught:
        load_teacher(NAME, image_size=32, num_classes=3, pretrained=True)
    first, second = str(caught.value.hint).split(", and then ")
    assert first == f"hwnas train --model {NAME} --pretrained --data DIR --out teacher"
    assert second == "--teacher teacher"
