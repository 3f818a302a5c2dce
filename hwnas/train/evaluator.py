"""Accuracy of networks with given weights: of sub-networks of a supernet, or of any single module."""

import json
import logging
import math
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwnas.config import shown
from hwnas.errors import InputError, unknown
from hwnas.files import file_errors, printable, read_bytes, refuse_link
from hwnas.space.arch import Arch
from hwnas.supernet.batch_norm import recalibrate
from hwnas.supernet.network import Network
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.loader import Batch, EvalLoader
from hwnas.train.evaluated import parse_accuracies
from hwnas.train.executor import EvalPrecision, EvaluationCallback, Executor, Measure, Row
from hwnas.train.fake_quantisation import FakeQuantiser
from hwnas.train.prefix_tree import Lineage, PrefixCache, PrefixTree

Hits = NDArray[np.bool_]

NETWORKS_PER_PASS = 64
"""Largest number of networks that are evaluated in one pass over the images."""

NETWORKS_BYTES = 1 << 30
"""Size of their weights at which no further network joins the pass."""

CACHE_BYTES = 1 << 30
"""Decoded images are kept between calls up to this size, and so are values of first segments, up to the same size."""

_FIGURES = ("top1", "top5", "loss", "count")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy of one network on one split."""

    arch_id: str
    top1: float
    """Share of images whose most likely class is right."""
    top5: float
    """Share of images whose class is among the five most likely ones, or all if there are fewer."""
    loss: float
    """Mean cross-entropy."""
    count: int
    """Number of images."""
    hits: Hits | None = field(default=None, compare=False, repr=False)
    """For each image, True if the most likely class is right; None unless requested."""


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Training images that int8 finds the ranges of activations on."""

    name: str
    """States in the cache how they were chosen."""
    batches: Iterable[Batch]
    """They can be iterated over repeatedly."""

    def on(self, device: torch.device) -> Iterable[Tensor]:
        """Return the images on a device, loaded once."""
        return _OnDevice(self.batches, device)


class _OnDevice:
    """Images of batches, which are loaded when they are first needed and kept."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._images: list[Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        if self._images is None:
            self._images = [batch.to(self._device).images for batch in self._batches]
        return iter(self._images)


class SupernetEvaluator:
    """Evaluates sub-networks with inherited weights, each once.

    Segments that several networks begin with are run once for all of them. A network with batch norms is run on its
    own, with statistics that are estimated anew, because those of a supernet mix what all of its networks see. Results
    are cached by checkpoint, network, split and precision.

    Args:
        supernet: Supernet with the weights.
        heldout: Images to evaluate on.
        checkpoint_id: Identifies the weights in the cache.
        split_id: Identifies the images in the cache.
        recalibration: Batches that the statistics of batch norms are estimated from.
        cache: File of the cache; None: cache in memory only.
        device: Device that networks run on.
        precision: Precision that networks are evaluated in.
        calibration: Images that int8 finds the ranges of activations on.
        keep_hits: Keep which images are classified correctly.
        executor: Evaluates networks that are not in the cache; None: this process does.

    Raises:
        InputError: The precision is unknown, or the cache is broken.
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
        precision: EvalPrecision = "fp32",
        calibration: CalibrationImages | None = None,
        keep_hits: bool = False,
        executor: Executor | None = None,
    ) -> None:
        self.supernet = supernet
        self.batches = DecodedOnce(heldout)
        self.device, self.keep_hits = torch.device(device), keep_hits
        self.precision = _check_precision(precision, get_args(EvalPrecision))
        self._quantiser = None
        if precision in ("fp8", "int8", "int8-dynamic"):
            if calibration is None:
                raise InputError(f"{precision} needs images to find the ranges of activations on", got="none")
            self._quantiser = FakeQuantiser(precision, calibration.on(self.device))
        self._recalibration, self._executor = recalibration, executor
        self._values = PrefixCache(CACHE_BYTES if self.batches.fits else 0)
        self._segment_numbers: dict[Hashable, int] = {}
        name = precision if self._quantiser is None or calibration is None else f"{precision}, {calibration.name}"
        key = {"checkpoint": checkpoint_id, "split": split_id, "precision": name}
        self._cache = AccuracyCache(cache, key=key)

    def evaluate(self, archs: Sequence[Arch], *, progress: EvaluationCallback | None = None) -> list[Accuracy]:
        """Evaluate networks, in few passes over the images; those in the cache are not run again.

        Args:
            archs: The networks.
            progress: Called after each batch of images and after each pass.

        Raises:
            InputError: The outputs of a network are not finite, or there are no images.
        """
        return list(self.stream(archs, progress=progress))

    def stream(self, archs: Sequence[Arch], *, progress: EvaluationCallback | None = None) -> Iterator[Accuracy]:
        """Yield the accuracies that `evaluate` returns, in the order of the networks, each as soon as it is known."""
        space = self.supernet.space
        ids = [candidate.arch_id for candidate in space.candidates(space.encode(archs))]
        new = {arch_id: arch for arch_id, arch in zip(ids, archs, strict=True) if self._cached(arch_id) is None}
        num_known = len(archs) - len(new)
        _log.debug("evaluating %d networks, %d are known", len(new), num_known)
        rows = self._rows(new, None if progress is None else lambda done, images: progress(num_known + done, images))
        for arch_id in ids:
            while (known := self._cached(arch_id)) is None:
                found, row = next(rows)
                self._cache.add(found, {**row, "arch": new[found].to_mapping()})
            yield _from_row(arch_id, known, keep_hits=self.keep_hits)

    def _rows(self, archs: Mapping[str, Arch], progress: EvaluationCallback | None) -> Iterator[tuple[str, Row]]:
        if self._executor is not None:
            return self._executor.evaluate(archs, self.measure, progress=progress)
        return self._rows_of_this_process(archs, progress)

    def _rows_of_this_process(
        self, archs: Mapping[str, Arch], progress: EvaluationCallback | None
    ) -> Iterator[tuple[str, Row]]:
        done = 0
        for networks in self._passes(archs):
            accuracies = _evaluate_together(
                networks,
                _report_batches(self.batches, progress, done=done, num_networks=len(networks)),
                self.device,
                self.precision,
                keep_hits=self.keep_hits,
                values=self._values,
            )
            done += len(networks)
            yield from ((accuracy.arch_id, to_row(accuracy)) for accuracy in accuracies)

    @property
    def measure(self) -> Measure:
        """Settings that networks are evaluated with."""
        return Measure(precision=self.precision, keep_hits=self.keep_hits)

    def _cached(self, arch_id: str) -> Mapping[str, Any] | None:
        row = self._cache.get(arch_id)
        return None if row is None or (self.keep_hits and "hits" not in row) else row

    def _passes(self, archs: Mapping[str, Arch]) -> Iterator[PrefixTree]:
        """Build the networks, by id, in groups of as many as one pass evaluates."""
        tree = PrefixTree()
        for arch_id, arch in archs.items():
            network = self._extract(arch)
            if _has_batch_norms(network):
                lineage: Lineage = (arch_id,)
                segments: list[nn.Module] = [network]
            else:
                # Numbers stand for segments, whose descriptions take long to compare.
                numbers = self._segment_numbers
                lineage = tuple(numbers.setdefault(segment, len(numbers)) for segment in self.supernet.lineage(arch))
                segments = list(network.segments().values())
            if self._quantiser is not None:
                self._quantiser.quantise(segments, lineage)
            tree.add(arch_id, lineage, segments)
            if len(tree) == NETWORKS_PER_PASS or tree.nbytes > NETWORKS_BYTES:
                yield tree
                tree = PrefixTree()
        if len(tree):
            yield tree

    def _extract(self, arch: Arch) -> Network:
        network: Network = self.supernet.subnet(arch).to(self.device)
        if _has_batch_norms(network):
            recalibrate(network, self._calibration_images())
        return network.eval()

    def _calibration_images(self) -> Iterator[Tensor]:
        if self._recalibration is None:
            message = "a network of a supernet with batch norms needs batches to estimate their statistics from"
            raise InputError(message, got="none")
        if not isinstance(self._recalibration, Sequence):
            self._recalibration = list(self._recalibration)
        return (batch.to(self.device).images for batch in self._recalibration)


def evaluate_module(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    name: str = "network",
    device: torch.device | str = "cpu",
    precision: EvalPrecision = "fp32",
    keep_hits: bool = False,
    progress: EvaluationCallback | None = None,
) -> Accuracy:
    """Evaluate one module with its own weights and statistics.

    Args:
        module: Module from images to logits; its training modes are restored afterwards.
        batches: Images to evaluate on.
        name: Name of the network in the result and in errors.
        device: Device that the module is moved to.
        precision: Autocast precision.
        keep_hits: Keep which images are classified correctly.
        progress: Called after each batch of images and at the end.

    Raises:
        InputError: The outputs are not finite, or there are no images.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.to(device).eval()
    try:
        tree = PrefixTree()
        tree.add(name, (name,), [module])
        precision = _check_precision(precision, ("fp32", "bf16"))
        batches = _report_batches(batches, progress, done=0, num_networks=1)
        return _evaluate_together(tree, batches, torch.device(device), precision, keep_hits=keep_hits)[0]
    finally:
        for part, training in modes:
            part.training = training


class AccuracyCache:
    """Accuracies by network, in a file that is only appended to: one line of JSON each.

    A last line that a killed process left incomplete is dropped. The file must not be a symbolic link: a run that came
    from elsewhere could point it at any file of the user.

    Args:
        path: File of the cache; None: cache in memory only.
        key: Names and values that all rows of this cache have in common; other rows of the file are ignored.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """

    def __init__(self, path: Path | None, *, key: Mapping[str, str]) -> None:
        self.path = path
        self.key = dict(key)
        self._rows: dict[str, Mapping[str, Any]] = {}
        if path is not None:
            refuse_link(path)
            if path.exists():
                self._read(path)

    def get(self, arch_id: str) -> Mapping[str, Any] | None:
        """Return the row of a network, if there is one."""
        return self._rows.get(arch_id)

    def add(self, arch_id: str, row: Mapping[str, Any]) -> None:
        """Store the row of a network and flush it to disk."""
        self._rows[arch_id] = dict(row)
        if self.path is None:
            return
        line = json.dumps({**self.key, "arch_id": arch_id, **row}, allow_nan=False) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with file_errors(self.path, "written"):
            descriptor = os.open(self.path, flags, 0o644)
            with os.fdopen(descriptor, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())

    def _read(self, path: Path) -> None:
        data = read_bytes(path, follow_links=False)
        complete, _, incomplete = data.rpartition(b"\n")
        for number, row in enumerate(parse_accuracies(complete, path), start=1):
            if all(row.get(name) == value for name, value in self.key.items()):
                values = {name: row[name] for name in row if name not in (*self.key, "arch_id")}
                self._rows[row["arch_id"]] = values
                require_figures(values, source=f"{printable(path)}, line {number}")
        if incomplete:  # else the next row would continue that line; all others were checked to be accuracies
            with file_errors(path, "written"):
                os.truncate(path, len(data) - len(incomplete))


def require_figures(row: Mapping[str, Any], *, source: str) -> None:
    """Raise an InputError unless a row has the figures of an accuracy."""
    for name in _FIGURES:
        value = row.get(name)
        is_number = type(value) is int if name == "count" else type(value) in (int, float)
        low, high = {"count": (1, 10**12), "loss": (0, 1e300)}.get(name, (0, 1))
        if not is_number or not low <= value <= high:  # type: ignore[operator]  # numbers only
            message = f"{source}: {name} must be a number from {low:g} to {high:g}"
            raise InputError(message, got=shown(value))
    hits = row.get("hits", "")
    digits = 2 * -(-row["count"] // 8)
    if not isinstance(hits, str) or (hits and (len(hits) != digits or set(hits) - set("0123456789abcdef"))):
        raise InputError(f"{source}: hits must be {digits} hexadecimal digits", got=shown(hits))


def keeps_images(count: int, image_shape: tuple[int, int, int]) -> bool:
    """Return True if so many images are kept in memory after the first pass."""
    return count * 4 * math.prod(image_shape) <= CACHE_BYTES


class DecodedOnce:
    """Batches that are kept after the first pass if they fit into memory."""

    def __init__(self, batches: EvalLoader) -> None:
        self._source: Iterable[Batch] = batches
        self.fits = keeps_images(len(batches.dataset), batches.image_shape)

    def __iter__(self) -> Iterator[Batch]:
        if self.fits and not isinstance(self._source, list):
            self._source = list(self._source)
        return iter(self._source)


class _AccuracyCounter:
    """Accumulates the accuracy of one network over batches."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.top5 = 0
        self.loss = 0.0
        self.hits: list[Tensor] = []

    def add(self, logits_BC: Tensor, labels_B: Tensor) -> None:
        """Count one batch."""
        if not torch.isfinite(logits_BC).all():
            raise InputError(f"the outputs of network {self.name} must be finite numbers", got="NaN or infinity")
        top_classes = logits_BC.topk(min(5, logits_BC.shape[1]), dim=1).indices
        is_right = top_classes == labels_B[:, None]
        self.hits.append(is_right[:, 0].cpu())
        self.top5 += int(is_right.sum())
        self.loss += float(F.cross_entropy(logits_BC, labels_B, reduction="sum"))

    def result(self, *, keep_hits: bool) -> Accuracy:
        """Return the accuracy over all batches."""
        if not self.hits:
            raise InputError("there must be at least one image to evaluate a network on", got="none")
        hits = torch.cat(self.hits).numpy()
        return Accuracy(
            arch_id=self.name,
            top1=float(hits.mean()),
            top5=self.top5 / len(hits),
            loss=self.loss / len(hits),
            count=len(hits),
            hits=hits if keep_hits else None,
        )


def _evaluate_together(
    networks: PrefixTree,
    batches: Iterable[Batch],
    device: torch.device,
    precision: EvalPrecision,
    *,
    keep_hits: bool,
    values: PrefixCache | None = None,
) -> list[Accuracy]:
    """Evaluate networks in eval mode in one pass over the images."""
    counters = {name: _AccuracyCounter(name) for name in networks.names}
    with torch.inference_mode():
        for index, batch in enumerate(batches):
            moved = batch.to(device)
            images, labels = moved.images, moved.labels
            with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
                for name, logits in networks.run(images, batch=index, cache=values):
                    counters[name].add((logits[0] if isinstance(logits, tuple) else logits).float(), labels)
    return [counter.result(keep_hits=keep_hits) for counter in counters.values()]


def _report_batches(
    batches: Iterable[Batch], progress: EvaluationCallback | None, *, done: int, num_networks: int
) -> Iterator[Batch]:
    """Yield batches, and report each of them once the networks have been run on it."""
    images = 0
    for batch in batches:
        yield batch
        images += len(batch)
        if progress is not None:
            progress(done, images)
    if progress is not None:
        progress(done + num_networks, 0)


def _has_batch_norms(network: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in network.modules())


def _check_precision(precision: EvalPrecision, known: Sequence[str]) -> EvalPrecision:
    if precision not in known:
        raise unknown("precision", str(precision), known)
    return precision


def to_row(accuracy: Accuracy) -> dict[str, Any]:
    """Return an accuracy as plain values, without the id of the network."""
    row: dict[str, Any] = {name: getattr(accuracy, name) for name in _FIGURES}
    if accuracy.hits is not None:
        row["hits"] = np.packbits(accuracy.hits).tobytes().hex()
    return row


def _from_row(arch_id: str, row: Mapping[str, Any] | None, *, keep_hits: bool) -> Accuracy:
    assert row is not None
    hits = None
    if keep_hits:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["hits"]), dtype=np.uint8))
        hits = bits[: row["count"]].astype(np.bool_)
    return Accuracy(arch_id=arch_id, hits=hits, **{name: row[name] for name in _FIGURES})
