"""How images are varied."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import Compose

from hwnas.errors import InputError
from hwnas.train.data.augment import AugmentConfig, Normalization, color_transform, rand_augment
from hwnas.train.seeds import preserve_rng_state, seed_global_rng
from tests.train.data.image_files import array_images


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": "middle"}, "crop 'middle' is not known"),
        ({"interpolation": "cubic"}, "interpolation 'cubic' is not known"),
        ({"scale": (0.5, 0.2)}, "scale must be two shares"),
        ({"scale": (0.0, 1.0)}, "scale must be two shares"),
        ({"flip": 1.5}, "flip must be between 0 and 1"),
        ({"erase": -0.1}, "erase must be between 0 and 1"),
        ({"color_jitter": -1.0}, "color_jitter must be between"),
        ({"repeats": 0}, "repeats must be between"),
        ({"rand_augment": "augmix-m3"}, "rand_augment must begin with 'rand'"),
        ({"rand_augment": "rand-m9-q3"}, "rand_augment must be in timm.s notation"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AugmentConfig(**values)


@pytest.mark.parametrize("config", ["rand-m10-p1.0-inc1", "rand-m0-p1.0", "rand-m2-p1.0"])
def test_posterizing_keeps_a_bit(config: str) -> None:
    """timm asks Pillow for no bits at both ends of its scales."""
    transform = rand_augment(config, image_size=32)
    image = array_images(1, size=32).read(0)
    posterizing = [operation for operation in transform.ops if operation.name.startswith("Posterize")]
    assert posterizing
    for operation in posterizing:
        assert np.asarray(operation(image)).max() == 128 or config == "rand-m2-p1.0"


def test_other_users_of_timm_are_not_changed() -> None:
    from timm.data import auto_augment

    before = dict(auto_augment.LEVEL_TO_ARG)
    rand_augment("rand-m10-inc1", image_size=32)
    assert before == auto_augment.LEVEL_TO_ARG


def test_rand_augment_takes_the_place_of_jitter() -> None:
    both = AugmentConfig(rand_augment="rand-m9", color_jitter=0.4)
    assert type(color_transform(both, image_size=32)).__name__ == "RandAugment"
    always = color_transform(replace(both, jitter_always=True), image_size=32)
    assert isinstance(always, Compose)  # ViTAS retrains with both, in this order
    assert [type(part).__name__ for part in always.transforms] == ["RandAugment", "ColorJitter"]
    assert always.transforms[1].brightness == (0.6, 1.4)
    assert type(color_transform(AugmentConfig(color_jitter=0.4), image_size=32)).__name__ == "ColorJitter"
    assert color_transform(AugmentConfig(), image_size=32) is None


def test_all_operations_run_on_this_pillow() -> None:
    transform = rand_augment("rand-m9-mstd3-inc1-p1.0", image_size=32)
    image = Image.fromarray(array_images(1, size=32).array[0])
    with preserve_rng_state():
        for seed in range(300):
            seed_global_rng(seed)
            assert transform(image).size == (32, 32)


def test_one_channel_has_the_mean_of_three() -> None:
    mean, std = Normalization(mean=(0.1, 0.2, 0.6), std=(0.5, 0.5, 0.2)).columns(1)
    assert mean == pytest.approx([0.3])
    assert std == pytest.approx([0.4])
