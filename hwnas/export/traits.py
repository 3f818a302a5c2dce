"""Properties of operations that do not follow from their sizes, found by following tensors through a network.

- `ONCE`: the operation does not depend on the image, and its result is no larger for two images than for one. Computed
  position tables, and scales and biases that are made of other parameters, run once for a whole batch.
- `STRIDED`: a norm or an elementwise operation reads activations that are not contiguous, such as tokens that are a
  transposed view of a convolution's output, and anything that is added to them.
- `FLOAT32`: under torch's autocast, a norm reads float32 or an elementwise operation returns it. Products return half
  precision, parameters stay in float32, and the sum of both is float32. So is the residual stream behind a position
  table. Norms are assumed to return half precision, as those of timm do in its benchmark. Attention that no fused
  kernel takes is computed in float32, its products included: recent versions of torch convert half precision for it.

Sizes are those for one image. Strides and growth are taken from a second run with two images, if the network accepts
two: a dimension with a single element has no stride.
"""

from collections.abc import Sequence
from dataclasses import replace

from hwnas.export.aten import IMAGE, OperatorCall, TensorShape, to_operation
from hwnas.workload import FLOAT32, ONCE, STRIDED, Operation

_PRODUCTS = ("linear", "convolution", "matmul", "attention")
_HALF_NORMS = ("layer_norm", "rms_norm")
_FLOAT32_UNDER_AUTOCAST = (
    *("softmax", "log_softmax", "softplus", "exp", "pow", "rsqrt"),
    *("sum", "prod", "cumsum", "norm"),
)
"""Operators that autocast runs in float32 whatever their input is, as far as image networks use them. The full list
is in torch's documentation of `torch.amp`."""


def with_traits(calls: Sequence[OperatorCall], calls_for_two: Sequence[OperatorCall]) -> list[OperatorCall]:
    """Add traits to calls.

    Args:
        calls: The calls of a network for one image.
        calls_for_two: Its calls for two images; ignored if they are other operators.
    """
    if [call.name for call in calls_for_two] != [call.name for call in calls]:
        calls_for_two = calls
    tracker = _TensorTracker()
    return [replace(call, traits=tracker.traits(call, twin)) for call, twin in zip(calls, calls_for_two, strict=True)]


class _TensorTracker:
    """Follows the tensors of one network, call by call and in order."""

    def __init__(self) -> None:
        self._depends_on_image = {IMAGE}
        """Storages whose values depend on the image."""
        self._is_half: set[int] = set()
        """Storages that are in half precision under autocast."""

    def traits(self, call: OperatorCall, twin: OperatorCall) -> tuple[str, ...]:
        """Return the traits of a call and note the properties of its results; `twin` is the call for two images."""
        if call.is_copy:
            self._note_results(twin, is_half=self._reads_half(twin.source))
            return ()
        operation = to_operation(call)
        gives_half = self._gives_half(twin, operation)
        activations = [shape for shape in twin.inputs if shape.storage in self._depends_on_image]
        is_float32 = not (self._reads_half(twin.source) if operation.kind == "norm" else gives_half)
        is_float32 = is_float32 or call.is_widened
        self._note_results(twin, is_half=gives_half)
        if not activations:
            grows = _num_elements(twin) != _num_elements(call)
            return () if grows else (ONCE,)
        if operation.kind not in ("norm", "elementwise"):
            return (FLOAT32,) if call.is_widened and operation.kind == "matmul" else ()
        is_strided = not all(shape.in_order for shape in activations)
        return tuple(name for name, holds in ((STRIDED, is_strided), (FLOAT32, is_float32)) if holds)

    def _reads_half(self, shape: TensorShape) -> bool:
        return shape.storage in self._is_half

    def _gives_half(self, call: OperatorCall, operation: Operation) -> bool:
        if operation.kind in _PRODUCTS or operation.label in _HALF_NORMS:
            return True
        if operation.kind == "norm" or call.is_in_place:
            return self._reads_half(call.source)
        reads_half = [self._reads_half(shape) for shape in call.inputs if shape.promotes]
        return operation.label not in _FLOAT32_UNDER_AUTOCAST and all(reads_half)

    def _note_results(self, call: OperatorCall, *, is_half: bool) -> None:
        results = {shape.storage for shape in call.outputs}
        if any(shape.storage in self._depends_on_image for shape in call.inputs):
            self._depends_on_image |= results
        # An operator that works in place may turn a storage from one into the other.
        if is_half:
            self._is_half |= results
        else:
            self._is_half -= results


def _num_elements(call: OperatorCall) -> int:
    return sum(shape.numel for shape in call.outputs)
