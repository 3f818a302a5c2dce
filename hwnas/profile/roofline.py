"""Roofline estimates of a network on a device, and the bottlenecks that they show.

After Williams, Waterman and Patterson, "Roofline" (2009): an operation takes the longer of the time for its arithmetic
and the time for its memory traffic, at the peak rates of the datasheet. This is an estimate and not a bound. It assumes
that every operation reads its inputs from memory and writes its outputs back, which fusion and caches avoid, and that
it starts without delay, which no kernel does. Parameters are read once for the whole batch.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from hwnas.devices import Device
from hwnas.errors import InputError
from hwnas.metrics import Precision
from hwnas.workload import ONCE, Attention, Convolution, Linear, Operation, Workload, element_bytes

Part = Literal["stem", "attention", "locality", "mlp", "head", "other"]

_ATTENTION = ("qkv", "proj", "global_q", "global_kv", "reduce", "reduce_norm")
_MLP = ("fc1", "fc2", "gelu")
_LOCALITY = ("expand", "depthwise", "glu", "silu", "batch_norm")


@dataclass(frozen=True, kw_only=True)
class OperationCost:
    """Estimated cost of one operation; times are None if the peak rates of the device are not known."""

    name: str
    kind: str
    part: Part
    macs: int
    bytes_moved: int
    intensity: float
    """Floating-point operations per byte moved."""
    compute_ms: float | None
    memory_ms: float | None

    @property
    def time_ms(self) -> float | None:
        """The longer of arithmetic and memory time."""
        if self.compute_ms is None or self.memory_ms is None:
            return None
        return max(self.compute_ms, self.memory_ms)

    @property
    def memory_bound(self) -> bool | None:
        """True if memory traffic takes longer than arithmetic."""
        if self.compute_ms is None or self.memory_ms is None:
            return None
        return self.memory_ms > self.compute_ms


@dataclass(frozen=True, kw_only=True)
class PeakRates:
    """Peak rates of a device in one precision."""

    flop_per_s: float
    byte_per_s: float

    @property
    def ridge(self) -> float:
        """Intensity above which arithmetic and not memory is the limit."""
        return self.flop_per_s / self.byte_per_s


def peak_rates(device: Device, precision: str) -> PeakRates | None:
    """Return the peak rates of a device; None if they are not known, as for a CPU."""
    flops = device.peak_op_per_s(cast(Precision, precision))
    if flops is None or device.memory_byte_per_s is None:
        return None
    return PeakRates(flop_per_s=flops, byte_per_s=device.memory_byte_per_s)


def operation_costs(
    workload: Workload, *, rates: PeakRates | None, precision: str, batch: int
) -> tuple[OperationCost, ...]:
    """Estimate the cost of each operation, in the order in which they run.

    Args:
        workload: The operations of a network.
        rates: Peak rates of the device; None: times are not estimated.
        precision: Precision of weights and activations.
        batch: Batch size.
    """
    width = element_bytes("fp32" if precision == "tf32" else precision)
    return tuple(_cost(operation, rates, width=width, batch=batch) for operation in workload.operations)


def network_part(operation: Operation) -> Part:
    """Return the part of the network that an operation belongs to, by its name and kind."""
    first, last = operation.name.split(".")[0], operation.name.split(".")[-1]
    if first in ("stem", "patch_embeds"):
        return "stem"
    if first == "head":
        return "head"
    if last in _LOCALITY or (last, operation.kind) == ("reduce", "linear"):  # Twins reduces by a convolution
        return "locality"
    if operation.kind in ("attention", "relative_position") or last.removeprefix("local_") in _ATTENTION:
        return "attention"
    return "mlp" if last in _MLP else "other"


def total_ms(costs: Sequence[OperationCost]) -> float:
    """Return the sum of the times.

    Raises:
        InputError: The peak rates of the device are not known.
    """
    times = [cost.time_ms for cost in costs]
    if None in times:
        raise InputError("a roofline needs the peak rates of the device")
    return sum(time for time in times if time is not None)


def _cost(operation: Operation, rates: PeakRates | None, *, width: int, batch: int) -> OperationCost:
    batch = 1 if ONCE in operation.traits else batch
    macs = int(operation.macs) * batch
    moved = int((operation.elements_read + operation.elements_written) * batch + operation.params) * width
    return OperationCost(
        name=operation.name,
        kind=operation.label,
        part=network_part(operation),
        macs=macs,
        bytes_moved=moved,
        intensity=2 * macs / moved if moved else 0.0,
        compute_ms=None if rates is None else 2e3 * macs / rates.flop_per_s,
        memory_ms=None if rates is None else 1e3 * moved / rates.byte_per_s,
    )


_GPU_ALIGNMENT = {"fp32": 4, "tf32": 4, "fp16": 8, "bf16": 8, "fp8": 16, "int8": 16, "int8-dynamic": 16}
"""Elements in 16 bytes. Tensor cores are used fully only for widths that are a multiple of it."""

_GPU_TILE = 64
"""Smallest usual number of output columns of one thread block of a matrix product on a GPU."""

_CPU_LANES = 16
"""float32 values in an AVX-512 register; its multiples also suit narrower registers."""

_MIN_SHARE = 0.05
"""Smaller fractions are not mentioned."""


@dataclass(frozen=True, kw_only=True)
class MatmulWidth:
    """An output width of matrix products, with the fraction of all MACs that has it."""

    size: int
    share: float
    num_operations: int


def bottlenecks(
    workload: Workload, costs: Sequence[OperationCost], *, device: Device, rates: PeakRates | None, precision: str
) -> tuple[str, ...]:
    """Describe the bottlenecks of a network in sentences: widths, parts, memory and single operations.

    Args:
        workload: The operations of the network.
        costs: Their estimated costs.
        device: The device.
        rates: Its peak rates; None: fractions are of MACs instead of time.
        precision: Precision of weights and activations.
    """
    sentences = [
        *_width_hints(workload, device=device, precision=precision),
        *_part_hints(costs),
        *_memory_hints(costs, rates),
        *_largest_hints(costs),
    ]
    return tuple(sentences)


def matmul_widths(workload: Workload) -> tuple[MatmulWidth, ...]:
    """Return the output widths of all matrix products, including attention heads, the largest fraction first."""
    total = workload.macs_executed or 1
    macs: defaultdict[int, int] = defaultdict(int)
    number: defaultdict[int, int] = defaultdict(int)
    for operation in workload.operations:
        size = _width(operation)
        if size:
            macs[size] += int(operation.macs)
            number[size] += 1
    widths = [MatmulWidth(size=size, share=macs[size] / total, num_operations=number[size]) for size in macs]
    return tuple(sorted(widths, key=lambda width: -width.share))


def _width(operation: Operation) -> int | None:
    if isinstance(operation, Attention):
        return int(operation.width // operation.heads)
    if isinstance(operation, Linear) or (isinstance(operation, Convolution) and operation.groups == 1):
        return int(operation.outputs)
    return None


def _width_hints(workload: Workload, *, device: Device, precision: str) -> Iterator[str]:
    tile = _GPU_TILE if device.kind == "gpu" else _CPU_LANES
    alignment = _GPU_ALIGNMENT.get(precision, 1) if device.kind == "gpu" else 1
    for width in matmul_widths(workload):
        padded = -(-width.size // tile) * tile
        if width.share < _MIN_SHARE or padded == width.size:
            continue
        where = f"{width.share:.0%} of the MACs ({width.num_operations} operations) are {width.size} wide"
        if width.size % alignment:
            yield f"{where}, no multiple of {alignment}, which {precision} on {device.name} needs"
        elif padded / width.size - 1 >= _MIN_SHARE:
            waste = padded / width.size - 1
            yield f"{where}: tiles of {tile} make {padded} of it, {waste:.0%} more work than is needed"


def _part_hints(costs: Sequence[OperationCost]) -> Iterator[str]:
    timed = all(cost.time_ms is not None for cost in costs)
    shares: defaultdict[str, float] = defaultdict(float)
    for cost in costs:
        shares[cost.part] += (cost.time_ms or 0.0) if timed else cost.macs
    total = sum(shares.values()) or 1.0
    attention, mlp = shares["attention"] / total, shares["mlp"] / total
    unit = "time" if timed else "MACs"
    yield f"attention takes {attention:.0%} of the {unit}, the MLPs take {mlp:.0%}"
    remaining = {"locality": "locality modules take", "stem": "the stem takes", "other": "norms, sums and moves take"}
    for part, words in remaining.items():
        if shares[part] / total >= _MIN_SHARE:
            yield f"{words} {shares[part] / total:.0%} of the {unit}"


def _memory_hints(costs: Sequence[OperationCost], rates: PeakRates | None) -> Iterator[str]:
    if rates is None:
        return
    total = sum(cost.time_ms or 0.0 for cost in costs) or 1.0
    bound = [cost for cost in costs if cost.memory_bound]
    share = sum(cost.time_ms or 0.0 for cost in bound) / total
    if share >= _MIN_SHARE:
        yield (
            f"{share:.0%} of the time is bound by memory ({len(bound)} of {len(costs)} operations do fewer than "
            f"{rates.ridge:.0f} operations for each byte): fusion, a larger batch or a lower precision help there"
        )


def _largest_hints(costs: Sequence[OperationCost]) -> Iterator[str]:
    timed = [(cost.time_ms, cost) for cost in costs if cost.time_ms is not None]
    if not timed:
        return
    time, cost = max(timed, key=lambda pair: pair[0])
    share = time / (sum(value for value, _ in timed) or 1.0)
    if share >= 2 * _MIN_SHARE:
        yield f"{cost.name} alone takes {share:.0%} of the time"
