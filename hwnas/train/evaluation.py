"""Accuracy in a run: a judge of its sub-networks, and the file that remembers what it found."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from hwnas.config import parse_json
from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.lookup import find_arch
from hwnas.space.space import AnySpace, Candidate
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.data.loader import Batch, EvalLoader, TrainLoader
from hwnas.train.data.sources import DataSplits
from hwnas.train.evaluator import SupernetEvaluator

ACCURACIES_FILE = "accuracies.jsonl"
"""The file of a run that remembers the accuracies of its networks."""

Split = Literal["heldout", "test"]
_BATCH_SIZE = 256
_CALIBRATION_BATCHES, _CALIBRATION_SIZE = 20, 128
"""The images from which the statistics of batch norms are estimated anew."""


def make_evaluator(
    supernet: AnySupernet,
    data: DataSplits,
    *,
    checkpoint_id: str,
    split: Split = "heldout",
    cache: Path | None = None,
    workers: int = 0,
    device: torch.device | str = "cpu",
    keep_hits: bool = False,
) -> SupernetEvaluator:
    """What tells the accuracy of the networks of a supernet on one split."""
    shape = supernet.space.config.input_shape
    return SupernetEvaluator(
        supernet,
        make_eval_loader(data, shape, split=split, workers=workers),
        checkpoint_id=checkpoint_id,
        split_id=f"{data.fingerprint} {split}",
        recalibration=calibration_batches(data, shape),
        cache=cache,
        device=device,
        keep_hits=keep_hits,
    )


def make_eval_loader(data: DataSplits, shape: tuple[int, int, int], *, split: Split, workers: int = 0) -> EvalLoader:
    """The images of a split."""
    images = data.heldout if split == "heldout" else data.test
    assert images is not None
    return EvalLoader(images, image_shape=shape, batch_size=_BATCH_SIZE, workers=workers)


def calibration_batches(data: DataSplits, shape: tuple[int, int, int]) -> Iterable[Batch]:
    """Training images as they are, always the same."""
    plain = AugmentConfig(crop="none", scale=(1.0, 1.0), flip=0.0)
    batches = TrainLoader(data.train, augment=plain, image_shape=shape, batch_size=_CALIBRATION_SIZE, seed=0)
    return _Repeated(batches)


def weights_digest(path: Path) -> str:
    """The id of weights: what their file holds."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]


class _Repeated:
    """The first batches of an epoch, as often as they are asked for."""

    def __init__(self, batches: TrainLoader) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        return islice(self._batches.epoch(0), _CALIBRATION_BATCHES)


_ID = re.compile(r"[0-9a-f]{12,}", re.IGNORECASE)


def resolve_arch(
    space: AnySpace, given: str, run: Path | None, *, command: str, others: Iterable[Candidate] = ()
) -> Arch:
    """The network that is given as for `find_arch`, or by the first 12 digits of its id or more.

    An id is known where a network of it was judged in `run`, or where it is that of a published, the smallest or the
    largest network, or of one of `others`. `command` is what an error tells the user to try, with places for a space
    and an arch.
    """
    if not _ID.fullmatch(given) or Path(given).is_file():
        return find_arch(space, given, command=command)
    found = {id_: arch for id_, arch in _known(space, run, others) if id_.startswith(given.casefold())}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise InputError("an id must have enough digits to be of one network", got=given, known=sorted(found))
    where = space.name if run is None else str(run)
    hint = command.format(space=space.name, arch="'{…}'") + ", the network as JSON"
    raise InputError(f"no network with this id has been judged in {where}", got=given, hint=hint)


def _known(space: AnySpace, run: Path | None, others: Iterable[Candidate]) -> Iterator[tuple[str, Arch]]:
    named = (space.smallest(), space.largest(), *space.published.values())
    for candidate in (*space.candidates(space.encode(named)), *others):
        yield candidate.arch_id, candidate.arch
    file = None if run is None else run / ACCURACIES_FILE
    if file is not None and file.is_file():
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            row = parse_json(line, source=f"{file}, line {number}")
            if isinstance(row, dict) and "arch" in row:
                yield row["arch_id"], space.parse(row["arch"])
