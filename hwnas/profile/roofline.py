"""What a network should take by a device's datasheet: for each operation, its work or its bytes, whichever is longer.

After Williams, Waterman and Patterson, "Roofline" (2009). It is an estimate and no bound: every operation is taken to
read its inputs from memory and to write its outputs there, which fusion and caches avoid, and to start at once, which
none does. Parameters are read once for the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from hwnas.devices import Device
from hwnas.errors import InputError
from hwnas.metrics import Precision
from hwnas.workload import ONCE, Operation, Workload, element_bytes

Part = Literal["stem", "attention", "locality", "mlp", "head", "other"]

_ATTENTION = ("qkv", "proj", "global_q", "global_kv", "reduce", "reduce_norm")
_MLP = ("fc1", "fc2", "gelu")
_LOCALITY = ("expand", "depthwise", "glu", "silu", "batch_norm")


@dataclass(frozen=True, kw_only=True)
class OperationCost:
    """One operation of a batch; times are None where the device's peak rates are not known."""

    name: str
    kind: str
    part: Part
    macs: int
    bytes_moved: int
    intensity: float
    """Floating-point operations for each byte moved."""
    compute_ms: float | None
    memory_ms: float | None

    @property
    def time_ms(self) -> float | None:
        """The longer of the two."""
        if self.compute_ms is None or self.memory_ms is None:
            return None
        return max(self.compute_ms, self.memory_ms)

    @property
    def memory_bound(self) -> bool | None:
        """Whether moving bytes takes longer than the products."""
        if self.compute_ms is None or self.memory_ms is None:
            return None
        return self.memory_ms > self.compute_ms


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak rates of a device in one precision."""

    flop_per_s: float
    byte_per_s: float

    @property
    def ridge(self) -> float:
        """The intensity from which on products and not memory decide."""
        return self.flop_per_s / self.byte_per_s


def peak_rates(device: Device, precision: str) -> Rates | None:
    """The peak rates from the device's datasheet; None where there is none, as of a CPU."""
    flops = device.peak_op_per_s(cast(Precision, precision))
    if flops is None or device.memory_byte_per_s is None:
        return None
    return Rates(flop_per_s=flops, byte_per_s=device.memory_byte_per_s)


def operation_costs(
    workload: Workload, *, rates: Rates | None, precision: str, batch: int
) -> tuple[OperationCost, ...]:
    """The cost of each operation of a batch, in the order in which they run."""
    width = element_bytes("fp32" if precision == "tf32" else precision)
    return tuple(_cost(operation, rates, width=width, batch=batch) for operation in workload.operations)


def part_of(operation: Operation) -> Part:
    """The part of the network that an operation belongs to, by its name and kind."""
    first, last = operation.name.split(".")[0], operation.name.split(".")[-1]
    if first in ("stem", "patch_embeds"):
        return "stem"
    if first == "head":
        return "head"
    if last in _LOCALITY or operation.label == "conv1d":
        return "locality"
    if operation.kind in ("attention", "relative_position") or last.removeprefix("local_") in _ATTENTION:
        return "attention"
    return "mlp" if last in _MLP else "other"


def total_ms(costs: Sequence[OperationCost]) -> float:
    """The sum of the times; an error where they are not known."""
    times = [cost.time_ms for cost in costs]
    if None in times:
        raise InputError("a roofline needs the peak rates of the device")
    return sum(time for time in times if time is not None)


def _cost(operation: Operation, rates: Rates | None, *, width: int, batch: int) -> OperationCost:
    batch = 1 if ONCE in operation.traits else batch
    macs = int(operation.macs) * batch
    moved = int((operation.elements_read + operation.elements_written) * batch + operation.params) * width
    return OperationCost(
        name=operation.name,
        kind=operation.label,
        part=part_of(operation),
        macs=macs,
        bytes_moved=moved,
        intensity=2 * macs / moved if moved else 0.0,
        compute_ms=None if rates is None else 2e3 * macs / rates.flop_per_s,
        memory_ms=None if rates is None else 1e3 * moved / rates.byte_per_s,
    )
