"""Whether an exported network gives what torch gives: the same seeded images through both."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.config import to_mapping
from hwnas.errors import GateError
from hwnas.runs import write_atomic

SCHEMA = "hwnas.parity/1"
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
"""The largest difference of a logit by precision, as a share of the largest logit that torch gives in float32."""

Array = NDArray[np.float32]
Runner = Callable[[Array], Array]
"""Images (B, C, H, W) to logits."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How the outputs of an exported network compare with torch's, which computed in float32 on the CPU."""

    max_absolute: float
    max_relative: float
    """The largest difference as a share of the largest logit."""
    top1_agreement: float
    """The share of images with the same first class."""
    images: int
    seed: int
    precision: str
    tolerance: float
    """What `max_relative` may be."""
    runtime: str
    """What ran the exported network."""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.max_relative <= self.tolerance


def check_parity(
    module: nn.Module,
    run: Runner,
    *,
    input_shape: Sequence[int],
    precision: str = "fp32",
    batch: int = 1,
    images: int = 16,
    seed: int = 0,
    runtime: str = "onnxruntime",
    path: Path | None = None,
) -> Parity:
    """Compare a runner with a float32 module in evaluation mode, in batches of one size.

    The figures are stored beside the exported file `path` first; then outputs that are no numbers, of another shape, or
    too far from torch's are an error.
    """
    batches = _batches(input_shape, batch=batch, count=-(-images // batch), seed=seed)
    with torch.inference_mode():
        expected = np.concatenate([module(torch.from_numpy(part)).float().numpy() for part in batches])
    outputs = np.concatenate([np.asarray(run(part), dtype=np.float32) for part in batches])
    _require_numbers(outputs, expected, precision=precision)
    found = _compared(outputs, expected, seed=seed, precision=precision, runtime=runtime)
    if path is not None:
        save_parity(found, path)
    return require_parity(found)


def require_parity(found: Parity) -> Parity:
    """The figures, if they are within the tolerance."""
    if not found.passed:
        raise GateError(
            f"outputs of the exported network must be within {found.tolerance:g} of the largest logit of torch's "
            f"in {found.precision}",
            got=f"{found.max_relative:.2g} of the largest logit, {found.top1_agreement:.0%} of the first classes agree",
            hint="precision fp32" if found.precision != "fp32" else "exporter='dynamo'",
        )
    return found


def save_parity(found: Parity, path: Path) -> Path:
    """Write the figures beside an exported file, as `NAME.parity.json`."""
    target = parity_path(path)
    body = {"schema": SCHEMA, "passed": found.passed, **to_mapping(found)}
    write_atomic(target, json.dumps(body, indent=2, allow_nan=False) + "\n")
    return target


def parity_path(path: Path) -> Path:
    """Where the figures of an exported file stand."""
    return path.with_name(f"{path.name}.parity.json")


def _batches(input_shape: Sequence[int], *, batch: int, count: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, *input_shape), dtype=np.float32) for _ in range(count)]


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


def _compared(outputs: Array, expected: Array, *, seed: int, precision: str, runtime: str) -> Parity:
    difference, largest = float(np.abs(outputs - expected).max()), float(np.abs(expected).max())
    return Parity(
        max_absolute=difference,
        max_relative=difference / largest if largest else difference,
        top1_agreement=float((outputs.argmax(-1) == expected.argmax(-1)).mean()),
        images=len(expected),
        seed=seed,
        precision=precision,
        tolerance=TOLERANCE[precision],
        runtime=runtime,
    )
