"""Folds of cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.features.table import Features

Rows = NDArray[np.intp]
_ROUNDING = 1e-10
"""Smaller differences, relative to the largest value of a column, are rounding errors."""


@dataclass(frozen=True)
class Fold:
    """Rows of the networks that are fitted and of those that are held out."""

    fit: Rows
    held_out: Rows


def make_folds(count: int, *, num_folds: int, seed: int, groups: Sequence[str | int] | None = None) -> tuple[Fold, ...]:
    """Split networks into folds of nearly equal size, at random.

    Args:
        count: Number of networks.
        num_folds: Number of folds.
        seed: Seed of the split.
        groups: Labels of networks that are held out together; by default each network is its own group. Identical
            networks must share a group, or a model would predict networks that it was fitted to.

    Raises:
        InputError: There are fewer groups than folds, or not one label per network.
    """
    labels = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(labels) != count:
        raise InputError("there must be as many groups as networks", got=f"{len(labels)} for {count}")
    sizes = np.bincount(labels)
    if len(sizes) < num_folds:
        message = f"there must be at least {num_folds} distinct networks (or groups of them) to hold some out"
        raise InputError(message, got=len(sizes), hint="measure more networks")
    owner = _assign_folds(sizes, num_folds=num_folds, seed=seed)[labels]
    rows = np.arange(count)
    return tuple(Fold(rows[owner != fold], rows[owner == fold]) for fold in range(num_folds))


def group_equal_networks(features: Features) -> list[int]:
    """Return a group number per network, the same for networks whose features differ by rounding errors alone.

    The numbers depend neither on the order of the rows nor on the last bits of a feature, which differ between CPUs:
    each value is replaced by its rank among the distinct values of its column.
    """
    # Sorting each column and counting the steps that exceed the tolerance gives the ranks without pairwise comparisons.
    columns = np.concatenate([features.costs, features.shapes], axis=1)
    tolerance = _ROUNDING * abs(columns).max(axis=0, initial=0)
    order = np.argsort(columns, axis=0, kind="stable")
    is_larger = np.diff(np.take_along_axis(columns, order, axis=0), axis=0) > tolerance
    ranks = np.zeros(columns.shape, dtype=np.intp)
    np.put_along_axis(ranks, order[1:], is_larger.cumsum(axis=0), axis=0)
    rows = np.concatenate([ranks, features.counts.astype(np.intp)], axis=1)
    groups: list[int] = np.unique(rows, axis=0, return_inverse=True)[1].ravel().tolist()
    return groups


def _assign_folds(sizes: NDArray[np.intp], *, num_folds: int, seed: int) -> Rows:
    """Return the fold of each group: large groups first, each to the fold with the fewest networks so far."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(num_folds, dtype=np.intp)
    owner = np.zeros(len(sizes), dtype=np.intp)
    for group in order:
        owner[group] = int(np.argmin(filled))
        filled[owner[group]] += sizes[group]
    return owner
