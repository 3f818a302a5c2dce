"""AutoFormer's supernet against the official code's outputs."""

from typing import Any

import pytest
import torch

from hwnas.space.autoformer import BASE, TINY, AutoFormer, AutoFormerArch, AutoFormerBlock, AutoFormerConfig
from hwnas.supernet.autoformer import AutoFormerSupernet, AutoFormerSupernetConfig
from hwnas.supernet.official.keys import fill, translate
from hwnas.supernet.official.rules import AUTOFORMER_RULES
from tests.marks import slow_but
from tests.supernet.golden import assert_golden, golden, images, weights

SMALL = ("autoformer-small-full", "autoformer-small-mixed", "autoformer-small-clipped-cls")
PUBLISHED = {"autoformer-t": TINY, "autoformer-b": BASE}


def small_space(config: dict[str, Any]) -> AutoFormer:
    """A space that holds the small golden networks."""
    return AutoFormer(
        name="small",
        config=AutoFormerConfig(
            image_size=config["img_size"],
            num_classes=config["num_classes"],
            patch_size=config["patch_size"],
            embed_dims=(128, 168, 192),
            depths=(2, 3, 4),
            num_heads=(1, 2, 3),
            mlp_ratios=(1.5, 3.0, 3.5, 4.0),
            relative_clip=config["max_relative_position"],
            pooling="average" if config["gp"] else "token",
        ),
    )


def golden_arch(config: dict[str, Any]) -> AutoFormerArch:
    """The golden network in our terms."""
    pairs = zip(config["num_heads"], config["mlp_ratio"], strict=True)
    blocks = tuple(AutoFormerBlock(num_heads=heads, mlp_ratio=ratio) for heads, ratio in pairs)
    return AutoFormerArch(embed_dim=config["embed_dim"][0], blocks=blocks)


@pytest.mark.parametrize("name", slow_but([*SMALL, *PUBLISHED], *SMALL, "autoformer-t"))
def test_official_outputs(name: str) -> None:
    record = golden(name)
    config = record["config"]["supernet"]
    space = PUBLISHED.get(name) or small_space(config)
    options = AutoFormerSupernetConfig(embed_dim=config["embed_dim"], plain_bias=True)
    supernet = AutoFormerSupernet(space, options).eval()
    fill(supernet.shared, translate(weights(record["shapes"]), AUTOFORMER_RULES))
    arch = golden_arch(record["config"]["arch"])
    with torch.inference_mode():
        assert_golden(supernet(images(record), arch), record)
        subnet = supernet.subnet(arch)
        assert_golden(subnet(images(record)), record)
    assert sum(parameter.numel() for parameter in subnet.parameters()) == record["config"]["sampled_params"]
