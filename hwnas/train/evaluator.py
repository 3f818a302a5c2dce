"""The accuracy of networks with the weights that they have: of sub-networks of a supernet, or of any module."""

import json
import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwnas.config import parse_json
from hwnas.errors import InputError, unknown
from hwnas.space.arch import Arch
from hwnas.supernet.batch_norm import recalibrate
from hwnas.supernet.network import Network
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.loader import Batch, EvalLoader
from hwnas.train.prefix_tree import Lineage, PrefixCache, PrefixTree

_log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
Hits = NDArray[np.bool_]

NETWORKS_PER_PASS = 64
"""Networks that are judged in one pass over the images, at most."""

NETWORKS_BYTES = 1 << 30
"""And no more than have this many bytes of weights, but for the last of them."""

CACHE_BYTES = 1 << 30
"""Decoded images are kept between calls where they take no more than this; what the first segments make of them too,
as far as there is room in as many bytes."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well one network does on one split."""

    arch_id: str
    top1: float
    """The share of images whose class is the first guess."""
    top5: float
    """The share whose class is among the first five, or among all where there are fewer."""
    loss: float
    """Mean cross-entropy."""
    count: int
    """Images that were looked at."""
    hits: Hits | None = field(default=None, compare=False, repr=False)
    """Whether the first guess was right, image by image, where it was asked for."""


class SupernetEvaluator:
    """The accuracy of sub-networks with inherited weights, each computed once.

    The first segments that networks have in common run once for all of them. A network with batch norms runs by itself
    and has their statistics estimated anew from the `recalibration` batches: those of a
    supernet mix what all of its networks see. Results are remembered by checkpoint, network, split and precision, in
    the file `cache` where there is one.
    """

    def __init__(
        self,
        supernet: AnySupernet,
        heldout: EvalLoader,
        *,
        checkpoint_id: str,
        split_id: str,
        recalibration: Iterable[Batch] | None = None,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        keep_hits: bool = False,
    ) -> None:
        self.supernet = supernet
        self.batches = _Kept(heldout)
        self.device, self.precision, self.keep_hits = torch.device(device), _known(precision), keep_hits
        self._recalibration = recalibration
        self._values = PrefixCache(CACHE_BYTES if self.batches.fits else 0)
        self._numbers: dict[Hashable, int] = {}
        key = {"checkpoint": checkpoint_id, "split": split_id, "precision": precision}
        self._memo = AccuracyCache(cache, key=key)

    def evaluate(self, archs: Sequence[Arch]) -> list[Accuracy]:
        """The accuracies in the order of the networks; new ones are judged in few passes over the images."""
        space = self.supernet.space
        ids = [candidate.arch_id for candidate in space.candidates(space.encode(archs))]
        new = {id_: arch for id_, arch in zip(ids, archs, strict=True) if self._remembered(id_) is None}
        _log.debug("evaluating %d networks, %d are known", len(new), len(archs) - len(new))
        for networks in self._groups(new):
            for accuracy in self._judged(networks):
                arch = new[accuracy.arch_id].to_mapping()
                self._memo.add(accuracy.arch_id, {**_row(accuracy), "arch": arch})
        return [_accuracy(id_, self._memo.get(id_), keep_hits=self.keep_hits) for id_ in ids]

    def _judged(self, networks: PrefixTree) -> list[Accuracy]:
        return _judged(
            networks, self.batches, self.device, self.precision, keep_hits=self.keep_hits, values=self._values
        )

    def _remembered(self, arch_id: str) -> Mapping[str, Any] | None:
        row = self._memo.get(arch_id)
        return None if row is None or (self.keep_hits and "hits" not in row) else row

    def _groups(self, archs: Mapping[str, Arch]) -> Iterator[PrefixTree]:
        """The networks by id, as many at once as one pass judges."""
        tree = PrefixTree()
        for id_, arch in archs.items():
            network = self._network(arch)
            if _has_batch_norms(network):
                tree.add(id_, (id_,), [network])
            else:
                tree.add(id_, self._lineage(arch), list(network.segments().values()))
            if len(tree) == NETWORKS_PER_PASS or tree.nbytes > NETWORKS_BYTES:
                yield tree
                tree = PrefixTree()
        if len(tree):
            yield tree

    def _network(self, arch: Arch) -> Network:
        network: Network = self.supernet.subnet(arch).to(self.device)
        if _has_batch_norms(network):
            recalibrate(network, self._calibrating())
        return network.eval()

    def _lineage(self, arch: Arch) -> Lineage:
        """Numbers in place of what segments are, which is long to compare."""
        return tuple(self._numbers.setdefault(origin, len(self._numbers)) for origin in self.supernet.lineage(arch))

    def _calibrating(self) -> Iterator[Tensor]:
        if self._recalibration is None:
            message = "a network of a supernet with batch norms needs batches to estimate their statistics from"
            raise InputError(message, got="none")
        if not isinstance(self._recalibration, Sequence):
            self._recalibration = list(self._recalibration)
        return (batch.images.to(self.device) for batch in self._recalibration)


def evaluate_module(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    name: str = "network",
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    keep_hits: bool = False,
) -> Accuracy:
    """The accuracy of one module with its own weights and statistics; its modes come back at the end."""
    modes = [(part, part.training) for part in module.modules()]
    module.to(device).eval()
    try:
        alone = PrefixTree()
        alone.add(name, (name,), [module])
        return _judged(alone, batches, torch.device(device), _known(precision), keep_hits=keep_hits)[0]
    finally:
        for part, training in modes:
            part.training = training


class _Kept:
    """Batches that are decoded once where they fit into memory."""

    def __init__(self, batches: EvalLoader) -> None:
        self._source: Iterable[Batch] = batches
        self.fits = len(batches.dataset) * 4 * int(np.prod(batches.image_shape)) <= CACHE_BYTES

    def __iter__(self) -> Iterator[Batch]:
        if self.fits and not isinstance(self._source, list):
            self._source = list(self._source)
        return iter(self._source)


class _Tally:
    """Right guesses of one network so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.top5 = 0
        self.loss = 0.0
        self.hits: list[Tensor] = []

    def add(self, logits_BC: Tensor, labels_B: Tensor) -> None:
        """Count one batch."""
        if not torch.isfinite(logits_BC).all():
            raise InputError(f"the outputs of network {self.name} must be finite numbers", got="NaN or infinity")
        guesses = logits_BC.topk(min(5, logits_BC.shape[1]), dim=1).indices
        right = guesses == labels_B[:, None]
        self.hits.append(right[:, 0].cpu())
        self.top5 += int(right.sum())
        self.loss += float(F.cross_entropy(logits_BC, labels_B, reduction="sum"))

    def result(self, *, keep_hits: bool) -> Accuracy:
        """The accuracy over all batches."""
        if not self.hits:
            raise InputError("there must be at least one image to judge a network on", got="none")
        hits = torch.cat(self.hits).numpy()
        return Accuracy(
            arch_id=self.name,
            top1=float(hits.mean()),
            top5=self.top5 / len(hits),
            loss=self.loss / len(hits),
            count=len(hits),
            hits=hits if keep_hits else None,
        )


def _judged(
    networks: PrefixTree,
    batches: Iterable[Batch],
    device: torch.device,
    precision: Precision,
    *,
    keep_hits: bool,
    values: PrefixCache | None = None,
) -> list[Accuracy]:
    """One pass over the images with all of these networks, which are in eval mode."""
    tallies = {name: _Tally(name) for name in networks.names}
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            images, labels = batch.images.to(device), batch.labels.to(device)
            with _autocast(device, precision):
                for name, logits in networks.run(images, batch=number, kept=values):
                    tallies[name].add((logits[0] if isinstance(logits, tuple) else logits).float(), labels)
    return [tally.result(keep_hits=keep_hits) for tally in tallies.values()]


def _has_batch_norms(network: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in network.modules())


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _known(precision: Precision) -> Precision:
    if precision not in ("fp32", "bf16"):
        raise unknown("precision", str(precision), ("fp32", "bf16"))
    return precision


def _row(accuracy: Accuracy) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(accuracy, name) for name in ("top1", "top5", "loss", "count")}
    if accuracy.hits is not None:
        row["hits"] = np.packbits(accuracy.hits).tobytes().hex()
    return row


def _accuracy(arch_id: str, row: Mapping[str, Any] | None, *, keep_hits: bool) -> Accuracy:
    assert row is not None
    hits = None
    if keep_hits:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["hits"]), dtype=np.uint8))
        hits = bits[: row["count"]].astype(np.bool_)
    figures = {name: row[name] for name in ("top1", "top5", "loss", "count")}
    return Accuracy(arch_id=arch_id, hits=hits, **figures)


class AccuracyCache:
    """Rows by name under one key; a last line that was cut off by a kill is dropped. One process writes at a time."""

    def __init__(self, path: Path | None, *, key: Mapping[str, str]) -> None:
        self.path = path
        self.key = dict(key)
        self._rows: dict[str, Mapping[str, Any]] = {}
        if path is not None and path.exists():
            self._read(path)

    def get(self, name: str) -> Mapping[str, Any] | None:
        """What is remembered of a name under this key."""
        return self._rows.get(name)

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Remember a row, for good."""
        self._rows[name] = dict(row)
        if self.path is None:
            return
        line = json.dumps({**self.key, "arch_id": name, **row}, allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.path} cannot be written", got=error) from error

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read", got=error) from error
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            os.truncate(path, len(data) - len(torn))  # or the next row would stand in the same line
        for number, line in enumerate(whole.splitlines(), start=1):
            self._take(line, source=f"{path}, line {number}")

    def _take(self, line: bytes, *, source: str) -> None:
        row = parse_json(line.decode(errors="replace"), source=source)
        if not isinstance(row, dict) or not isinstance(row.get("arch_id"), str):
            raise InputError(f"{source} must be a table with an arch_id", got=line[:80])
        if all(row.get(name) == value for name, value in self.key.items()):
            self._rows[row["arch_id"]] = {name: row[name] for name in row if name not in (*self.key, "arch_id")}
