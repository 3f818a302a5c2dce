"""From one call of a torch operation to the operation of a workload: one table of small functions.

A call is described by shapes alone. What is in no table is pointwise: an activation, a sum, a softmax, an
interpolation. Views, copies, casts, dropout and whatever makes a tensor of nothing are no operations at all.
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
"""In place of a storage: that of the network's input."""


@dataclass(frozen=True)
class Shape:
    """A tensor: its sizes, and which storage it lies in."""

    sizes: tuple[int, ...]
    storage: int
    in_order: bool = True
    """Whether its elements lie one after another; one that stands for many is where it should be."""
    promotes: bool = True
    """Whether its type decides that of a result: numbers and indices do not."""

    @property
    def numel(self) -> int:
        """The number of elements."""
        return prod(self.sizes)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a torch operation, made while `module` ran: its arguments by name, and what came out."""

    name: str
    module: str
    arguments: Mapping[str, Any]
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    is_copy: bool = False
    """Whether it only copies: no operation of its own, but what it reads has been used."""
    is_in_place: bool = False
    traits: tuple[str, ...] = ()
    """Of the operation that it is (`hwnas.export.traits`)."""
    tables: frozenset[int] = frozenset()
    """The storages of parameters that a table row reads for it."""

    @property
    def source(self) -> Shape:
        """The first tensor that goes in."""
        return self.inputs[0]

    @property
    def result(self) -> Shape:
        """The first tensor that comes out."""
        return self.outputs[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor argument."""
        sizes: tuple[int, ...] = self.arguments[name].sizes
        return sizes

    def given(self, name: str) -> bool:
        """Whether an optional argument was passed, and is not None or False."""
        return self.arguments.get(name) not in (None, False)


Maker = Callable[[Call], Operation]


@dataclass(frozen=True)
class Rule:
    """How a call becomes an operation, and for which calls it does; others are taken apart."""

    make: Maker
    accepts: Callable[[Call], bool] = lambda _: True


def operation(call: Call) -> Operation:
    """The operation, still without a name, that a call is."""
    rule = RULES.get(call.name)
    return rule.make(call) if rule else _pointwise(call)


def is_whole(call: Call) -> bool:
    """Whether a call is one operation as it stands, even if torch could take it apart."""
    rule = RULES.get(call.name)
    return rule is not None and rule.accepts(call)


def reads_nothing(name: str) -> bool:
    """Whether an operation looks at no more of a tensor than its shape: `zeros_like`, `new_full`."""
    return name.endswith("_like") or name.startswith("new_")


# ------------------------------------------------------------------------------------------ products


def _linear(call: Call) -> Operation:
    outputs, inputs = call.shape("weight")
    return Linear(
        name="", tokens=call.source.numel // inputs, inputs=inputs, outputs=outputs, bias=int(call.given("bias"))
    )


def _convolution(call: Call) -> Operation:
    first, second, *taps = call.shape("weight")
    groups = call.arguments.get("groups", 1)
    transposed = call.name.startswith("conv_transpose") or call.given("transposed")
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
        bias=int(call.given("bias")),
    )


def _product(left: str, right: str) -> Maker:
    """A matrix product of two arguments; a vector is a matrix of one row or one column."""

    def make(call: Call) -> Operation:
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

    return make


def _attention(call: Call) -> Operation:
    (*batch, queries, head_dim), (*_, keys, _) = call.shape("query"), call.shape("key")
    heads = prod(batch[-1:])
    mask = call.arguments.get("attn_mask")
    return Attention(
        name="",
        heads=heads,
        width=heads * head_dim,
        queries=queries,
        keys=keys,
        windows=prod(batch[:-1]),
        mask=mask.numel if mask else 0,
    )


def _has_plain_heads(call: Call) -> bool:
    """Keys and values of the width and in the number of the queries; other attention is taken apart."""
    (*batch, _, width), *others = (call.shape(name) for name in ("query", "key", "value"))
    return all((*sizes[:-2], sizes[-1]) == (*batch, width) for sizes in others)


# ---------------------------------------------------------------------------- norms, pools, the rest


def _norm(variant: str) -> Maker:
    def make(call: Call) -> Operation:
        normalized = call.arguments.get("normalized_shape")
        channels = prod(normalized) if normalized else call.source.sizes[1]
        affine = call.given("weight") + call.given("bias")
        tokens = call.source.numel // channels
        return Norm(name="", variant=variant, tokens=tokens, channels=channels, affine=affine)

    return make


def _pool(variant: str, dimensions: int) -> Maker:
    """A window that slides over the last dimensions."""

    def make(call: Call) -> Operation:
        before, after = (prod(shape.sizes[-dimensions:]) for shape in (call.source, call.result))
        channels = call.source.numel // before
        return Pool(name="", variant=variant, positions_in=before, positions_out=after, channels=channels)

    return make


def _reduction(variant: str) -> Maker:
    def make(call: Call) -> Operation:
        channels = call.result.numel
        positions = call.source.numel // max(1, channels)
        return Pool(name="", variant=variant, positions_in=positions, positions_out=1, channels=channels)

    return make


def _is_reduction(call: Call) -> bool:
    return len(call.inputs) == 1


def _move(variant: str) -> Maker:
    def make(call: Call) -> Operation:
        return Move(name="", variant=variant, elements=call.result.numel)

    return make


def _pointwise(call: Call) -> Operation:
    elements = call.result.numel
    read = sum(shape.numel for shape in call.inputs if shape.storage not in call.tables)
    operands = max(1, round(read / max(1, elements)))
    variant = _PLAIN_NAMES.get(call.name, call.name.lstrip("_"))
    return Elementwise(name="", variant=variant, elements=elements, operands=operands)


_PLAIN_NAMES = {"_safe_softmax": "softmax", "_prelu_kernel": "prelu"}


COPIES = frozenset(
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
"""Besides views: what hands its values on as they are."""

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

_UPSAMPLINGS = (
    *(f"upsample_{mode}" for mode in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *(f"upsample_nearest{dimensions}d" for dimensions in (1, 2, 3)),
    *(f"_upsample_nearest_exact{dimensions}d" for dimensions in (1, 2, 3)),
    *(f"_upsample_{mode}_aa" for mode in ("bilinear2d", "bicubic2d")),
)
"""Pointwise, and not to be taken apart."""

RULES: Mapping[str, Rule] = {
    "linear": Rule(_linear, accepts=lambda call: len(call.shape("weight")) == 2),
    "scaled_dot_product_attention": Rule(_attention, accepts=_has_plain_heads),
    **{name: Rule(_convolution) for name in _CONVOLUTIONS},
    **{name: Rule(_product(left, right)) for name, (left, right) in _PRODUCTS.items()},
    **{name: Rule(_norm(name)) for name in _NORMS},
    **{f"native_{name}": Rule(_norm(name)) for name in _NORMS},
    **{
        f"{name}{dimensions}d{suffix}": Rule(_pool(variant, dimensions))
        for name, variant in _POOLS.items()
        for dimensions in (1, 2, 3)
        for suffix in ("", "_with_indices")
    },
    **{name: Rule(_reduction(variant), accepts=_is_reduction) for name, variant in _REDUCTIONS.items()},
    **{name: Rule(_move(variant)) for name, variant in _MOVES.items()},
    **{name: Rule(_pointwise) for name in _UPSAMPLINGS},
}
"""By the name of the torch operation, without the underscore of its in-place form."""
