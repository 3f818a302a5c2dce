"""What shapes do not tell of an operation: followed from tensor to tensor through the calls of a network.

- `ONCE`: no image enters. Position tables that are computed, scales and biases that are made of other parameters run
  once for a whole batch.
- `STRIDED`: a norm or an elementwise operation reads activations that are not contiguous, as tokens that are a
  transposed view of a convolution's pixels are, and whatever is added to them.
- `FLOAT32`: what a norm reads, or an elementwise operation gives. Under torch's autocast products give half
  precision, parameters stay in float32, and a sum of both is float32: so is the residual stream behind a position
  table. Norms are taken to give half precision, as timm's do in its benchmark.
"""

from hwnas.export.aten import Call
from hwnas.workload import FLOAT32, ONCE, STRIDED, Operation

_PRODUCTS = ("linear", "convolution", "matmul", "attention")
_HALF_NORMS = ("layer_norm", "rms_norm")
_WIDENED = ("softmax", "exp", "pow", "sum")
"""What autocast computes in float32, whatever comes in."""


class Traits:
    """Follows the tensors of one network, call by call and in order."""

    def __init__(self, image: int) -> None:
        self._of_image = {image}
        """The storages that depend on the image."""
        self._half: set[int] = set()
        """The storages that autocast has in half precision."""

    def copied(self, call: Call) -> None:
        """A call that only copies hands on what it reads."""
        self._hand_on(call, is_half=call.source.storage in self._half)

    def of(self, call: Call, operation: Operation) -> tuple[str, ...]:
        """The traits of the operation that a call is."""
        reads_half = [shape.storage in self._half for shape in call.inputs]
        gives_half = _gives_half(call, operation, reads_half)
        is_once = not any(shape.storage in self._of_image for shape in call.inputs)
        activations = [shape for shape in call.inputs if shape.storage in self._of_image and shape.numel > 1]
        self._hand_on(call, is_half=gives_half)
        if is_once or operation.kind not in ("norm", "elementwise"):
            return (ONCE,) if is_once else ()
        found = {
            STRIDED: not all(one.is_contiguous for one in activations),
            FLOAT32: not (reads_half[0] if operation.kind == "norm" else gives_half),
        }
        return tuple(name for name, holds in found.items() if holds)

    def _hand_on(self, call: Call, *, is_half: bool) -> None:
        made = {shape.storage for shape in call.outputs}
        if any(shape.storage in self._of_image for shape in call.inputs):
            self._of_image |= made
        if is_half:
            self._half |= made
        else:
            self._half -= made


def _gives_half(call: Call, operation: Operation, reads_half: list[bool]) -> bool:
    if operation.kind in _PRODUCTS or operation.label in _HALF_NORMS:
        return True
    if operation.kind == "norm" or call.is_in_place:
        return reads_half[0]
    return operation.label not in _WIDENED and all(reads_half)
