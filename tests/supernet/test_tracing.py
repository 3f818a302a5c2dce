"""The traced workload of our networks is the closed form of their spaces."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from hwnas.export.tracer import trace_workload
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_network
from hwnas.workload import Workload
from tests.marks import slow_but

MOVEMENT = {"cat", "pad", "gather", "expand"}
"""What a network does to its tokens between operations, of which the closed form says nothing."""


def rows(workload: Workload) -> Counter[tuple[Any, ...]]:
    """The operations as values, names and order left out."""
    found = (operation for operation in workload.operations if operation.label not in MOVEMENT)
    return Counter((one.label, *sorted(one.shape.items()), one.macs, one.params, one.traits) for one in found)


def traced(space: AnySpace, arch: Any) -> Workload:
    with torch.device("meta"):
        network = make_network(space, arch)
    return trace_workload(network, image_size=space.config.image_size, channels=space.config.channels)


def archs(space: AnySpace) -> list[Any]:
    count = 1 if space.name.startswith("elastic") else 3  # there are many kinds of these, of one family
    random = space.decode(space.sample(np.random.default_rng(3), count))
    return [space.smallest(), space.largest(), *space.published.values(), *random]


ELASTIC = (
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch32_siglip_256",
    "vit_base_patch16_gap_224",
    "vit_little_patch16_reg1_gap_256",
    "beit3_base_patch16_224",
    "eva02_tiny_patch14_224",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3",
    "test_vit3",
)
"""Models of timm, one of each kind that elastic spaces support."""
MODELS = [f"elastic:timm:{name}" for name in ELASTIC]
FAST = (
    *(name for name in SPACES.names() if name.endswith("-micro")),
    "vitas-deit-small",
    *(name for name in MODELS if "base" not in name),
)
"""Larger spaces of a family differ from its smaller ones in sizes alone."""


@pytest.mark.parametrize("name", slow_but([*SPACES, *MODELS], *FAST))
def test_traced_operations_are_those_of_the_closed_form(name: str) -> None:
    space = SPACES.get(name)
    for arch in archs(space):
        found, expected = traced(space, arch), space.workload(arch)
        assert (found.macs, found.macs_executed, found.params) == (
            expected.macs,
            expected.macs_executed,
            expected.params,
        )
        assert rows(found) == rows(expected)


def test_every_traced_row_has_a_name_of_its_own() -> None:
    space = SPACES.get("autoformer-micro")
    names = [operation.name for operation in traced(space, space.largest()).operations]
    assert len(set(names)) == len(names)
    assert "blocks.3.attention.relative.relative_position" in names
