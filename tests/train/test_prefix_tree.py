"""Networks in one pass against each of them by itself."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwnas.space.autoformer import MICRO as AUTOFORMER
from hwnas.space.space import AnySpace
from hwnas.supernet.autoformer import AutoFormerSupernet
from hwnas.supernet.families import make_supernet
from hwnas.train.prefix_tree import PrefixCache, PrefixTree
from tests.strategies import TINY, space_id

IMAGES = torch.arange(6.0).reshape(2, 3)


class Counted(nn.Module):
    """Adds a number, and counts how often it did so."""

    def __init__(self, number: float, runs: Counter[float]) -> None:
        super().__init__()
        self.number, self.runs = number, runs
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.runs[self.number] += 1
        return 2 * x + self.number


def tree_of(*networks: tuple[int, ...]) -> tuple[PrefixTree, Counter[float]]:
    runs: Counter[float] = Counter()
    tree = PrefixTree()
    for network in networks:
        tree.add(str(network), network, [Counted(number, runs) for number in network])
    return tree, runs


def plain(network: tuple[int, ...]) -> Tensor:
    x = IMAGES
    for number in network:
        x = 2 * x + number
    return x


def test_what_networks_begin_with_runs_once() -> None:
    networks = ((1, 2, 3), (1, 4), (5, 2), (1, 2, 6), (1, 2))
    tree, runs = tree_of(*networks)
    outputs = dict(tree.run(IMAGES))
    assert runs == {1: 1, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1}
    assert set(outputs) == {str(network) for network in networks} == set(tree.names)
    assert all(torch.equal(outputs[str(network)], plain(network)) for network in networks)
    assert (len(tree), tree.nbytes) == (5, 7 * 16)


def test_values_are_kept_for_the_next_pass_batch_by_batch() -> None:
    kept = PrefixCache(1 << 20)
    for batch in (0, 1):
        dict(tree_of((1, 2, 3))[0].run(IMAGES + batch, batch=batch, cache=kept))
    tree, runs = tree_of((1, 2, 4), (1, 5))
    outputs = dict(tree.run(IMAGES, batch=0, cache=kept))
    assert runs == {4: 1, 5: 1}
    assert torch.equal(outputs["(1, 2, 4)"], plain((1, 2, 4)))
    assert kept.nbytes == 4 * IMAGES.nbytes


def test_deep_values_go_before_shallow_ones() -> None:
    kept = PrefixCache(3 * IMAGES.nbytes)
    for lineage in ((1,), (1, 2), (1, 2, 3)):
        kept.add(0, lineage, IMAGES)
    kept.add(0, (4,), IMAGES)
    kept.add(0, (4, 5, 6), IMAGES)
    assert [kept.get(0, lineage) is None for lineage in ((1,), (1, 2), (1, 2, 3), (4,), (4, 5, 6))] == [
        False, False, True, False, True,
    ]  # fmt: skip
    assert kept.nbytes == 3 * IMAGES.nbytes
    nothing = PrefixCache(0)
    nothing.add(0, (1,), IMAGES)
    assert nothing.get(0, (1,)) is None


@pytest.mark.parametrize("space", TINY, ids=space_id)
def test_equal_lineages_are_equal_segments(space: AnySpace) -> None:
    torch.manual_seed(0)
    supernet = make_supernet(space).eval()
    segments: dict[object, dict[str, Tensor]] = {}
    met = 0
    for arch in space.decode(space.sample(np.random.default_rng(0), 12)):
        parts = supernet.subnet(arch).segments().values()
        lineage = supernet.lineage(arch)
        assert len(lineage) == len(parts)
        for origin, part in zip(lineage, parts, strict=True):
            met += origin in segments
            known = segments.setdefault(origin, part.state_dict())
            assert all(torch.equal(known[name], value) for name, value in part.state_dict().items())
    assert met


def test_slices_of_one_size_from_other_blocks_are_told_apart() -> None:
    supernet = AutoFormerSupernet(AUTOFORMER)
    _, *blocks, _ = supernet.lineage(AUTOFORMER.largest())
    assert len(set(blocks)) == len(blocks) > 1
