"""Closed forms of torch's operators: from a call of an operator to an operation of a workload.

ATen is torch's library of operators (`aten::linear`, `aten::layer_norm`). `RULES` gives the function for each operator
that is no pointwise one. Those without a rule are pointwise: activations, sums, softmax, interpolations. Views, copies,
casts, dropout and operators that create tensors are no operations at all. Calls are described by shapes alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from hwnas.workload import (
    Attention,
    Convolution,
    Elementwise,
    Linear,
    MatMul,
    Move,
    Norm,
    Operation,
    Pool,
    TransposedConvolution,
)

IMAGE = -1
"""Stands for the storage of the network's input."""


@dataclass(frozen=True)
class TensorShape:
    """Sizes of a tensor and the address of its storage."""

    sizes: tuple[int, ...]
    storage: int
    in_order: bool = True
    """True if the elements are contiguous in memory; dimensions of size 1 and expanded ones are ignored."""
    promotes: bool = True
    """True if its type takes part in type promotion; scalars and indices do not."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.sizes)


@dataclass(frozen=True, kw_only=True)
class OperatorCall:
    """A call of a torch operator: the module that made it, its arguments by name, and its results."""

    name: str
    module: str
    arguments: Mapping[str, Any]
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]
    is_copy: bool = False
    """True for views, copies and casts. They are no operations, but parameters that they read count as used."""
    is_in_place: bool = False
    traits: tuple[str, ...] = ()
    """Traits of its operation (`hwnas.export.traits`)."""
    is_widened: bool = False
    """Part of an attention that torch computes in float32, whatever its inputs are."""
    is_fused: bool = False
    """Part of a recurrent layer, whose gates are computed with its products."""
    tables: frozenset[int] = frozenset()
    """Storages of parameters that are read by table rows and not by the call's own row."""

    @property
    def source(self) -> TensorShape:
        """The first input."""
        return self.inputs[0]

    @property
    def result(self) -> TensorShape:
        """The first output."""
        return self.outputs[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the sizes of a tensor argument."""
        sizes: tuple[int, ...] = self.arguments[name].sizes
        return sizes

    def has(self, name: str) -> bool:
        """Return True if an optional argument was passed and is not None or False."""
        return self.arguments.get(name) not in (None, False)


Convert = Callable[[OperatorCall], Operation]


@dataclass(frozen=True)
class OperatorRule:
    """The conversion of an operator's calls to operations."""

    convert: Convert
    accepts: Callable[[OperatorCall], bool] = lambda _: True
    """Returns False for calls that are decomposed into other operators instead."""


def to_operation(call: OperatorCall) -> Operation:
    """Return the operation of a call, without a name."""
    rule = RULES.get(call.name)
    return rule.convert(call) if rule else _pointwise(call)


def is_single_operation(call: OperatorCall) -> bool:
    """Return True if a call is one operation even if torch could decompose it."""
    rule = RULES.get(call.name)
    return rule is not None and rule.accepts(call)


def reads_shape_only(name: str) -> bool:
    """Return True for operators that use the shape of a tensor but not its values: `zeros_like`, `new_full`."""
    return name.endswith("_like") or name.startswith("new_")


# ------------------------------------------------------------------------------------------ products


def _linear(call: OperatorCall) -> Operation:
    outputs, inputs = call.shape("weight")
    return Linear(
        name="", tokens=call.source.numel // inputs, inputs=inputs, outputs=outputs, bias=int(call.has("bias"))
    )


def _convolution(call: OperatorCall) -> Operation:
    # Weights are (outputs, inputs / groups, *kernel), of a transposed convolution (inputs, outputs / groups, *kernel).
    first, second, *taps = call.shape("weight")
    groups = call.arguments.get("groups", 1)
    transposed = call.name.startswith("conv_transpose") or call.has("transposed")
    inputs, outputs = (first, second * groups) if transposed else (second * groups, first)
    kind, variant = (TransposedConvolution, "conv_transpose") if transposed else (Convolution, "conv")
    return kind(
        name="",
        variant=f"{variant}{len(taps)}d",
        positions_in=call.source.numel // inputs,
        positions_out=call.result.numel // outputs,
        inputs=inputs,
        outputs=outputs,
        kernel=prod(taps),
        groups=groups,
        bias=int(call.has("bias")),
    )


def _product(left: str, right: str) -> Convert:
    """Return the rule for a matrix product of two arguments; a vector is a matrix of one row or one column."""

    def convert(call: OperatorCall) -> Operation:
        # The slices are empty for a vector, and their product is 1.
        (*_, inner), columns = call.shape(left), call.shape(right)[1:][-1:]
        rows = call.shape(left)[:-1][-1:]
        width, height = prod(columns), prod(rows)
        return MatMul(
            name="",
            batch=call.result.numel // max(1, width * height),
            rows=height,
            inner=inner,
            columns=width,
        )

    return convert


def _attention(call: OperatorCall) -> Operation:
    (*batch, queries, head_dim), (*_, keys, _) = call.shape("query"), call.shape("key")
    heads = prod(batch[-1:])
    # Values may be wider than queries and keys (differential attention). Products and tensors then have the sizes that
    # they would have if all were as wide as the mean.
    widths = heads * (head_dim + call.shape("value")[-1])
    mask = call.arguments.get("attn_mask")
    return Attention(
        name="",
        heads=heads,
        width=widths // 2,
        queries=queries,
        keys=keys,
        windows=prod(batch[:-1]),
        mask=mask.numel if mask else 0,
    )


ATTENTION = "scaled_dot_product_attention"
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Layers with one kernel for all steps, listed as their products."""
_FUSED_BATCH = 2
"""Dimensions in front of tokens and width that a fused kernel takes: images and heads."""


def _has_equal_heads(call: OperatorCall) -> bool:
    """Return True if keys and values have the batch and heads of the queries; others are decomposed.

    So is attention in five dimensions, such as that of windows (Hiera, NesT), or in three (SAM): torch's fused kernels
    take four.
    """
    (*batch, _, width), key, value = (call.shape(name) for name in ("query", "key", "value"))
    is_even = prod(batch[-1:]) * (width + value[-1]) % 2 == 0
    return len(batch) == _FUSED_BATCH and is_even and list(key[:-2]) == batch == list(value[:-2]) and key[-1] == width


# ---------------------------------------------------------------------------- norms, pools, the rest


def _norm(variant: str) -> Convert:
    def convert(call: OperatorCall) -> Operation:
        # Layer and RMS norms name the dimensions that they normalise; the channels of the others are dimension 1.
        normalized = call.arguments.get("normalized_shape")
        channels = prod(normalized) if normalized else call.source.sizes[1]
        affine = call.has("weight") + call.has("bias")
        tokens = call.source.numel // channels
        return Norm(name="", variant=variant, tokens=tokens, channels=channels, affine=affine)

    return convert


def _pool(variant: str, dimensions: int) -> Convert:
    """Return the rule for a window that slides over the last dimensions."""

    def convert(call: OperatorCall) -> Operation:
        before, after = (prod(shape.sizes[-dimensions:]) for shape in (call.source, call.result))
        channels = call.source.numel // before
        return Pool(name="", variant=variant, positions_in=before, positions_out=after, channels=channels)

    return convert


def _reduction(variant: str) -> Convert:
    def convert(call: OperatorCall) -> Operation:
        channels = call.result.numel
        positions = call.source.numel // max(1, channels)
        return Pool(name="", variant=variant, positions_in=positions, positions_out=1, channels=channels)

    return convert


def _move(variant: str) -> Convert:
    def convert(call: OperatorCall) -> Operation:
        return Move(name="", variant=variant, elements=call.result.numel)

    return convert


def _pointwise(call: OperatorCall) -> Operation:
    # The number of operands is that of the elements read per element written: a broadcast scale is no full operand.
    elements = call.result.numel
    read = sum(shape.numel for shape in call.inputs if shape.storage not in call.tables)
    operands = max(1, round(read / max(1, elements)))
    variant = _PUBLIC_NAMES.get(call.name, call.name.lstrip("_"))
    return Elementwise(name="", variant=variant, elements=elements, operands=operands)


_PUBLIC_NAMES = {"_safe_softmax": "softmax", "_prelu_kernel": "prelu"}

# --------------------------------------------------------------------------------- operators by their names


PASS_THROUGH = frozenset(
    (
        "_reshape_copy",
        "_to_copy",
        "_unsafe_view",
        "alpha_dropout",
        "clone",
        "dropout",
        "feature_alpha_dropout",
        "feature_dropout",
        "lift_fresh",
        "lift_fresh_copy",
        "native_dropout",
    )
)
"""Operators that are no views but return the values of their input in evaluation mode."""

_PRODUCTS = {
    "addbmm": ("batch1", "batch2"),
    "addmm": ("mat1", "mat2"),
    "addmv": ("mat", "vec"),
    "baddbmm": ("batch1", "batch2"),
    "bmm": ("self", "mat2"),
    "dot": ("self", "tensor"),
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "vdot": ("self", "other"),
}
_CONVOLUTIONS = (
    *(f"conv{dimensions}d" for dimensions in (1, 2, 3)),
    *(f"conv_transpose{dimensions}d" for dimensions in (1, 2, 3)),
    "convolution",
)
_NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")
_POOLS = {"avg_pool": "pool", "adaptive_avg_pool": "pool", "max_pool": "max_pool", "adaptive_max_pool": "max_pool"}
_REDUCTIONS = {
    name: name
    for name in (
        *("amax", "amin", "argmax", "argmin", "logsumexp", "max", "min"),
        *("norm", "prod", "std", "std_mean", "sum", "var", "var_mean"),
    )
} | {"linalg_vector_norm": "norm", "mean": "pool"}
_MOVES = {
    name: name
    for name in (
        *("channel_shuffle", "col2im", "copy", "embedding", "flip", "gather", "im2col", "index", "index_copy"),
        *("index_put", "index_select", "pad", "pixel_shuffle", "pixel_unshuffle", "repeat", "repeat_interleave"),
        *("roll", "rot90", "scatter", "select_scatter", "slice_scatter", "take", "take_along_dim", "tile"),
    )
} | {"constant_pad_nd": "pad", **dict.fromkeys(("cat", "concat", "concatenate", "stack"), "cat")}

_UPSAMPLINGS = {
    1: ("upsample_linear1d", "upsample_nearest1d", "_upsample_nearest_exact1d"),
    2: (
        *("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        *("upsample_nearest2d", "_upsample_nearest_exact2d"),
    ),
    3: ("upsample_trilinear3d", "upsample_nearest3d", "_upsample_nearest_exact3d"),
}
"""Interpolations by dimensions of the grid; torch would decompose them into many operators."""

RULES: Mapping[str, OperatorRule] = {
    "linear": OperatorRule(_linear, accepts=lambda call: len(call.shape("weight")) == 2),
    ATTENTION: OperatorRule(_attention, accepts=_has_equal_heads),
    **{name: OperatorRule(_convolution) for name in _CONVOLUTIONS},
    **{name: OperatorRule(_product(left, right)) for name, (left, right) in _PRODUCTS.items()},
    **{name: OperatorRule(_norm(name)) for name in _NORMS},
    **{f"native_{name}": OperatorRule(_norm(name)) for name in _NORMS},
    **{
        f"{name}{dimensions}d{suffix}": OperatorRule(_pool(variant, dimensions))
        for name, variant in _POOLS.items()
        for dimensions in (1, 2, 3)
        for suffix in ("", "_with_indices")
    },
    **{
        name: OperatorRule(_reduction(variant), accepts=lambda call: len(call.inputs) == 1)
        for name, variant in _REDUCTIONS.items()
    },
    **{name: OperatorRule(_move(variant)) for name, variant in _MOVES.items()},
    **{
        name: OperatorRule(_pool(name.lstrip("_"), dimensions))
        for dimensions, names in _UPSAMPLINGS.items()
        for name in names
    },
}
"""Rules by the name of the operator, without the underscore of its in-place form."""
