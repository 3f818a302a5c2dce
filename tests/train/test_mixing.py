import numpy as np
import pytest
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.train.mixing import MixedBatch, make_mixer
from hwnas.train.recipe import MixConfig
from hwnas.train.seeds import generator

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
IMAGES = torch.arange(8.0)[:, None, None, None].expand(8, 3, 8, 8).contiguous()
"""Every pixel of image i is i, so that a mixed image says what it was made of."""


def mixed(config: MixConfig, *, seed: int = 0, patches: int | None = None) -> MixedBatch:
    mixer = make_mixer(config, num_classes=3, patches=patches)
    return mixer(IMAGES, LABELS, generator(seed, "mixing"))


def one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, 3).float()


def test_without_mixing_labels_are_smoothed() -> None:
    found = mixed(MixConfig(smoothing=0.3))
    assert torch.equal(found.images, IMAGES)
    assert torch.allclose(found.targets[0], torch.tensor([0.8, 0.1, 0.1]))


def test_mixup_mixes_labels_as_it_mixes_pixels() -> None:
    found = mixed(MixConfig(mixup=0.8))
    share = (found.images[0, 0, 0, 0] - 7) / (0 - 7)  # timm pairs image i with the one at i from the end
    assert 0 < share < 1
    assert torch.allclose(found.targets[0], share * one_hot(LABELS)[0] + (1 - share) * one_hot(LABELS)[7])


def test_cutmix_mixes_labels_by_area() -> None:
    found = mixed(MixConfig(cutmix=1.0))
    share = (found.images[0, 0] == 0).float().mean()
    assert torch.allclose(found.targets[0], share * one_hot(LABELS)[0] + (1 - share) * one_hot(LABELS)[7])


@pytest.mark.parametrize(
    ("config", "patches"),
    [(MixConfig(mixup=0.8, cutmix=1.0), None), (MixConfig(mixup=0.8, cutmix=1.0, token_mixup=True), 4)],
)
def test_mixing_is_a_function_of_the_generator(config: MixConfig, patches: int | None) -> None:
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    before = IMAGES.clone()
    one = mixed(config, patches=patches)
    np.random.rand(5)  # noqa: NPY002
    two, other = mixed(config, patches=patches), mixed(config, seed=1, patches=patches)
    np.random.seed(1)  # noqa: NPY002
    mixed(config, patches=patches)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.targets, two.targets)
    assert not torch.equal(one.images, other.images)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("seed", range(8))
def test_token_mixup_labels_each_patch_by_its_owner(seed: int) -> None:
    config = MixConfig(mixup=0.8, cutmix=1.0, token_mixup=True)
    found = mixed(config, seed=seed, patches=4)
    assert found.patch_targets is not None
    assert found.patch_targets.shape == (8, 16, 3)
    cells = found.images[:, 0, ::2, ::2]
    pixels = cells[:4].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(found.images[:4], pixels[:, None].expand(4, 3, 8, 8))  # patches are swapped whole
    owners = cells[:4].flatten(1).long()
    assert owners.max() < 4  # partners are of the same half
    assert torch.equal(found.patch_targets[:4], one_hot(LABELS[owners]))
    assert torch.allclose(found.targets, found.patch_targets.mean(dim=1))
    assert torch.allclose(found.patch_targets[4:], found.targets[4:, None].expand(4, 16, 3))


def swapped_shares(draws: int) -> list[float]:
    """Return the share of the 16 patches that an image gets from another one, for each draw."""
    mixer = make_mixer(MixConfig(mixup=0.8, cutmix=1.0, token_mixup=True), num_classes=3, patches=4)
    images = torch.arange(24.0)[:, None, None, None].expand(24, 1, 4, 4)
    labels = torch.zeros(24, dtype=torch.long)
    mixed_images = [mixer(images, labels, generator(draw, "mixing")).images[:12, 0] for draw in range(draws)]
    swapped = torch.stack(mixed_images) != images[:12, 0]
    areas = swapped.sum(dim=(2, 3))
    sides = swapped.any(dim=2).sum(dim=2) * swapped.any(dim=3).sum(dim=2)
    assert torch.equal(areas, sides)  # rectangles
    return (areas.amax(dim=1) / 16).tolist()  # an image may be its own partner, but not all are


def test_token_mixup_swaps_rectangles_as_large_as_the_official_ones() -> None:
    # Areas of a to a + 1 patches are equally probable; any height at which a rectangle of that area fits is taken.
    means = []
    for area in range(1, 16):
        heights = [height for height in (1, 2, 3, 4) if area < 4 * height and height <= area]
        means.append(sum(height * (area // height) for height in heights) / len(heights))
    expected = sum(means) / 16 / 16
    assert expected == pytest.approx(0.406, abs=2e-3)  # the mean and the largest share of ViT-ResNAS's own draws
    shares = swapped_shares(1000)
    assert sum(shares) / len(shares) == pytest.approx(expected, abs=0.03)
    assert max(shares) == 0.75


def test_token_mixup_mixes_up_the_second_half() -> None:
    found = mixed(MixConfig(mixup=0.8, cutmix=1.0, token_mixup=True), patches=4)
    pixels = found.images[4:, 0, 0, 0]
    assert ((pixels >= 4) & (pixels <= 7)).all()
    assert torch.allclose(found.targets.sum(dim=1), torch.ones(8))


def test_token_mixup_needs_patches() -> None:
    with pytest.raises(InputError, match="needs networks that classify patches"):
        mixed(MixConfig(mixup=0.8, cutmix=1.0, token_mixup=True))
