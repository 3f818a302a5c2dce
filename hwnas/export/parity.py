"""Whether an exported network gives what torch gives: the same seeded images through both.

In float32 that is one comparison. In a lower precision there are two: what is in the file, computed in float32, must
be torch's network with rounded weights, so that a wrong weight or a missing part cannot hide behind rounding; and the
file as it runs may be off by as much as rounding explains.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.config import to_mapping
from hwnas.errors import GateError
from hwnas.export.rounding import tolerance_of
from hwnas.runs import write_atomic

SCHEMA = "hwnas.parity/2"

EXACT_TOLERANCE = 1e-4
"""The largest difference without rounding, as a share of the largest logit: sums in another order are no more."""

_FOR_ROUNDING = 4
"""Images that rounding is judged by."""

Array = NDArray[np.float32]
Runner = Callable[[Array], Array]
"""Images (B, C, H, W) to logits."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """What an exported network is in exact numbers, and the module that it must equal then."""

    run: Runner
    module: nn.Module


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How the outputs of an exported network compare with torch's, which computed in float32 on the CPU."""

    max_absolute: float
    max_relative: float
    """The largest difference as a share of the largest logit."""
    top1_agreement: float
    """The share of images with the same first class."""
    images: int
    batches: tuple[int, ...]
    """The different numbers of images that were run at once."""
    seed: int
    precision: str
    tolerance: float
    """What `max_relative` may be: in a lower precision what rounding does to this network."""
    exact_relative: float | None = None
    """The same without rounding: the file with its own weights against torch with the same; None in float32, where
    `max_relative` says it, and where nothing can tell it."""
    exact_tolerance: float = EXACT_TOLERANCE
    runtime: str
    """What ran the exported network."""
    sha256: str | None = None
    """Of the file."""

    @property
    def passed(self) -> bool:
        """Whether the differences are within the tolerances."""
        return self.max_relative <= self.tolerance and (self.exact_relative or 0.0) <= self.exact_tolerance


def check_parity(
    module: nn.Module,
    run: Runner,
    *,
    input_shape: Sequence[int],
    precision: str = "fp32",
    batches: Sequence[int] = (1,),
    images: int = 16,
    seed: int = 0,
    runtime: str = "onnxruntime",
    twin: Twin | None = None,
) -> Parity:
    """Compare a runner with a float32 module in evaluation mode, in batches of these sizes by turns.

    Outputs that are no numbers or of another shape are an error; whether the others are near enough, the figures say.
    """
    parts = list(_batches(input_shape, sizes=batches, count=images, seed=seed))
    expected, outputs = _logits(module, parts), np.concatenate([np.asarray(run(part), np.float32) for part in parts])
    _require_numbers(outputs, expected, precision=precision)
    difference, relative = _difference(outputs, expected)
    return Parity(
        max_absolute=difference,
        max_relative=relative,
        top1_agreement=float((outputs.argmax(-1) == expected.argmax(-1)).mean()),
        images=len(expected),
        batches=tuple(dict.fromkeys(map(len, parts))),
        seed=seed,
        precision=precision,
        tolerance=tolerance_of(module, torch.from_numpy(parts[-1][:_FOR_ROUNDING]), precision=precision),
        exact_relative=None if twin is None else _exact(twin, parts[0], precision=precision),
        runtime=runtime,
    )


def require_parity(found: Parity) -> Parity:
    """The figures, if they are within the tolerances."""
    hint = "precision fp32" if found.precision != "fp32" else "exporter='dynamo'"
    if (found.exact_relative or 0.0) > found.exact_tolerance:
        raise GateError(
            f"the exported network must be torch's: without rounding, its outputs must be within "
            f"{found.exact_tolerance:g} of the largest logit of torch's with the same {found.precision} weights",
            got=f"{found.exact_relative:.2g} of the largest logit",
            hint="exporter='dynamo'",
        )
    if not found.passed:
        raise GateError(
            f"outputs of the exported network must be within {found.tolerance:.2g} of the largest logit of torch's "
            f"in {found.precision}",
            got=f"{found.max_relative:.2g} of the largest logit, {found.top1_agreement:.0%} of the first classes agree",
            hint=hint,
        )
    return found


def write_checked(found: Parity, path: Path, *, content: bytes, write: Callable[[], object] | None = None) -> Parity:
    """Write an exported network if it is torch's, then the record that names its digest; else the record alone.

    `write` is called in place of writing the content to the path, where that takes more files than one.
    """
    signed = replace(found, sha256=hashlib.sha256(content).hexdigest())
    if not signed.passed:
        save_parity(signed, path)
    require_parity(signed)
    if write is None:
        write_atomic(path, content)
    else:
        write()
    save_parity(signed, path)
    return signed


def save_parity(found: Parity, path: Path) -> Path:
    """Write the figures beside an exported file, as `NAME.parity.json`."""
    target = parity_path(path)
    body = {"schema": SCHEMA, "passed": found.passed, **to_mapping(found)}
    write_atomic(target, json.dumps(body, indent=2, allow_nan=False) + "\n")
    return target


def forget_parity(path: Path) -> None:
    """Remove the record of an earlier export: until another is written, nothing speaks for what stands there."""
    parity_path(path).unlink(missing_ok=True)


def parity_path(path: Path) -> Path:
    """Where the figures of an exported file stand."""
    return path.with_name(f"{path.name}.parity.json")


def _batches(input_shape: Sequence[int], *, sizes: Sequence[int], count: int, seed: int) -> Iterator[Array]:
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


def _exact(twin: Twin, images: Array, *, precision: str) -> float:
    outputs, expected = np.asarray(twin.run(images), np.float32), _logits(twin.module, [images])
    _require_numbers(outputs, expected, precision=precision)
    return _difference(outputs, expected)[1]


def _difference(outputs: Array, expected: Array) -> tuple[float, float]:
    """The largest difference, by itself and as a share of the largest logit."""
    difference, largest = float(np.abs(outputs - expected).max()), float(np.abs(expected).max())
    return difference, difference / largest if largest else difference


def _require_numbers(outputs: Array, expected: Array, *, precision: str) -> None:
    if outputs.shape != expected.shape:
        message = f"an exported network must give outputs of torch's shape, {expected.shape}"
        raise GateError(message, got=outputs.shape)
    _require_finite(expected, who="torch's", precision="fp32", hint="other weights")
    hint = "bf16, which has the range of fp32, or fp32"
    _require_finite(outputs, who="the exported network's", precision=precision, hint=hint)


def _require_finite(logits: Array, *, who: str, precision: str, hint: str) -> None:
    if number := int((~np.isfinite(logits)).sum()):
        message = f"{who} outputs in {precision} must be finite numbers"
        raise GateError(message, got=f"{number} of {logits.size} are NaN or infinite", hint=hint)
