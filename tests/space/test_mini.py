"""The spaces for small sets of small images."""

import pytest

from hwnas.space import SPACES
from hwnas.space.space import MINI_SIZES
from hwnas.train.presets import RECIPES, default_recipe

FAMILIES = ("autoformer", "resnas", "vitas-twins", "glit")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_small_space_at_each_size(family: str) -> None:
    spaces = [SPACES.get(f"{family}-mini-{size}") for size in MINI_SIZES]
    costs = [space.costs(space.encode([space.smallest(), space.largest()])) for space in spaces]
    assert [space.config.image_size for space in spaces] == list(MINI_SIZES)
    assert all(space.size == spaces[0].size for space in spaces)
    assert all(15e4 < params[0] < 6e5 and 1e6 < params[1] < 2.1e6 for params, _ in costs)
    assert costs[-1].macs[1] < 1.3 * costs[0].macs[1]  # larger images have larger patches


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_trained_by_the_recipe_for_small_sets(family: str) -> None:
    assert default_recipe(SPACES.get(f"{family}-mini-96")) == "small"
    assert 30 <= RECIPES.get("small").epochs <= 100
