"""GLiT's levels as spaces of their own: `layout-NAME` and `details-GROUPS-NAME`."""

import numpy as np
import pytest
import torch

from hwnas.config import to_mapping
from hwnas.errors import InputError
from hwnas.pipeline.search.options import choose_strategy
from hwnas.space import SPACES
from hwnas.supernet.glit import GlitSupernet, GlitSupernetConfig
from hwnas.train.presets import default_recipe

RELEASED = "301301310303"


def test_each_level_has_the_networks_of_the_paper() -> None:
    assert SPACES.get("layout-glit-tiny").size == 4**12
    details = SPACES.get(f"details-{RELEASED}-glit-tiny")
    assert details.size == 9**12
    assert details.costs(details.encode([details.published["GLiT-T"]])).params.tolist() == [7_264_456]
    assert SPACES.get("details-300000000000-glit-tiny").published == {}


@pytest.mark.parametrize("level", ["layout-", "details-012301230123-"])
@pytest.mark.parametrize("name", ["glit-tiny", "glit-tiny-paper"])
def test_networks_of_a_level_are_those_of_the_space(level: str, name: str) -> None:
    space, whole = SPACES.get(level + name), SPACES.get(name)
    genomes = space.sample(np.random.default_rng(0), 20)
    archs = space.decode(genomes)
    assert space.costs(genomes).macs.tolist() == whole.costs(whole.encode(archs)).macs.tolist()
    if level.startswith("layout"):
        assert {block.value_ratio for arch in archs for block in arch.blocks} == {None, 1.0}
        assert {block.expansion for arch in archs for block in arch.blocks} == {None, 2}
        assert {block.mlp_ratio for arch in archs for block in arch.blocks} == {4}
    else:
        assert {tuple(block.groups for block in arch.blocks) for arch in archs} == {(0, 1, 2, 3) * 3}


@pytest.mark.parametrize("share", ["slices", "none"])
@pytest.mark.parametrize("name", ["layout-glit-micro", "details-0123-glit-micro"])
def test_the_supernet_of_a_level_runs_its_networks(name: str, share: str) -> None:
    space = SPACES.get(name)
    supernet = GlitSupernet(space, GlitSupernetConfig(share=share)).eval()  # type: ignore[arg-type]
    images = torch.randn(2, *space.config.input_shape)
    for arch in space.decode(space.sample(np.random.default_rng(1), 3)):
        assert torch.allclose(supernet(images, arch), supernet.subnet(arch)(images), atol=1e-5)
    candidates = {key.split(".")[3] for key in supernet.state_dict() if key.startswith("shared.blocks.0.")}
    if share == "none":
        assert candidates == set(map(str, range(4 if name.startswith("layout") else 9)))


def test_a_level_has_the_recipe_of_its_space_and_is_searched_at_once() -> None:
    for name in ("layout-glit-tiny", f"details-{RELEASED}-glit-tiny"):
        assert default_recipe(SPACES.get(name)) == "glit"
        assert choose_strategy(None, space=SPACES.get(name), expensive=True)[0] == "rounds"
    assert choose_strategy(None, space=SPACES.get("glit-tiny"), expensive=True)[0] == "hierarchical"
    assert "layout" not in to_mapping(SPACES.get("glit-tiny").config)  # digests of the space are those of before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("details-30-glit-tiny", "must be 12 numbers of attention groups"),
        ("details-401301310303-glit-tiny", "each from 0 to 3"),
        ("layout-autoformer-tiny", "only a space of GLiT"),
        ("layout-layout-glit-tiny", "only a space of GLiT"),
        ("layout-nothing", "nothing"),
        ("details-", "space"),
    ],
)
def test_names_of_levels_that_there_are_not(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SPACES.get(name)
