"""The operations of a network: shapes, multiply-accumulates, parameters, elements moved.

An operation's sizes are whole numbers, or integer arrays with one row per network of a population and one
column per block slot. So a family writes down its network once: one row of it is the workload of one network
(`Workloads.one`), and sums over the arrays are the costs of a whole population (`Workloads.params`, `.macs`).

Counting rules: a multiply-accumulate is one; convolutions, linears and matrix products count, biases, norms,
activations, softmax and pooling do not. Relative-position products are rows of their own kind, left out of `macs`.
All figures are for one image.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import unknown

Integers = NDArray[np.int64]
Size = Any
"""A whole number, or an integer array of shape (rows, slots), (rows, 1) or (slots,)."""

_DIRECT_TOKENS = 50
"""Up to so many tokens relative position is computed per pair."""

_NOT_SIZES = ("name", "times", "shared", "traits", "variant")

ONCE = "once"
"""A trait: no image enters, so a whole batch needs it once."""
STRIDED = "strided"
"""A trait: torch reads activations whose rows do not lie one after another."""
FLOAT32 = "float32"
"""A trait: under torch's autocast its activations stay in float32."""

BYTES_PER_ELEMENT: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def element_bytes(precision: str) -> int:
    """The width of one element."""
    if precision not in BYTES_PER_ELEMENT:
        raise unknown("precision", precision, BYTES_PER_ELEMENT)
    return BYTES_PER_ELEMENT[precision]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation on one image; `times` is how often a network runs it, 0 where it has no such block."""

    name: str
    times: Size = 1
    shared: Size = 0
    """Parameters it reads that another row counts: tied weights, or weights made of other parameters."""
    traits: tuple[str, ...] = ()
    """What sizes do not tell of how it runs: `ONCE`, `STRIDED`, `FLOAT32`, in this order."""
    kind: ClassVar[str]

    @property
    def macs(self) -> Size:
        """Multiply-accumulates that are executed."""
        return self._times(self._macs())

    @property
    def params(self) -> Size:
        """Trainable parameters that this row counts."""
        return self._times(self._params()) - self.shared

    @property
    def elements_read(self) -> Size:
        """Activation elements read; the parameters are read besides."""
        return self._times(self._elements_read()) + self.shared

    @property
    def elements_written(self) -> Size:
        """Activation elements written."""
        return self._times(self._elements_written())

    @property
    def shape(self) -> dict[str, Size]:
        """The sizes that define this operation, by name."""
        names = [entry.name for entry in dataclasses.fields(self) if entry.name not in _NOT_SIZES]
        return {name: getattr(self, name) for name in names}

    @property
    def label(self) -> str:
        """The kind as it is listed: 'linear', 'layer_norm', 'gelu'."""
        return getattr(self, "variant", self.kind)

    def _times(self, amount: Size) -> Size:
        return 0 if isinstance(amount, int) and amount == 0 else self.times * amount

    def _macs(self) -> Size:
        return 0

    def _params(self) -> Size:
        return 0

    def _elements_read(self) -> Size:
        return 0

    def _elements_written(self) -> Size:
        return 0


@dataclass(frozen=True, kw_only=True)
class Linear(Operation):
    """A matrix of weights applied to each token."""

    kind = "linear"
    tokens: Size
    inputs: Size
    outputs: Size
    bias: int = 1

    def _macs(self) -> Size:
        return self.tokens * self.inputs * self.outputs

    def _params(self) -> Size:
        return (self.inputs + self.bias) * self.outputs

    def _elements_read(self) -> Size:
        return self.tokens * self.inputs

    def _elements_written(self) -> Size:
        return self.tokens * self.outputs


@dataclass(frozen=True, kw_only=True)
class Convolution(Operation):
    """A convolution; `kernel` is its number of taps, positions are pixels or tokens."""

    kind = "convolution"
    variant: str = "conv2d"
    positions_in: Size
    positions_out: Size
    inputs: Size
    outputs: Size
    kernel: Size
    groups: Size = 1
    bias: int = 1

    def _macs(self) -> Size:
        return self.positions_out * self.outputs * (self.inputs // self.groups) * self.kernel

    def _params(self) -> Size:
        return self.outputs * ((self.inputs // self.groups) * self.kernel + self.bias)

    def _elements_read(self) -> Size:
        return self.positions_in * self.inputs

    def _elements_written(self) -> Size:
        return self.positions_out * self.outputs


@dataclass(frozen=True, kw_only=True)
class TransposedConvolution(Convolution):
    """A transposed convolution: each position of the input meets every tap."""

    variant: str = "conv_transpose2d"

    def _macs(self) -> Size:
        return self.positions_in * self.inputs * (self.outputs // self.groups) * self.kernel

    def _params(self) -> Size:
        return self.inputs * (self.outputs // self.groups) * self.kernel + self.bias * self.outputs


@dataclass(frozen=True, kw_only=True)
class MatMul(Operation):
    """`batch` products of a (rows, inner) and an (inner, columns) matrix, both of them activations."""

    kind = "matmul"
    batch: Size
    rows: Size
    inner: Size
    columns: Size

    def _macs(self) -> Size:
        return self.batch * self.rows * self.inner * self.columns

    def _elements_read(self) -> Size:
        return self.batch * self.inner * (self.rows + self.columns)

    def _elements_written(self) -> Size:
        return self.batch * self.rows * self.columns


@dataclass(frozen=True, kw_only=True)
class Attention(Operation):
    """softmax(q kᵀ) v of `heads` heads, `width` wide in all, in `windows` windows of `queries` by `keys` tokens.

    `mask` is the number of elements of a mask or a position bias that is added to the scores.
    """

    kind = "attention"
    heads: Size
    width: Size
    queries: Size
    keys: Size
    windows: Size = 1
    mask: Size = 0

    def _macs(self) -> Size:
        return self.windows * self.queries * self.keys * 2 * self.width

    def _elements_read(self) -> Size:
        return self.windows * (self.queries + 2 * self.keys) * self.width + self.mask

    def _elements_written(self) -> Size:
        return self.windows * self.queries * self.width


@dataclass(frozen=True, kw_only=True)
class RelativePosition(Operation):
    """2-D relative position on keys and values (Shaw et al. 2018), on a grid of patches beside one class token.

    Four tables of `2 * clip + 2` vectors (rows and columns, for keys and for values) are shared by the heads.
    On more than a few tokens the products are executed in their augmented form: each query meets every table vector
    once, scores and values then get one extra column per grid row, per grid column and for the class token.
    """

    kind = "relative_position"
    heads: Size
    grid: int
    head_dim: int
    clip: int

    @property
    def paper_macs(self) -> Size:
        """The products as the paper writes them, one vector per pair of tokens."""
        return self.times * self.heads * 2 * self._tokens() ** 2 * self.head_dim

    def _macs(self) -> Size:
        if self.is_direct(self.grid):
            return self.heads * 2 * self._tokens() ** 2 * self.head_dim
        columns = self.columns(self.grid, head_dim=self.head_dim)
        vectors = 2 * (2 * self.clip + 2)
        return self.heads * 2 * self._tokens() * (self._tokens() * columns + vectors * self.head_dim)

    def _params(self) -> Size:
        return 4 * (2 * self.clip + 2) * self.head_dim

    def _elements_read(self) -> Size:
        return self.heads * self._tokens() * self.head_dim

    def _elements_written(self) -> Size:
        return self.heads * self._tokens() * self.head_dim

    @staticmethod
    def is_direct(grid: int) -> bool:
        """Whether so few tokens are computed as the paper writes it, which is then the faster form."""
        return grid**2 + 1 <= _DIRECT_TOKENS

    @staticmethod
    def columns(grid: int, *, head_dim: int) -> int:
        """The extra columns of the augmented form, with padding that brings a head to a multiple of 8."""
        return -(-(head_dim + 2 * grid + 1) // 8) * 8 - head_dim

    def _tokens(self) -> int:
        return self.grid**2 + 1


@dataclass(frozen=True, kw_only=True)
class Norm(Operation):
    """A normalisation; `affine` is its number of parameters per channel: 2 are a scale and a shift."""

    kind = "norm"
    variant: str = "layer_norm"
    tokens: Size
    channels: Size
    affine: int = 2

    def _params(self) -> Size:
        return self.affine * self.channels

    def _elements_read(self) -> Size:
        return self.tokens * self.channels

    def _elements_written(self) -> Size:
        return self.tokens * self.channels


@dataclass(frozen=True, kw_only=True)
class Elementwise(Operation):
    """An activation, a sum, a product: `operands` elements are read for each one written."""

    kind = "elementwise"
    variant: str
    elements: Size
    operands: int = 1

    def _elements_read(self) -> Size:
        return self.operands * self.elements

    def _elements_written(self) -> Size:
        return self.elements


@dataclass(frozen=True, kw_only=True)
class Move(Operation):
    """Elements that change their place and not their values: a concatenation, a padding, a gather, a roll."""

    kind = "move"
    variant: str
    elements: Size

    def _elements_read(self) -> Size:
        return self.elements

    def _elements_written(self) -> Size:
        return self.elements


@dataclass(frozen=True, kw_only=True)
class Pool(Operation):
    """A mean over positions: a window of a grid, or all tokens; other reductions say so in `variant`."""

    kind = "pool"
    variant: str = "pool"
    positions_in: Size
    positions_out: Size
    channels: Size

    def _elements_read(self) -> Size:
        return self.positions_in * self.channels

    def _elements_written(self) -> Size:
        return self.positions_out * self.channels


@dataclass(frozen=True, kw_only=True)
class Table(Operation):
    """Parameters that enter as they are: a class token, position embeddings."""

    kind = "table"
    elements: Size

    def _params(self) -> Size:
        return self.elements


@dataclass(frozen=True)
class Workload:
    """The operations of one network, in the order in which they run."""

    operations: tuple[Operation, ...]

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return sum(operation.params for operation in self.operations)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, relative-position products left out."""
        return sum(operation.macs for operation in self.operations if not _is_relative(operation))

    @property
    def macs_executed(self) -> int:
        """Multiply-accumulates of one image as they are executed, relative-position products included."""
        return sum(operation.macs for operation in self.operations)

    @property
    def macs_relative(self) -> int:
        """What the relative-position products add when they are computed as the paper writes them."""
        return sum(operation.paper_macs for operation in self.operations if isinstance(operation, RelativePosition))

    def bytes_read(self, *, precision: str) -> int:
        """Bytes read for one image: activations and parameters."""
        elements = sum(operation.elements_read + operation.params for operation in self.operations)
        return int(elements) * element_bytes(precision)

    def bytes_written(self, *, precision: str) -> int:
        """Bytes of activations written for one image."""
        elements = sum(operation.elements_written for operation in self.operations)
        return int(elements) * element_bytes(precision)

    def by_kind(self) -> dict[str, "Workload"]:
        """The operations by their label, the labels in order of first appearance."""
        groups: dict[str, list[Operation]] = {}
        for operation in self.operations:
            groups.setdefault(operation.label, []).append(operation)
        return {label: Workload(tuple(operations)) for label, operations in groups.items()}

    def rows(self, *, precision: str = "fp32") -> list[dict[str, Any]]:
        """One plain row per operation, for tables and JSON."""
        width = element_bytes(precision)
        return [
            {
                "name": operation.name,
                "kind": operation.label,
                "shape": operation.shape,
                "macs": operation.macs,
                "params": operation.params,
                "bytes_read": (operation.elements_read + operation.params) * width,
                "bytes_written": operation.elements_written * width,
            }
            for operation in self.operations
        ]

    def __str__(self) -> str:
        header = ("operation", "kind", "shape", "macs", "params")
        body = [
            (row["name"], row["kind"], _shape_text(row["shape"]), f"{row['macs']:,}", f"{row['params']:,}")
            for row in self.rows()
        ]
        totals = [("total", "", "", f"{self.macs:,}", f"{self.params:,}")]
        if self.macs_executed != self.macs:
            totals.append(("total as executed", "", "", f"{self.macs_executed:,}", ""))
        widths = [max(map(len, column)) for column in zip(header, *body, *totals, strict=True)]
        return "\n".join(_aligned(line, widths) for line in (header, *body, *totals))


@dataclass(frozen=True)
class Segment:
    """A part of a network: its stem, its head, or blocks that fill up to `slots` slots."""

    name: str
    operations: tuple[Operation, ...]
    slots: int | None = None


@dataclass(frozen=True)
class Workloads:
    """The workloads of a population: operations whose sizes are arrays of shape (rows, slots)."""

    rows: int
    segments: tuple[Segment, ...] = field(repr=False)

    @property
    def params(self) -> Integers:
        """Trainable parameters, one figure per row."""
        return self.total(lambda operation: operation.params)

    @property
    def macs(self) -> Integers:
        """Multiply-accumulates of one image, relative-position products left out, one figure per row."""
        return self.total(lambda operation: 0 if _is_relative(operation) else operation.macs)

    def total(self, quantity: Callable[[Operation], Size]) -> Integers:
        """The sum of a quantity over the operations, one figure per row."""
        total = np.zeros(self.rows, dtype=np.int64)
        for segment in self.segments:
            amounts = sum(quantity(operation) for operation in segment.operations)
            total += np.broadcast_to(amounts, (self.rows, segment.slots or 1)).sum(axis=1)
        return total

    def one(self, row: int) -> Workload:
        """The workload of one network."""
        return Workload(tuple(operation for segment in self.segments for operation in _unrolled(segment, row)))


def _unrolled(segment: Segment, row: int) -> Iterator[Operation]:
    for slot in range(segment.slots or 1):
        prefix = segment.name if segment.slots is None else f"{segment.name}.{slot}"
        for operation in segment.operations:
            if times := _at(operation.times, row, slot):
                sizes: dict[str, Any] = {name: _at(size, row, slot) for name, size in operation.shape.items()}
                yield dataclasses.replace(operation, name=f"{prefix}.{operation.name}", times=times, **sizes)


def _at(size: Size, row: int, slot: int) -> int:
    if np.ndim(size) == 0:
        return int(size)
    if np.ndim(size) == 1:
        return int(size[slot])
    return int(size[row, slot if size.shape[1] > 1 else 0])


def _is_relative(operation: Operation) -> bool:
    return operation.kind == RelativePosition.kind


def _shape_text(shape: Mapping[str, int]) -> str:
    return " ".join(f"{name}={size}" for name, size in shape.items())


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    texts = [
        cell.rjust(width) if index > 2 else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(texts).rstrip()
