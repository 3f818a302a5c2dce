"""Networks in torch that compute as their graphs in int8 or fp8 would, to evaluate their accuracy before an export.

The recipe is that of `hwnas.export.quantise`: linear layers over tokens compute with weights that are rounded per
output channel (in fp8 with one scale) and activations that are rounded per tensor, all else stays in float. Rounded
values are kept in float32, so that such a network takes about as long as in float.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hwnas.export.scales import FP8_LARGEST, FP8_SMALLEST_SIZE, LEVELS, SMALLEST_BOUND, fp8_scale, int8_scale
from hwnas.train.prefix_tree import Lineage, PrefixCache

QuantisedPrecision = Literal["fp8", "int8", "int8-dynamic"]

CALIBRATION_IMAGES = 256
"""Training images that the ranges of activations are from, as in an export."""

_CACHE_BYTES = 1 << 28
"""Size of the values of calibration images that are kept between networks."""

Bounds = dict[str, float]
"""The largest magnitude that each linear layer of a segment reads, by the name of the layer."""


class FakeQuantiser:
    """Rounds networks, with ranges from calibration images; networks that begin alike share ranges and values.

    Args:
        precision: 'int8' or 'fp8', with constant ranges, or 'int8-dynamic', with those of each image.
        batches: Calibration images in batches, which can be iterated over repeatedly.
    """

    def __init__(self, precision: QuantisedPrecision, batches: Iterable[Tensor]) -> None:
        self.precision = precision
        self._batches = batches
        self._bounds: dict[Lineage, Bounds] = {}
        self._values = PrefixCache(_CACHE_BYTES)

    def quantise(self, segments: Sequence[nn.Module], lineage: Lineage) -> None:
        """Make a network in evaluation mode compute as in the precision.

        Args:
            segments: The network in float, as modules that run one after another; they are changed.
            lineage: Identity of each segment.
        """
        prefixes = [lineage[: depth + 1] for depth in range(len(lineage))]
        if any(prefix not in self._bounds for prefix in prefixes):
            self._calibrate(segments, prefixes)
        for segment, prefix in zip(segments, prefixes, strict=True):
            per_image = _RoundingPerImage()
            segment.register_forward_pre_hook(per_image.count_images)
            for name, bound in self._bounds[prefix].items():
                layer = segment.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                if self.precision == "fp8":
                    if min(layer.weight.shape) >= FP8_SMALLEST_SIZE:
                        _round_to_fp8(layer, bound)
                    continue
                with torch.no_grad():
                    layer.weight.copy_(rounded_weight(layer.weight))
                layer.register_forward_pre_hook(
                    per_image if self.precision == "int8-dynamic" else _StaticRounding(bound)
                )

    def _calibrate(self, segments: Sequence[nn.Module], prefixes: Sequence[Lineage]) -> None:
        """Run the network on the calibration images, from where it differs from those before it."""
        missing = next(depth for depth, prefix in enumerate(prefixes) if prefix not in self._bounds)
        bounds: list[Bounds] = [{} for _ in segments]
        handles = [
            part.register_forward_pre_hook(_Recorder(name, found))
            for segment, found in zip(segments, bounds, strict=True)
            for name, part in segment.named_modules()
            if isinstance(part, nn.Linear)
        ]
        with torch.inference_mode():
            for index, images in enumerate(self._batches):
                cached = None if not missing else self._values.get(index, prefixes[missing - 1])
                start, values = (0, images) if cached is None else (missing, cached)
                for depth in range(start, len(segments)):
                    values = segments[depth](values)
                    if depth + 1 < len(segments):
                        self._values.add(index, prefixes[depth], values)
        for handle in handles:
            handle.remove()
        for prefix, found in zip(prefixes[missing:], bounds[missing:], strict=True):
            self._bounds[prefix] = found


def rounded_weight(weight_OI: Tensor) -> Tensor:
    """Return a weight as int8 represents it, with a symmetric scale for each output channel."""
    bounds = weight_OI.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_BOUND)
    scales = bounds / LEVELS
    return (weight_OI / scales).round().clamp(-LEVELS, LEVELS) * scales


def rounded_to_fp8(values: Tensor, bound: float) -> Tensor:
    """Return values as fp8 (E4M3) represents them, with a scale that float16 holds."""
    scale = float(fp8_scale(bound))
    # torch makes NaN of what lies beyond the largest value; runtimes clip.
    scaled = values.div(scale).clamp_(-FP8_LARGEST, FP8_LARGEST)
    return scaled.to(torch.float8_e4m3fn).to(values.dtype).mul_(scale)


def _round_to_fp8(layer: nn.Linear, bound: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(rounded_to_fp8(layer.weight, float(layer.weight.abs().max())))
    layer.register_forward_pre_hook(lambda _, inputs: (rounded_to_fp8(inputs[0], bound),))


class _Recorder:
    """Keeps the largest magnitude that a layer over tokens reads."""

    def __init__(self, name: str, bounds: Bounds) -> None:
        self._name, self._bounds = name, bounds

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].ndim > 2:  # the classifier, which reads one vector for each image, stays in float
            self._bounds[self._name] = max(self._bounds.get(self._name, 0.0), float(inputs[0].abs().max()))


class _StaticRounding:
    """Rounds the input of a layer with a constant scale."""

    def __init__(self, bound: float) -> None:
        self._scale = float(int8_scale(bound))

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # In place it takes a fifth of torch's own fake quantisation on a CPU, whose kernel is not vectorised.
        return (inputs[0].div(self._scale).round_().clamp_(-LEVELS, LEVELS).mul_(self._scale),)


class _RoundingPerImage:
    """Rounds the input of layers to uint8 with the range of each image, as a graph of batch 1 does in each run."""

    def __init__(self) -> None:
        self._num_images = 1

    def count_images(self, segment: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep the number of images: layers may read several windows of each, one after the other."""
        self._num_images = len(inputs[0])

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = inputs[0].reshape(self._num_images, -1)
        low, high = values.amin(dim=1).clamp_max(0.0), values.amax(dim=1).clamp_min(0.0)
        scales = ((high - low) / 255).clamp_min(SMALLEST_BOUND)[:, None]
        zeros = (-low[:, None] / scales).round().clamp(0, 255)
        rounded = values.div(scales).round_().add_(zeros).clamp_(0, 255).sub_(zeros).mul_(scales)
        return (rounded.reshape(inputs[0].shape),)
