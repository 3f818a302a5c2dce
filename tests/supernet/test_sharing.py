"""Sharing rules, each against its definition and the balance that it promises."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwnas.space.vitas import tenths
from hwnas.supernet.sharing import Index, Part, Span, centre, cyclic, interleaved, prefix, suffix, take, thirds


def positions(index: Index, *, total: int) -> list[int]:
    return index.take(torch.arange(total), axis=0).tolist()


def balance(chosen: Sequence[Index], *, total: int) -> tuple[list[float], list[float]]:
    """How many choices use each channel, and the mean relative width of those that do."""
    uses, widths = np.zeros(total), np.zeros(total)
    for index in chosen:
        where = positions(index, total=total)
        uses[where] += 1
        widths[where] += len(where) / total
    return uses.tolist(), (widths / uses).tolist()


def test_prefix_suffix_and_centre() -> None:
    assert positions(prefix(3), total=5) == [0, 1, 2]
    assert positions(suffix(3, total=5), total=5) == [2, 3, 4]
    assert positions(centre(3, total=7), total=7) == [2, 3, 4]


def test_rows_of_q_k_and_v() -> None:
    assert positions(thirds(6, total=12), total=12) == [0, 1, 4, 5, 8, 9]
    assert positions(interleaved(6), total=12) == [0, 3, 1, 4, 2, 5]


def test_the_ring_lays_arcs_end_to_end() -> None:
    widths = tuple(range(1, 11))
    starts = [0, 1, 3, 6, 0, 5, 1, 8, 6, 5]
    arcs = [sorted((start + step) % 10 for step in range(width)) for start, width in zip(starts, widths, strict=True)]
    assert [positions(cyclic(width, widths=widths), total=10) for width in widths] == arcs


@pytest.mark.parametrize("widest", [10, 240, 384, 768, 1024])
def test_the_ring_is_balanced(widest: int) -> None:
    """10 uniform ratios: 55 tenths over 10 groups of channels, also where the groups are no whole channels."""
    widths = tenths(widest)
    uses, seen = balance([cyclic(width, widths=widths) for width in widths], total=widest)
    assert (min(uses), max(uses)) == (5, 6)
    assert min(seen) == pytest.approx(0.650, abs=0.003)
    assert max(seen) == pytest.approx(0.740, abs=0.003)


def test_prefixes_and_both_sides_are_less_balanced() -> None:
    widths = tenths(10)
    left, right = [prefix(width) for width in widths], [suffix(width, total=10) for width in widths]
    uses, seen = balance(left, total=10)
    assert (min(uses), max(uses)) == (1, 10)
    assert (min(seen), max(seen)) == pytest.approx((0.55, 1.0))
    uses, seen = balance(left + right, total=10)
    assert (min(uses), max(uses)) == (11, 11)
    assert (min(seen), max(seen)) == pytest.approx((0.591, 0.773), abs=0.0005)


@given(st.sets(st.integers(1, 60), min_size=1, max_size=12))
def test_the_ring_of_any_widths(choices: set[int]) -> None:
    """Ascending positions, as many as the width; the arcs in turn go round the ring without gap or overlap."""
    widths = tuple(sorted(choices, reverse=True))
    total = max(widths)
    arcs = {width: positions(cyclic(width, widths=widths), total=total) for width in widths}
    assert all(len(arc) == width and arc == sorted(set(arc)) for width, arc in arcs.items())
    uses, _ = balance([prefix(total), *(cyclic(width, widths=widths) for width in widths)], total=total)
    assert max(uses) - min(uses) <= 1


def test_a_ring_arc_in_one_piece_is_a_view() -> None:
    assert cyclic(2, widths=(1, 2, 4)) == Span(1, 2)
    assert cyclic(4, widths=(1, 2, 4)) == Span(0, 4)
    assert cyclic(3, widths=(1, 2, 3, 4)) != Span(3, 3)


def test_parts_are_put_one_after_another() -> None:
    shared = {"a": torch.arange(12).reshape(4, 3), "b": torch.arange(3)[None] + 100}
    source = (Part("a", (Span(1, 2), cyclic(2, widths=(2, 1, 3)))), Part("b", (None, prefix(2))))
    assert take(source, shared).tolist() == [[4, 5], [7, 8], [100, 101]]
    assert take((Part("a", (suffix(1, total=4),)),), shared).tolist() == [[9, 10, 11]]
