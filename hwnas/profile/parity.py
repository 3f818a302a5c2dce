"""Whether a runtime's outputs are those of torch, before any time of it is believed."""

import torch
from torch import Tensor, nn

from hwnas.export.rounding import rounding_tolerance
from hwnas.profile.runners.runner import MeasurementError
from hwnas.records import OutputParity

MAX_IMAGES = 8
"""Compared images of a batch: torch computes them on the CPU."""

_FOR_ROUNDING = 2
"""Images that rounding is judged by, in a run of its own."""


def expected_logits(module: nn.Module, images: Tensor) -> Tensor:
    """What torch gives in float32 on the CPU for the first images of the batch."""
    with torch.inference_mode():
        logits: Tensor = module(images[:MAX_IMAGES])
    return logits.clone()


def parity_tolerance(module: nn.Module, images: Tensor, *, precision: str) -> float:
    """What the outputs may differ by, as a share of the largest logit: by what rounding does to this network."""
    return rounding_tolerance(module, images[:_FOR_ROUNDING], precision=precision)


def compare_outputs(outputs: Tensor, expected: Tensor) -> OutputParity:
    """Differences of a runtime's outputs from torch's, relative ones to the largest logit."""
    first = outputs[: len(expected)]
    if first.shape != expected.shape:
        shapes = f"{tuple(first.shape)}, and torch's {tuple(expected.shape)}"
        raise MeasurementError("mismatch", f"the outputs must have torch's shape, and have {shapes}")
    difference = float((first - expected).abs().max())
    largest = float(expected.abs().max())
    return OutputParity(
        max_absolute=difference,
        max_relative=difference / largest if largest else difference,
        top1_agreement=float((first.argmax(-1) == expected.argmax(-1)).float().mean()),
    )


def require_parity(outputs: Tensor, expected: Tensor, *, precision: str, tolerance: float) -> OutputParity:
    """How the outputs compare; a NaN or a difference beyond the tolerance is an error."""
    if not torch.isfinite(outputs).all():
        number = int((~torch.isfinite(outputs)).sum())
        raise MeasurementError("nan", f"{number} of {outputs.numel()} outputs are NaN or infinite in {precision}")
    if not torch.isfinite(expected).all():
        raise MeasurementError("nan", "torch's own outputs are NaN or infinite")
    found = compare_outputs(outputs, expected)
    if not found.max_relative <= tolerance:
        raise MeasurementError(
            "mismatch",
            f"outputs differ from torch's by {found.max_relative:.2g} of the largest logit, "
            f"and {tolerance:.2g} is allowed in {precision}",
        )
    return found
