"""Splitting pictures: balanced by class, fixed by a seed, and written down."""

from pathlib import Path

import numpy as np

from hwnas.errors import InputError
from hwnas.runs import write_atomic
from hwnas.train.data.images import Images, Indices, Labels

HELDOUT_LIST = "heldout.txt"
"""The file of a run that names the pictures held out of training."""


def stratified(labels: Labels, count: int, *, seed: int, keep: int = 0) -> Indices:
    """The numbers of `count` pictures, sorted; each class gives its share, to within one, and keeps at least `keep`."""
    sizes = np.bincount(labels)
    classes = np.count_nonzero(sizes)
    if sizes[sizes > 0].min() <= keep or not classes <= count <= len(labels) - keep * classes:
        left = " and leave one of each" if keep else ""
        message = f"pictures that are chosen must hold one of each class{left}"
        raise InputError(message, got=f"{count} of {len(labels)} pictures in {classes} classes")
    rng = np.random.default_rng(seed)
    chosen = []
    for label, quota in enumerate(_quotas(sizes, count, keep=keep)):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(members)[:quota])
    return np.sort(np.concatenate(chosen))


def split_off(labels: Labels, amount: float, *, seed: int) -> tuple[Indices, Indices]:
    """The numbers of the pictures that stay and of those split off.

    `amount` is a share below 1, which grows to one picture of each class, or else a number.
    """
    least = int(np.count_nonzero(np.bincount(labels)))
    count = max(round(amount * len(labels)), least) if amount < 1 else int(amount)
    away = stratified(labels, count, seed=seed, keep=1)
    return np.setdiff1d(np.arange(len(labels)), away), away


def write_list(path: Path, images: Images) -> None:
    """Write the names of pictures, one a line."""
    write_atomic(path, "".join(f"{key}\n" for key in images.keys))


def read_list(path: Path) -> tuple[str, ...]:
    """Read the names of pictures, one a line."""
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list of pictures {path} cannot be read", got=error) from error


def require_same_list(path: Path, images: Images) -> None:
    """The pictures must be those that a list names, in its order."""
    listed, found = read_list(path), tuple(images.keys)
    if listed != found:
        differ = len(set(listed) ^ set(found))
        raise InputError(
            f"the held-out pictures must be those of {path}",
            got=f"{len(found)} pictures, listed are {len(listed)}, {differ} differ",
            hint="the data set, its seed and the held-out share of the run",
        )


def _quotas(sizes: Indices, count: int, *, keep: int) -> Indices:
    """How many each class gives: in proportion, at least one, `count` in all."""
    shares = sizes * (count / sizes.sum())
    least, most = np.minimum(1, sizes), np.maximum(sizes - keep, 0)
    quotas: Indices = np.clip(np.floor(shares).astype(np.int64), least, most)
    while quotas.sum() != count:
        step = 1 if quotas.sum() < count else -1
        room = quotas < most if step > 0 else quotas > least
        quotas[np.argmax(np.where(room, step * (shares - quotas), -np.inf))] += step
    return quotas
