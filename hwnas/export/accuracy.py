"""Check the accuracy of a quantised graph: rounding to 8 bits is not small, so its effect on classes counts.

The graph in float32 must equal torch's network, as every exported graph must (`hwnas.export.parity`). It and the
quantised graph then classify the same labelled images, which took no part in the calibration.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from hwnas.errors import CheckFailedError, InputError
from hwnas.export.calibration import Array, CalibrationRecipe, LabeledImages, Labels, rebatched
from hwnas.export.onnx_session import has_fp8, open_session, runnable
from hwnas.export.quantise import (
    ActivationProbe,
    ActivationRange,
    linear_layers,
    require_shape,
    rounded,
    rounded_weight,
)

LogitsFunction = Callable[[Array], Array]
"""From images of shape (batch, channels, height, width) to logits."""

MAX_CLIPPED = 0.05
"""Largest share of the values of an activation that may lie beyond its range."""

_NOISE_IMAGES = 8
"""Images that the noise of layers is measured on."""
_SHOWN_LAYERS = 5
_OTHER_RANGES = "other calibration images or more of them, another --calibration-method, or --precision int8-dynamic"


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """The effect of quantising on the output of one linear layer, given the exact input."""

    layer: str
    signal_to_noise_db: float
    """10 log10 of the mean square of the output over that of its error; 20 dB are an error of a tenth."""
    clipped: float
    """Share of the values of the input that lie beyond the calibrated range."""


@dataclass(frozen=True, kw_only=True)
class QuantisedAccuracy:
    """Accuracy of a quantised graph and of the same in float32, on held-out images."""

    data: str
    images: int
    top1: float
    float_top1: float
    """The same of the graph in float32."""
    max_drop: float
    """Largest loss of accuracy that is allowed, as a share of the images."""
    calibration: CalibrationRecipe | None
    """None with dynamic scales, which need none."""
    noisiest_layers: tuple[LayerNoise, ...]
    """The layers that suffer most, worst first."""

    @property
    def drop(self) -> float:
        """The loss of accuracy; below 0 for a gain."""
        return self.float_top1 - self.top1

    @property
    def passed(self) -> bool:
        """True if the loss is within the limit."""
        return self.drop <= self.max_drop + 1e-12


@dataclass(frozen=True, kw_only=True)
class GraphLogits:
    """Logits of a graph and of its quantised form on the same images, with the labels."""

    expected: Array
    found: Array
    labels: Labels

    @property
    def top1(self) -> float:
        """Accuracy of the quantised form."""
        return float((self.found.argmax(-1) == self.labels).mean())

    @property
    def float_top1(self) -> float:
        """Accuracy of the graph itself."""
        return float((self.expected.argmax(-1) == self.labels).mean())

    @property
    def top1_agreement(self) -> float:
        """The share of images with the same first class."""
        return float((self.found.argmax(-1) == self.expected.argmax(-1)).mean())


def classify(
    float_graph: ModelProto, quantised: ModelProto, images: LabeledImages, *, batch: int | None
) -> GraphLogits:
    """Run both graphs on labelled images.

    Args:
        float_graph: The graph in float32.
        quantised: The same, quantised.
        images: The images.
        batch: Batch size that the graphs accept; None for any.

    Raises:
        CheckFailedError: The quantised graph gives numbers that are not finite, or the same for all classes.
        InputError: There are no images, or they have another shape than the graphs accept.
    """
    sessions = [
        open_session(runnable(graph).SerializeToString(), fuse_quantised=not has_fp8(graph))
        for graph in (float_graph, quantised)
    ]
    name = float_graph.graph.input[0].name

    def run(session: Any, array: Array) -> Array:
        require_shape(array, float_graph)
        logits: Array = session.run(None, {name: array})[0]
        return logits

    expected, found = (partial(run, session) for session in sessions)
    return compare_logits(expected, found, images, batch=batch)


def compare_logits(
    expected_logits: LogitsFunction, found_logits: LogitsFunction, images: LabeledImages, *, batch: int | None
) -> GraphLogits:
    """Run a network and its quantised form on labelled images, whatever runs them.

    Args:
        expected_logits: Runs the network in float32.
        found_logits: Runs its quantised form.
        images: The images.
        batch: Batch size that both accept; None for any.

    Raises:
        CheckFailedError: The quantised form gives numbers that are not finite, or the same for all classes.
        InputError: There are no images.
    """
    logits: list[list[Array]] = [[], []]
    labels: list[Labels] = []
    for array, known in rebatched(images.batches, batch):
        for run, outputs in zip((expected_logits, found_logits), logits, strict=True):
            outputs.append(run(array)[: len(known)])
        labels.append(known)
    if not labels:
        raise InputError("accuracy needs held-out images", got=f"none in {images.name}", hint="--data DIR")
    expected, found = (np.concatenate(outputs) for outputs in logits)
    _require_sound(found, expected)
    return GraphLogits(expected=expected, found=found, labels=np.concatenate(labels))


def layer_noise(
    model: ModelProto,
    ranges: Mapping[str, ActivationRange] | None,
    images: LabeledImages,
    *,
    batch: int | None,
    precision: str = "int8",
) -> list[LayerNoise]:
    """Measure what quantising does to each linear layer, worst first.

    Args:
        model: The graph in float32.
        ranges: The ranges of activations; None with dynamic scales.
        images: The images, of which a few are used.
        batch: Batch size that the graph accepts; None for any.
        precision: The precision that layers are quantised to.
    """
    probe, inputs = ActivationProbe(model), 0
    values: dict[str, list[Array]] = {}
    for array, known in rebatched(images.batches, batch):
        for name, activation in probe.run(array).items():
            values.setdefault(name, []).append(activation[: len(known)])
        inputs += len(known)
        if inputs >= _NOISE_IMAGES:
            break
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for layer in linear_layers(model, precision=precision):
        activation = np.concatenate(values[layer.activation])[:_NOISE_IMAGES]
        weight = numpy_helper.to_array(weights[layer.weight])
        bound = float(np.abs(activation).max()) if ranges is None else ranges[layer.activation].bound
        output = activation @ weight
        error = rounded(activation, bound, precision=precision) @ rounded_weight(weight, precision=precision) - output
        found.append(
            LayerNoise(
                layer=layer.name,
                signal_to_noise_db=_decibels(output, error),
                clipped=float((np.abs(activation) > bound).mean()),
            )
        )
    return sorted(found, key=lambda layer: layer.signal_to_noise_db)


def require_unsaturated(layers: Iterable[LayerNoise]) -> None:
    """Raise a CheckFailedError if the activations of a layer lie beyond their calibrated range."""
    worst = max(layers, key=lambda layer: layer.clipped)
    if worst.clipped > MAX_CLIPPED:
        raise CheckFailedError(
            f"at most {MAX_CLIPPED:.0%} of the values that a layer reads may lie beyond its calibrated range",
            got=f"{worst.clipped:.0%} in {worst.layer}",
            hint=_OTHER_RANGES,
        )


def require_accuracy(accuracy: QuantisedAccuracy, *, precision: str) -> None:
    """Raise a CheckFailedError unless the loss of accuracy is within its limit."""
    if accuracy.passed:
        return
    noisy = ", ".join(
        f"{layer.layer} ({layer.signal_to_noise_db:.0f} dB)" for layer in accuracy.noisiest_layers[:_SHOWN_LAYERS]
    )
    method = accuracy.calibration.method if accuracy.calibration else ""
    tries = [f"--calibration-method {name}" for name in ("mse", "percentile", "minmax") if method not in ("", name)]
    raise CheckFailedError(
        f"top-1 accuracy in {precision} may be at most {100 * accuracy.max_drop:g} points below that of fp32",
        got=f"{accuracy.top1:.2%} instead of {accuracy.float_top1:.2%} on {accuracy.images:,} images, "
        f"{100 * accuracy.drop:.1f} points; most noise in {noisy}",
        hint=", ".join((*tries, *(["--calibration-images 1024"] if method else []), "--precision bf16, or --max-drop")),
    )


def _require_sound(found: Array, expected: Array) -> None:
    """Require that a quantised graph gives finite logits that say something."""
    if number := int((~np.isfinite(found)).sum()):
        message = "logits of the quantised network must be finite numbers"
        raise CheckFailedError(message, got=f"{number} of {found.size} are NaN or infinite", hint=_OTHER_RANGES)
    for axis, message in (
        (-1, "logits of the quantised network must differ from class to class"),
        (0, "logits of the quantised network must differ from image to image"),
    ):
        if found.shape[axis] > 1 and not np.ptp(found, axis).any() and np.ptp(expected, axis).any():
            value = "0" if not found.any() else "the same"
            raise CheckFailedError(message, got=f"{value} for all", hint=_OTHER_RANGES)


def _decibels(signal: Array, error: Array) -> float:
    noise = float(np.square(error, dtype=np.float64).mean())
    power = float(np.square(signal, dtype=np.float64).mean())
    return float(10 * np.log10(max(power, 1e-30) / max(noise, 1e-30)))
