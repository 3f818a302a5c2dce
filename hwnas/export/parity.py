"""Check that an exported network gives torch's outputs: the same seeded images run through both.

In float32 this is one comparison. In a lower precision there are two:

- The content of the file, computed in float32, against torch's network with rounded weights. Both have the same
  weights and no rounding in between, so a wrong weight or a missing bias shows, however small its effect.
- The file as it runs in its precision, against torch in float32, within the tolerance that rounding explains
  (`hwnas.export.rounding`). Alone it would not do: rounding is as large as the effect of many errors.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.config import to_mapping
from hwnas.errors import CheckFailedError, InputError
from hwnas.export.accuracy import LogitsFunction, QuantisedAccuracy, require_accuracy
from hwnas.export.rounding import rounding_tolerance
from hwnas.files import file_errors, write_atomic

SCHEMA = "hwnas.parity/3"

EXACT_TOLERANCE = 1e-4
"""Largest difference without rounding, as a share of the largest logit. Float32 sums in another order stay below it."""

_ROUNDING_IMAGES = 4
"""Images that rounding is simulated with."""

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ExactCheck:
    """The comparison without rounding: a way to run the exported network in float32, and the module it must equal."""

    run: LogitsFunction
    module: nn.Module


@dataclass(frozen=True, kw_only=True)
class ExportParity:
    """Differences between the outputs of an exported network and torch's, which computed in float32 on the CPU."""

    max_absolute: float
    max_relative: float
    """The largest difference as a share of the largest logit, or of the largest value of a feature map."""
    top1_agreement: float | None
    """The share of images with the same first class. None for the feature maps of a backbone."""
    images: int
    batches: tuple[int, ...]
    """The batch sizes that were run."""
    seed: int
    precision: str
    tolerance: float | None
    """Upper limit of `max_relative`: in a lower precision, the difference that rounding explains for this network. None
    in a quantised graph, for which `accuracy` decides."""
    exact_relative: float | None = None
    """The largest difference without rounding, between the file and torch with the same rounded weights, both computed
    in float32; in int8, between the graph before it was quantised and torch. None in float32, where it is
    `max_relative`, and for TensorRT, whose engines have one precision."""
    exact_tolerance: float = EXACT_TOLERANCE
    runtime: str
    """The runtime that ran the exported network."""
    sha256: str | None = None
    """Hash of the file."""
    weights: str | None = None
    """Hash of torch's weights, which are the same in all files of a network; None in records of earlier versions."""
    accuracy: QuantisedAccuracy | None = None
    """Accuracy in int8 next to that in float32, on the images that the differences are of."""

    @property
    def unit(self) -> str:
        """Name of the values that were compared."""
        return "logit" if self.top1_agreement is not None else "value of a feature map"

    @property
    def passed(self) -> bool:
        """True if the differences are within the tolerances, and in int8 the accuracy as well."""
        is_near = self.tolerance is None or self.max_relative <= self.tolerance
        is_accurate = self.accuracy is None or self.accuracy.passed
        return is_near and is_accurate and (self.exact_relative or 0.0) <= self.exact_tolerance


def check_parity(
    module: nn.Module,
    run: LogitsFunction,
    *,
    input_shape: Sequence[int],
    precision: str = "fp32",
    batches: Sequence[int] = (1,),
    images: int = 16,
    seed: int = 0,
    runtime: str = "onnxruntime",
    exact: ExactCheck | None = None,
    is_map: bool = False,
) -> ExportParity:
    """Compare an exported network with torch.

    Args:
        module: The float32 module in evaluation mode.
        run: Runs the exported network.
        input_shape: Shape of one image: channels, height, width.
        precision: Precision of the exported network.
        batches: Batch sizes, which take turns.
        images: Number of images, rounded up to whole batches.
        seed: Seed of the images.
        runtime: Name of the runtime, for the record.
        exact: The comparison without rounding, for a lower precision.
        is_map: The output is a feature map, which has no first class.

    Returns:
        The differences. Whether they are small enough is up to `passed` and `require_parity`.

    Raises:
        CheckFailedError: The outputs have another shape than torch's, or are not finite.
    """
    parts = list(_draw_batches(input_shape, sizes=batches, count=images, seed=seed))
    expected, outputs = _logits(module, parts), np.concatenate([np.asarray(run(part), np.float32) for part in parts])
    _require_comparable(outputs, expected, precision=precision)
    difference, relative = largest_difference(outputs, expected)
    exact_relative = None
    if exact is not None:
        exact_outputs, exact_expected = np.asarray(exact.run(parts[0]), np.float32), _logits(exact.module, parts[:1])
        _require_comparable(exact_outputs, exact_expected, precision=precision)
        _, exact_relative = largest_difference(exact_outputs, exact_expected)
    return ExportParity(
        max_absolute=difference,
        max_relative=relative,
        top1_agreement=None if is_map else float((outputs.argmax(-1) == expected.argmax(-1)).mean()),
        images=len(expected),
        batches=tuple(dict.fromkeys(map(len, parts))),
        seed=seed,
        precision=precision,
        tolerance=rounding_tolerance(module, torch.from_numpy(parts[-1][:_ROUNDING_IMAGES]), precision=precision),
        exact_relative=exact_relative,
        runtime=runtime,
        weights=weights_hash(module),
    )


def require_parity(parity: ExportParity) -> None:
    """Raise a CheckFailedError unless the differences are within the tolerances."""
    if (parity.exact_relative or 0.0) > parity.exact_tolerance:
        raise CheckFailedError(
            f"the exported network must equal torch's: without rounding, its outputs must be within "
            f"{parity.exact_tolerance:g} of the largest {parity.unit} of torch's with the same {parity.precision} "
            "weights",
            got=f"{parity.exact_relative:.2g} of the largest {parity.unit}",
            hint="exporter='dynamo'",
        )
    if parity.accuracy is not None:
        require_accuracy(parity.accuracy, precision=parity.precision)
    if not parity.passed:
        got = f"{parity.max_relative:.2g} of the largest {parity.unit}"
        if parity.top1_agreement is not None:
            got += f", {parity.top1_agreement:.0%} of the first classes agree"
        raise CheckFailedError(
            f"outputs of the exported network must be within {parity.tolerance:.2g} of the largest {parity.unit} of "
            f"torch's in {parity.precision}",
            got=got,
            hint="precision fp32" if parity.precision != "fp32" else "exporter='dynamo'",
        )


def write_checked(
    parity: ExportParity, path: Path, *, content: bytes, write: Callable[[], object] | None = None
) -> ExportParity:
    """Write an exported network and its parity record; if the check failed, write the record alone.

    Args:
        parity: The result of the check.
        path: The file of the network.
        content: Its content, whose hash the record names.
        write: Writes the network, for a format of several files; None to write the content to the path.

    Returns:
        The parity with the hash.

    Raises:
        CheckFailedError: The check failed.
    """
    signed = replace(parity, sha256=hashlib.sha256(content).hexdigest())
    if not signed.passed:
        save_parity(signed, path)
    require_parity(signed)
    # The record is last: if writing the network fails, no record vouches for whatever the path holds. If writing the
    # record fails, as on a disk that is now full, the network goes too: nothing would say that it is right.
    if write is None:
        write_atomic(path, content)
    else:
        write()
    try:
        save_parity(signed, path)
    except InputError:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return signed


def save_parity(parity: ExportParity, path: Path) -> None:
    """Write the parity record of an exported file."""
    body = {"schema": SCHEMA, "passed": parity.passed, **to_mapping(parity)}
    write_atomic(parity_path(path), json.dumps(body, indent=2, allow_nan=False) + "\n")


def weights_hash(module: nn.Module) -> str:
    """Return a hash of the weights of a module, whatever their names."""
    found = hashlib.sha256()
    for tensor in module.state_dict().values():
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def require_same_weights(module: nn.Module, paths: Sequence[Path]) -> None:
    """Require that existing files of a network hold the weights of a module, so that replacing them loses nothing.

    Args:
        module: The float32 module.
        paths: Files that are to be written; of one without a record of its weights nothing is required.

    Raises:
        InputError: A file holds other weights.
    """
    for path in paths:
        known = _recorded_weights(path) if path.exists() else None
        if known not in (None, weights_hash(module)):
            message = "a file of this network with other weights must not be replaced by chance"
            raise InputError(message, got=path, hint="another --out, or --replace")


def _recorded_weights(path: Path) -> str | None:
    try:
        record = json.loads(parity_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    found = record.get("weights") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None


def remove_parity(path: Path) -> None:
    """Remove the record of an earlier export to the same path, before the next export begins."""
    with file_errors(parity_path(path), "removed"):
        parity_path(path).unlink(missing_ok=True)


def parity_path(path: Path) -> Path:
    """Return the path of the parity record of an exported file, `NAME.parity.json`."""
    return path.with_name(f"{path.name}.parity.json")


def _draw_batches(input_shape: Sequence[int], *, sizes: Sequence[int], count: int, seed: int) -> Iterator[Array]:
    """Yield random images until there are enough and each batch size has had a turn."""
    rng = np.random.default_rng(seed)
    drawn = 0
    for index, size in enumerate(cycle(sizes)):
        if drawn >= count and index >= len(sizes):
            return
        drawn += size
        yield rng.standard_normal((size, *input_shape), dtype=np.float32)


def _logits(module: nn.Module, parts: Sequence[Array]) -> Array:
    with torch.inference_mode():
        return np.concatenate([module(torch.from_numpy(part)).float().numpy() for part in parts])


def largest_difference(outputs: Array, expected: Array) -> tuple[float, float]:
    """Return the largest difference, absolute and as a share of the largest logit."""
    difference, largest = float(np.abs(outputs - expected).max()), float(np.abs(expected).max())
    return difference, difference / largest if largest else difference


def _require_comparable(outputs: Array, expected: Array, *, precision: str) -> None:
    if outputs.shape != expected.shape:
        message = f"an exported network must give outputs of torch's shape, {expected.shape}"
        raise CheckFailedError(message, got=outputs.shape)
    more_range = "bf16, which has the range of fp32, or fp32"
    for logits, message, hint in (
        (expected, "torch's outputs in fp32 must be finite numbers", "other weights"),
        (outputs, f"the exported network's outputs in {precision} must be finite numbers", more_range),
    ):
        if number := int((~np.isfinite(logits)).sum()):
            raise CheckFailedError(message, got=f"{number} of {logits.size} are NaN or infinite", hint=hint)
