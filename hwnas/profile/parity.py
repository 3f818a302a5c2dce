"""Check that a runtime computes what torch computes, before it is timed.

Outputs are compared by numpy, so that a machine without torch can check those of a graph that it got.
"""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hwnas.profile.runners.runner import Array, MeasurementError
from hwnas.records import OutputParity

if TYPE_CHECKING:
    from torch import Tensor, nn

Logits: TypeAlias = "Tensor | Array"
"""Float32 logits of a batch on the CPU."""

MAX_IMAGES = 8
"""Images of a batch that are compared; torch has to compute them on the CPU."""

MIN_CORRELATION = 0.9
"""Lowest correlation of the logits of a quantised network with torch's."""

_APPROXIMATE = {("openvino", "fp32"): 1e-3}
"""Tolerances of runtimes that approximate: OpenVINO's fused elementwise kernels, by up to 3.4e-4 in some networks."""

_ROUNDING_IMAGES = 2
"""Images on which the effect of rounding is measured."""


def expected_logits(module: "nn.Module", images: "Tensor") -> "Tensor":
    """Compute torch's float32 logits on the CPU, for the first images of a batch."""
    import torch

    with torch.inference_mode():
        logits: Tensor = module(images[:MAX_IMAGES])
    return logits.clone()


def parity_tolerance(module: "nn.Module", images: "Tensor", *, precision: str, runtime: str) -> float:
    """Return the allowed difference relative to the largest logit.

    It follows from what rounding to the precision does to this very network: a fixed tolerance would be too strict for
    deep networks or too loose for shallow ones. Some runtimes approximate on top of that.
    """
    from hwnas.export.rounding import rounding_tolerance  # needs torch

    tolerance = rounding_tolerance(module, images[:_ROUNDING_IMAGES], precision=precision)
    return max(tolerance, _APPROXIMATE.get((runtime, precision), 0.0))


def compare_outputs(outputs: Logits, expected: Logits) -> OutputParity:
    """Compare a runtime's logits with torch's.

    Args:
        outputs: Logits of all images of the batch.
        expected: Torch's logits of its first images.

    Raises:
        MeasurementError: The shapes differ.
    """
    found, wanted = _arrays(outputs, expected)
    if found.shape != wanted.shape:
        shapes = f"{found.shape} instead of {wanted.shape}"
        raise MeasurementError("mismatch", f"the outputs must have the shape of torch's, they have {shapes}")
    difference = float(np.abs(found - wanted).max())
    largest = float(np.abs(wanted).max())
    return OutputParity(
        max_absolute=difference,
        max_relative=difference / largest if largest else difference,
        top1_agreement=float((found.argmax(-1) == wanted.argmax(-1)).mean()),
    )


def require_agreement(outputs: Logits, expected: Logits, *, precision: str) -> OutputParity:
    """Compare the logits of a quantised network with torch's, and require that they agree about the classes.

    Quantising changes logits by far more than rounding, so no tolerance separates a right network from a wrong one.
    But logits of the right one rise and fall together with torch's. Accuracy is another matter: random weights, which
    networks are timed with, say nothing about it.

    Raises:
        MeasurementError: An output is NaN or infinite, the shapes differ, all logits of an image are equal, or the
            logits hardly correlate with torch's.
    """
    _require_finite(outputs, expected, precision=precision)
    parity = compare_outputs(outputs, expected)
    found, wanted = (values - values.mean(-1, keepdims=True) for values in _arrays(outputs, expected))
    if not found.any() and wanted.any():
        raise MeasurementError("mismatch", f"all outputs in {precision} are equal, those of torch are not")
    lengths = float(np.linalg.norm(found) * np.linalg.norm(wanted)) or 1.0
    correlation = float((found * wanted).sum()) / lengths
    if wanted.any() and correlation < MIN_CORRELATION:
        raise MeasurementError(
            "mismatch",
            f"outputs in {precision} must rise and fall with torch's, with a correlation of at least "
            f"{MIN_CORRELATION:g}; it is {correlation:.2f}",
        )
    return parity


def require_parity(outputs: Logits, expected: Logits, *, precision: str, tolerance: float) -> OutputParity:
    """Compare logits with torch's and require that they agree.

    Raises:
        MeasurementError: An output is NaN or infinite, the shapes differ, or the difference exceeds the tolerance.
    """
    _require_finite(outputs, expected, precision=precision)
    parity = compare_outputs(outputs, expected)
    if not parity.max_relative <= tolerance:  # also True for NaN
        raise MeasurementError(
            "mismatch",
            f"outputs differ from torch's by {parity.max_relative:.2g} of the largest logit, "
            f"at most {tolerance:.2g} is allowed in {precision}",
        )
    return parity


def _require_finite(outputs: Logits, expected: Logits, *, precision: str) -> None:
    found, wanted = np.isfinite(np.asarray(outputs)), np.isfinite(np.asarray(expected))
    if not found.all():
        number = found.size - int(found.sum())
        raise MeasurementError("nan", f"{number} of {found.size} outputs are NaN or infinite in {precision}")
    if not wanted.all():
        raise MeasurementError("nan", "torch's own outputs are NaN or infinite")


def _arrays(outputs: Logits, expected: Logits) -> tuple[Array, Array]:
    """Logits of the images that both have."""
    return np.asarray(outputs)[: len(expected)], np.asarray(expected)
