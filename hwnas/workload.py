"""Workloads: the operations of a network with their shapes, multiply-accumulates, parameters and moved elements.

The sizes of an operation are integers, or integer arrays with one row per network of a population and one column per
block slot. A family of spaces therefore describes its networks once: one row of the arrays is the workload of one
network (`Workloads.workload`), and sums over the arrays are the costs of a population (`Workloads.params`, `.macs`).

Counting rules: a multiply-accumulate (MAC) counts as one. Convolutions, linear layers and matrix products count;
biases, norms, activations, softmax and pooling do not. The products of relative position are separate rows, excluded
from `macs`. All figures are for one image.
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
"""An integer, or an integer array of shape (rows, slots), (rows, 1) or (slots,)."""

_DIRECT_TOKENS = 50
"""Number of tokens up to which relative position is computed per pair of tokens."""

_NOT_SIZES = ("name", "times", "shared", "traits", "variant")

ONCE = "once"
"""Trait: the operation does not depend on the images and runs once per batch."""
STRIDED = "strided"
"""Trait: torch reads activations whose rows are not contiguous."""
FLOAT32 = "float32"
"""Trait: its activations stay in float32 under torch's autocast."""

BYTES_PER_ELEMENT: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1, "int8-dynamic": 1}


def element_bytes(precision: str) -> int:
    """Return the bytes of one element in a precision; raise UnknownNameError for another precision."""
    if precision not in BYTES_PER_ELEMENT:
        raise unknown("precision", precision, BYTES_PER_ELEMENT)
    return BYTES_PER_ELEMENT[precision]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation on one image.

    Attributes:
        name: Name of the operation, unique within a network.
        times: How often a network runs it; 0 if the network lacks the block.
    """

    name: str
    times: Size = 1
    shared: Size = 0
    """Parameters that it reads and another row counts: tied weights, or weights computed from other parameters."""
    traits: tuple[str, ...] = ()
    """Properties that the sizes do not show: `ONCE`, `STRIDED`, `FLOAT32`, in this order."""
    kind: ClassVar[str]

    @property
    def macs(self) -> Size:
        """Executed multiply-accumulates."""
        return self._times(self._macs())

    @property
    def params(self) -> Size:
        """Trainable parameters that this row counts."""
        return self._times(self._params()) - self.shared

    @property
    def elements_read(self) -> Size:
        """Activation elements read, without parameters."""
        return self._times(self._elements_read()) + self.shared

    @property
    def elements_written(self) -> Size:
        """Activation elements written."""
        return self._times(self._elements_written())

    @property
    def shape(self) -> dict[str, Size]:
        """Sizes that define the operation, by name."""
        names = [entry.name for entry in dataclasses.fields(self) if entry.name not in _NOT_SIZES]
        return {name: getattr(self, name) for name in names}

    @property
    def label(self) -> str:
        """Kind as tables list it, such as 'linear', 'layer_norm' or 'gelu'."""
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
    """A linear layer applied to each token."""

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
    """A convolution; `kernel` is its number of taps, and positions are pixels or tokens."""

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
    """A transposed convolution, which multiplies each input position by every tap."""

    variant: str = "conv_transpose2d"

    def _macs(self) -> Size:
        return self.positions_in * self.inputs * (self.outputs // self.groups) * self.kernel

    def _params(self) -> Size:
        return self.inputs * (self.outputs // self.groups) * self.kernel + self.bias * self.outputs


@dataclass(frozen=True, kw_only=True)
class MatMul(Operation):
    """`batch` products of a (rows, inner) and an (inner, columns) matrix, both activations."""

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
    """softmax(q kᵀ) v in `heads` heads of total width `width`, in `windows` windows of `queries` by `keys` tokens.

    `mask` is the number of elements of a mask or position bias that is added to the scores.
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


def is_direct_grid(grid: int) -> bool:
    """Return True if a grid is so small that relative position in the form of the paper is faster and is executed."""
    return grid**2 + 1 <= _DIRECT_TOKENS


def relative_columns(grid: int, *, head_dim: int) -> int:
    """Return the extra columns of relative position in augmented form, such that a head is a multiple of 8 wide."""
    return -(-(head_dim + 2 * grid + 1) // 8) * 8 - head_dim


@dataclass(frozen=True, kw_only=True)
class RelativePosition(Operation):
    """2-D relative position on keys and values (Shaw et al. 2018) of a grid of patches and a class token.

    The heads share four tables of `2 * clip + 2` vectors: rows and columns, for keys and for values. Except on few
    tokens it is executed in augmented form (`hwnas.supernet.relative`): each query is multiplied by every table vector
    once, and queries, keys and values get one extra column per grid row, per grid column and for the class token.
    """

    kind = "relative_position"
    heads: Size
    grid: int
    head_dim: int
    clip: int

    @property
    def paper_macs(self) -> Size:
        """Multiply-accumulates in the form of the paper, with one vector per pair of tokens."""
        return self.times * self.heads * 2 * self._tokens() ** 2 * self.head_dim

    def _macs(self) -> Size:
        if is_direct_grid(self.grid):
            return self.heads * 2 * self._tokens() ** 2 * self.head_dim
        columns = relative_columns(self.grid, head_dim=self.head_dim)
        vectors = 2 * (2 * self.clip + 2)
        return self.heads * 2 * self._tokens() * (self._tokens() * columns + vectors * self.head_dim)

    def _params(self) -> Size:
        return 4 * (2 * self.clip + 2) * self.head_dim

    def _elements_read(self) -> Size:
        return self.heads * self._tokens() * self.head_dim

    def _elements_written(self) -> Size:
        return self.heads * self._tokens() * self.head_dim

    def _tokens(self) -> int:
        return self.grid**2 + 1


@dataclass(frozen=True, kw_only=True)
class Norm(Operation):
    """A normalisation with `affine` parameters per channel: 2 for a scale and a shift."""

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
    """An activation, sum or product, which reads `operands` elements for each element that it writes."""

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
    """A copy of elements, such as a concatenation, padding, gather or roll."""

    kind = "move"
    variant: str
    elements: Size

    def _elements_read(self) -> Size:
        return self.elements

    def _elements_written(self) -> Size:
        return self.elements


@dataclass(frozen=True, kw_only=True)
class Pool(Operation):
    """A reduction over the windows of a grid or over all tokens; a mean unless `variant` names another one."""

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
    """Parameters used as activations, such as a class token or position embeddings."""

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
        """Multiply-accumulates of one image, without those of relative position."""
        return sum(operation.macs for operation in self.operations if not _is_relative(operation))

    @property
    def macs_executed(self) -> int:
        """Multiply-accumulates of one image as executed, including relative position."""
        return sum(operation.macs for operation in self.operations)

    @property
    def macs_relative(self) -> int:
        """Multiply-accumulates of relative position in the form of the paper."""
        return sum(operation.paper_macs for operation in self.operations if isinstance(operation, RelativePosition))

    def bytes_read(self, *, precision: str) -> int:
        """Return the bytes of activations and parameters read for one image."""
        elements = sum(operation.elements_read + operation.params for operation in self.operations)
        return int(elements) * element_bytes(precision)

    def bytes_written(self, *, precision: str) -> int:
        """Return the bytes of activations written for one image."""
        elements = sum(operation.elements_written for operation in self.operations)
        return int(elements) * element_bytes(precision)

    def by_kind(self) -> dict[str, "Workload"]:
        """Group the operations by label, in order of first appearance."""
        groups: dict[str, list[Operation]] = {}
        for operation in self.operations:
            groups.setdefault(operation.label, []).append(operation)
        return {label: Workload(tuple(operations)) for label, operations in groups.items()}

    def rows(self, *, precision: str = "fp32") -> list[dict[str, Any]]:
        """Return the operations as plain rows, for tables and JSON.

        Args:
            precision: Precision of activations and parameters, which decides the bytes.

        Returns:
            One row per operation: name, kind, shape, macs, params, bytes_read and bytes_written.
        """
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
            (
                row["name"],
                row["kind"],
                " ".join(f"{name}={size}" for name, size in row["shape"].items()),
                f"{row['macs']:,}",
                f"{row['params']:,}",
            )
            for row in self.rows()
        ]
        totals = [("total", "", "", f"{self.macs:,}", f"{self.params:,}")]
        if self.macs_executed != self.macs:
            totals.append(("total as executed", "", "", f"{self.macs_executed:,}", ""))
        widths = [max(map(len, column)) for column in zip(header, *body, *totals, strict=True)]
        return "\n".join(_aligned(line, widths) for line in (header, *body, *totals))


@dataclass(frozen=True)
class Segment:
    """A part of a network: its stem, its head, or blocks in up to `slots` slots."""

    name: str
    operations: tuple[Operation, ...]
    slots: int | None = None


@dataclass(frozen=True)
class Workloads:
    """The workloads of a population of networks: operations with sizes of shape (rows, slots)."""

    rows: int
    segments: tuple[Segment, ...] = field(repr=False)

    @property
    def params(self) -> Integers:
        """Trainable parameters of each network."""
        return self.total(lambda operation: operation.params)

    @property
    def macs(self) -> Integers:
        """Multiply-accumulates of each network for one image, without those of relative position."""
        return self.total(lambda operation: 0 if _is_relative(operation) else operation.macs)

    def total(self, quantity: Callable[[Operation], Size]) -> Integers:
        """Sum a quantity over the operations of each network."""
        total = np.zeros(self.rows, dtype=np.int64)
        for segment in self.segments:
            amounts = sum(quantity(operation) for operation in segment.operations)
            total += np.broadcast_to(amounts, (self.rows, segment.slots or 1)).sum(axis=1)
        return total

    def workload(self, row: int) -> Workload:
        """Return the workload of one network of the population."""
        return Workload(tuple(operation for segment in self.segments for operation in _unrolled(segment, row)))


def _unrolled(segment: Segment, row: int) -> Iterator[Operation]:
    for slot in range(segment.slots or 1):
        prefix = segment.name if segment.slots is None else f"{segment.name}.{slot}"
        for operation in segment.operations:
            if times := _at(operation.times, row, slot):
                sizes: dict[str, Any] = {name: _at(size, row, slot) for name, size in operation.shape.items()}
                yield dataclasses.replace(operation, name=f"{prefix}.{operation.name}", times=times, **sizes)


def _at(size: Size, row: int, slot: int) -> int:
    # Sizes broadcast as numpy does: (slots,) holds for all rows, (rows, 1) for all slots.
    if np.ndim(size) == 0:
        return int(size)
    if np.ndim(size) == 1:
        return int(size[slot])
    return int(size[row, slot if size.shape[1] > 1 else 0])


def _is_relative(operation: Operation) -> bool:
    return operation.kind == RelativePosition.kind


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    texts = [
        cell.rjust(width) if index > 2 else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(texts).rstrip()
