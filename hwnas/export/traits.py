"""What sizes do not tell of an operation: followed from tensor to tensor through the calls of a network.

- `ONCE`: no image enters, and what comes out is no larger for two images than for one. Position tables that are
  computed, scales and biases that are made of other parameters run once for a whole batch.
- `STRIDED`: a norm or an elementwise operation reads activations whose elements do not lie one after another, as tokens
  that are a transposed view of a convolution's pixels, and whatever is added to them.
- `FLOAT32`: what a norm reads, or an elementwise operation gives. Under torch's autocast products give half
  precision, parameters stay in float32, and a sum of both is float32: so is the residual stream behind a position
  table. Norms are taken to give half precision, as timm's do in its benchmark.

Sizes are those for one image. Strides and growth are those for two, where the network takes two: a dimension with a
single element has no stride.
"""

from collections.abc import Sequence
from dataclasses import replace

from hwnas.export.aten import IMAGE, Call, Shape, operation
from hwnas.workload import FLOAT32, ONCE, STRIDED, Operation

_PRODUCTS = ("linear", "convolution", "matmul", "attention")
_HALF_NORMS = ("layer_norm", "rms_norm")
_WIDENED = ("softmax", "log_softmax", "softplus", "exp", "pow", "rsqrt", "sum", "prod", "cumsum", "norm")
"""Of what autocast computes in float32, whatever comes in, what networks for images contain."""


def with_traits(calls: Sequence[Call], of_two: Sequence[Call]) -> list[Call]:
    """The calls for one image with their traits; `of_two` are the calls for two images."""
    if [call.name for call in of_two] != [call.name for call in calls]:
        of_two = calls
    flow = _Flow()
    return [replace(call, traits=flow.traits(call, twin)) for call, twin in zip(calls, of_two, strict=True)]


class _Flow:
    """Follows the tensors of one network, call by call and in order."""

    def __init__(self) -> None:
        self._of_image = {IMAGE}
        """The storages that depend on the image."""
        self._half: set[int] = set()
        """The storages that autocast has in half precision."""

    def traits(self, call: Call, twin: Call) -> tuple[str, ...]:
        """The traits of a call by its twin for two images, whose results are then known; a copy has none."""
        if call.is_copy:
            self._hand_on(twin, is_half=self._is_half(twin.source))
            return ()
        made = operation(call)
        reads_half = [self._is_half(shape) for shape in twin.inputs if shape.promotes]
        gives_half = _gives_half(twin, made, reads_half, self._is_half(twin.source))
        activations = [shape for shape in twin.inputs if shape.storage in self._of_image]
        is_wide = not (self._is_half(twin.source) if made.kind == "norm" else gives_half)
        self._hand_on(twin, is_half=gives_half)
        if not activations:
            return (ONCE,) if _size(twin) == _size(call) else ()
        if made.kind not in ("norm", "elementwise"):
            return ()
        found = {STRIDED: not all(shape.in_order for shape in activations), FLOAT32: is_wide}
        return tuple(name for name, holds in found.items() if holds)

    def _is_half(self, shape: Shape) -> bool:
        return shape.storage in self._half

    def _hand_on(self, call: Call, *, is_half: bool) -> None:
        made = {shape.storage for shape in call.outputs}
        if any(shape.storage in self._of_image for shape in call.inputs):
            self._of_image |= made
        if is_half:
            self._half |= made
        else:
            self._half -= made


def _gives_half(call: Call, made: Operation, reads_half: list[bool], is_first_half: bool) -> bool:
    if made.kind in _PRODUCTS or made.label in _HALF_NORMS:
        return True
    if made.kind == "norm" or call.is_in_place:
        return is_first_half
    return made.label not in _WIDENED and all(reads_half)


def _size(call: Call) -> int:
    return sum(shape.numel for shape in call.outputs)
