"""Contribution of one operation to the features of its network.

Costs add up over the operations of a network: milliseconds at the device's peak rates, or counts of calls. They are
grouped by kind and by class of shape, never by the name of a network. Moments are products of a cost and the
logarithm of a size; divided by the sum of that cost they are mean sizes of a network (`mean.linear.inputs`).

Every size may be an array, so one definition serves a population and a single network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.predict.features.conditions import Conditions
from hwnas.workload import (
    FLOAT32,
    ONCE,
    STRIDED,
    Attention,
    Convolution,
    Elementwise,
    Linear,
    MatMul,
    Move,
    Norm,
    Operation,
    Pool,
    RelativePosition,
    Table,
)

Amount = Any
Term = tuple[str, Amount]

MS_PER_S = 1e3
_TILE = {"gpu": (128, 128, 32), "cpu": (1, 16, 1)}
"""Rows, columns and depth to which a product is padded: a tile of a GPU's kernels, the lanes of a CPU."""
_WIDTHS = (128, 256, 512)
_HEADS = (32, 64)
_TRANSCENDENTAL = ("gelu", "silu", "sigmoid", "tanh", "exp", "hardswish", "hardsigmoid", "mish", "softplus")
_NORMS = ("layer_norm", "batch_norm", "group_norm")
_LARGE_KERNEL = 49
"""Elements of the largest depthwise kernel for which libraries have code of its own."""
_PAGE_BYTES = 4096
_HALF_BYTES = 2
_REDUCTIONS = ("sum", "amax", "amin", "prod")
_MOVING = ("params", "memory_bound", "scores", "masked")
"""Last parts of the names of terms that are times of moving data, besides those of bytes."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A matrix product as a device sees it: `count` products of (rows, depth) and (depth, columns)."""

    count: Amount
    rows: Amount
    depth: Amount
    columns: Amount

    @property
    def macs(self) -> Amount:
        """Multiply-accumulates."""
        return self.count * self.rows * self.depth * self.columns


def terms(operation: Operation, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    """Yield the costs of an operation by name; names that begin with `moment.` are moments."""
    per_run = _once(operation, conditions) if ONCE in operation.traits else _all(operation, conditions, batch)
    for name, amount in per_run:
        yield name, operation.times * amount


def is_moving(name: str) -> bool:
    """Return True if a term is a time of moving data, at the device's memory rate."""
    return name.rpartition(".")[2].startswith(("bytes", *_MOVING))


def _all(operation: Operation, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    yield from _TERMS[operation.kind](operation, conditions, batch)
    for name in _layout(operation, conditions):
        yield f"{name}.bytes", _bytes_ms(_moved(operation, batch), conditions)


def _once(operation: Operation, conditions: Conditions) -> Iterator[Term]:
    """Yield the terms of an operation that runs once per batch, such as computing a position table."""
    yield "once.macs", MS_PER_S * 2 * operation._macs() / conditions.op_per_s
    yield "once.bytes", _bytes_ms(_moved(operation, 1.0) + operation._params(), conditions)
    all_terms = _TERMS[operation.kind](operation, conditions, 1.0)
    yield from ((name, amount) for name, amount in all_terms if name.startswith("calls."))


def _layout(operation: Operation, conditions: Conditions) -> Iterator[str]:
    """Yield the extra costs of strided inputs and of float32 under autocast."""
    if conditions.torch_layouts and STRIDED in operation.traits:
        yield "strided"
    if conditions.autocast and FLOAT32 in operation.traits:
        yield "float32"


def _linear(operation: Linear, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    product = Product(
        count=1.0, rows=batch * operation.tokens, depth=1.0 * operation.inputs, columns=1.0 * operation.outputs
    )
    yield from _product("linear", product, conditions)
    yield from _traffic("linear", operation, conditions, batch)
    yield from _bound("linear", product, operation, conditions, batch)


def _convolution(operation: Convolution, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    depth = operation.inputs // operation.groups * operation.kernel
    product = Product(
        count=1.0 * operation.groups,
        rows=batch * operation.positions_out,
        depth=1.0 * depth,
        columns=operation.outputs / operation.groups,
    )
    for group, chosen in _convolution_groups(operation):
        if not np.any(chosen):
            continue
        yield from ((name, chosen * amount) for name, amount in _product(group, product, conditions))
        yield from ((name, chosen * amount) for name, amount in _traffic(group, operation, conditions, batch))
        yield from ((name, chosen * amount) for name, amount in _bound(group, product, operation, conditions, batch))


def _convolution_groups(operation: Convolution) -> Iterator[tuple[str, Amount]]:
    """Classify a convolution: for each element one class is 1, the others 0."""
    # A 1x1 convolution is a linear layer; one whose kernel equals its stride reads each pixel once (patch embeddings).
    per_channel = np.equal(operation.groups, operation.inputs) & np.greater(operation.groups, 1)
    large = per_channel & np.greater(operation.kernel, _LARGE_KERNEL)
    depthwise = per_channel & ~large
    grouped = np.greater(operation.groups, 1) & ~per_channel
    pointwise = ~per_channel & ~grouped & np.equal(operation.kernel, 1)
    patches = np.equal(operation.positions_in, np.multiply(operation.positions_out, operation.kernel))
    patchify = ~per_channel & ~grouped & ~pointwise & patches
    yield "depthwise", depthwise
    yield "large_depthwise", large
    yield "grouped", grouped
    yield "linear", pointwise
    yield "patchify", patchify
    yield "convolution", ~(per_channel | grouped | pointwise | patchify)


def _matmul(operation: MatMul, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    product = Product(
        count=batch * operation.batch,
        rows=1.0 * operation.rows,
        depth=1.0 * operation.inner,
        columns=1.0 * operation.columns,
    )
    if conditions.torch_layouts and conditions.bytes_per_element == _HALF_BYTES and FLOAT32 in operation.traits:
        # Attention that no fused kernel takes: torch computes it in float32, not with the units for half precision.
        yield "float32.macs", MS_PER_S * 2 * product.macs / conditions.op_per_s
        padded = product.count * _up(product.rows, 64) * _up(product.columns, 64) * product.depth
        yield "float32.padding", MS_PER_S * 2 * (padded - product.macs) / conditions.op_per_s
    else:
        yield from _compute("matmul", product, conditions)
    yield from _traffic("matmul", operation, conditions, batch)


def _attention(operation: Attention, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    head_dim = operation.width / np.maximum(operation.heads, 1)
    count = batch * operation.heads * operation.windows
    # Attention has two products of the same size, queries times keys and weights times values: 4 operations per MAC.
    scores = Product(count=count, rows=1.0 * operation.queries, depth=head_dim, columns=1.0 * operation.keys)
    compute = MS_PER_S * 4 * scores.macs / conditions.op_per_s
    for name, chosen in _classes(head_dim, _HEADS):
        yield f"attention.macs.head{name}", chosen * compute
    # Fused kernels work on tiles of 64 queries and 64 keys, and pad the head to a multiple of 32.
    padded = _up(scores.rows, 64) * _up(scores.depth, 32) * _up(scores.columns, 64) * count
    yield "attention.padding", MS_PER_S * 4 * (padded - scores.macs) / conditions.op_per_s
    elements = count * operation.queries * operation.keys
    yield "attention.scores", _bytes_ms(elements, conditions)
    yield "attention.masked", np.greater(operation.mask, 0) * _bytes_ms(elements, conditions)
    yield "attention.windowed", np.greater(operation.windows, 1) * compute
    yield "moment.attention.head_dim", compute * _log2(head_dim)
    yield "moment.attention.keys", compute * _log2(operation.keys)
    yield from _traffic("attention", operation, conditions, batch)


def _relative(operation: RelativePosition, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    yield "relative.macs", MS_PER_S * 2 * batch * operation._macs() / conditions.op_per_s
    yield from _traffic("relative", operation, conditions, batch)


def _norm(operation: Norm, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    group = operation.label if operation.label in _NORMS else "other_norm"
    moved = _bytes_ms(_moved(operation, batch), conditions)
    for name, chosen in _classes(operation.channels, (256,)):
        yield f"{group}.bytes{name}", chosen * moved
    yield "calls.norm", 1.0


def _elementwise(operation: Elementwise, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    group = _elementwise_group(operation.label)
    yield f"{group}.bytes", _bytes_ms(_moved(operation, batch), conditions)
    yield "calls.elementwise", 1.0


def _elementwise_group(label: str) -> str:
    if label in ("softmax", "add", "mul"):
        return label
    if label in _TRANSCENDENTAL:
        return "activation"
    return "elementwise"


def _move(operation: Move, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    group = operation.label if operation.label in ("cat", "roll", "pad") else "gather"
    yield f"move.{group}.bytes", _bytes_ms(_moved(operation, batch), conditions)
    yield "calls.move", 1.0


def _pool(operation: Pool, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    group = "reduction" if operation.label in _REDUCTIONS else "pool"
    if operation.label.startswith("upsample"):
        group = "elementwise"  # too few families have any to be fitted apart
    yield f"{group}.bytes", _bytes_ms(_moved(operation, batch), conditions)
    yield "calls.pool", 1.0


def _table(operation: Table, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    del batch  # read once for all images
    yield "table.bytes", _bytes_ms(1.0 * operation.elements, conditions)


def _product(group: str, product: Product, conditions: Conditions) -> Iterator[Term]:
    """Yield the compute by class of width, with moments of the sizes."""
    compute = MS_PER_S * 2 * product.macs / conditions.op_per_s
    yield from _compute(group, product, conditions)
    yield f"moment.{group}.rows", compute * _log2(product.rows)
    yield f"moment.{group}.depth", compute * _log2(product.depth)
    yield f"moment.{group}.columns", compute * _log2(product.columns)


def _compute(group: str, product: Product, conditions: Conditions) -> Iterator[Term]:
    compute = MS_PER_S * 2 * product.macs / conditions.op_per_s
    for name, chosen in _classes(np.minimum(product.depth, product.columns), _WIDTHS):
        yield f"{group}.macs{name}", chosen * compute
    rows, columns, depth = _TILE[conditions.kind]
    padded = product.count * _up(product.rows, rows) * _up(product.columns, columns) * _up(product.depth, depth)
    yield f"{group}.padding", MS_PER_S * 2 * (padded - product.macs) / conditions.op_per_s
    # Rows that fill whole memory pages: their elements compete for the same cache lines.
    # Addresses that differ by a multiple of the page size map to the same cache set, so a column of such a matrix
    # evicts its own lines.
    elements = _PAGE_BYTES // conditions.bytes_per_element
    yield f"{group}.paged", compute * (np.equal(product.depth % elements, 0) | np.equal(product.columns % elements, 0))
    if conditions.num_sms is not None:
        yield f"{group}.waves", MS_PER_S * 2 * _idle(product, conditions) / conditions.op_per_s


def _idle(product: Product, conditions: Conditions) -> Amount:
    """Return the MACs that idle processors could have done in the last wave of tiles."""
    rows, columns, depth = _TILE["gpu"]
    # A GPU runs one tile per multiprocessor at a time; the last wave of tiles leaves some of these without work.
    tiles = product.count * np.ceil(product.rows / rows) * np.ceil(product.columns / columns)
    return (_up(tiles, conditions.num_sms) - tiles) * rows * columns * _up(product.depth, depth)


def _traffic(group: str, operation: Operation, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    """Yield the bytes of activations and parameters, and the calls."""
    yield f"{group}.bytes", _bytes_ms(_moved(operation, batch), conditions)
    yield f"{group}.params", _bytes_ms(1.0 * operation._params(), conditions)
    yield f"calls.{group}", 1.0


def _bound(group: str, product: Product, operation: Operation, conditions: Conditions, batch: Amount) -> Iterator[Term]:
    """Yield the time by which moving exceeds computing at peak rates."""
    # compute + max(moving - compute, 0) = max(moving, compute), the roofline (Williams et al. 2009)
    moving = _bytes_ms(_moved(operation, batch) + operation._params(), conditions)
    computing = MS_PER_S * 2 * product.macs / conditions.op_per_s
    yield f"{group}.memory_bound", np.maximum(moving - computing, 0)


def _moved(operation: Operation, batch: Amount) -> Amount:
    """Return the elements of activations that are read and written."""
    return batch * (operation._elements_read() + operation._elements_written())


def _bytes_ms(elements: Amount, conditions: Conditions) -> Amount:
    return MS_PER_S * elements * conditions.bytes_per_element / conditions.byte_per_s


def _classes(size: Amount, limits: tuple[int, ...]) -> Iterator[tuple[str, Amount]]:
    """Classify a size: '<=128', '<=256', ..., '>512'."""
    lower: Amount = 0
    for limit in limits:
        yield f"<={limit}", np.greater(size, lower) & np.less_equal(size, limit)
        lower = limit
    yield f">{lower}", np.greater(size, lower)


def _log2(size: Amount) -> Amount:
    """Return the logarithm of a size, and 0 for the size 0 of an absent block."""
    return np.log2(np.maximum(size, 1))


def _up(size: Amount, multiple: int | None) -> Amount:
    assert multiple is not None
    return np.ceil(np.divide(size, multiple)) * multiple


_TERMS: dict[str, Any] = {
    "linear": _linear,
    "convolution": _convolution,
    "matmul": _matmul,
    "attention": _attention,
    "relative_position": _relative,
    "norm": _norm,
    "elementwise": _elementwise,
    "move": _move,
    "pool": _pool,
    "table": _table,
}
