"""The structure of a network, block by block, and the work of its parts, from its operations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.devices import DEVICES
from hwnas.metrics import DEFAULT_DEPLOYMENT, parse_metric
from hwnas.profile.roofline import OperationCost, PeakRates, operation_costs, peak_rates
from hwnas.report.data import Member, RunData
from hwnas.workload import Operation, Workload

PARTS = ("stem", "attention", "locality", "mlp", "head", "other")
"""The parts of a network, in the order in which they are shown."""

MOST_DRAWN = 300
"""Networks of one front that are taken apart; of a larger front, evenly spread ones."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block as it is drawn."""

    stage: int
    width: int
    """Channels of the tokens that pass through."""
    tokens: int
    heads: int
    attention_width: int
    hidden: int
    """Width of the MLP."""
    locality: int
    """Channels of the convolution beside attention, 0 where there is none."""
    kernel: int
    """Its taps."""
    macs: int


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Costs of each part, in the order of `PARTS`."""

    macs: tuple[int, ...]
    bytes_moved: tuple[int, ...]
    time_ms: tuple[float, ...] | None
    """By the device's datasheet; None where its peak rates are not known."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One network taken apart."""

    blocks: tuple[Block, ...]
    shares: Shares


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which the work of an operation is stated."""

    precision: str = "fp32"
    batch: int = 1
    rates: PeakRates | None = None


def conditions_of(data: RunData) -> Conditions:
    """Those of the first device metric of a run."""
    metrics = [parse_metric(metric.key) for metric in data.metrics if metric.where]
    if not metrics:
        return Conditions()
    deployment = metrics[0].deployment.completed(DEFAULT_DEPLOYMENT)
    precision, name = str(deployment.precision), str(deployment.device)
    device = DEVICES.get(name) if name in DEVICES else None
    rates = None if device is None else peak_rates(device, precision)
    return Conditions(precision=precision, batch=deployment.fixed_batch or 1, rates=rates)


def drawn(front: Sequence[Member]) -> list[int]:
    """The places in a front of the networks that are taken apart: all, or evenly spread ones with both ends."""
    count = min(len(front), MOST_DRAWN)
    return np.unique(np.linspace(0, max(0, len(front) - 1), count).round().astype(int)).tolist() if count else []


def anatomies(data: RunData) -> dict[int, Anatomy]:
    """The networks of a front taken apart, by their place in it."""
    places, conditions = drawn(data.front), conditions_of(data)
    rows = data.candidates.genomes[[data.front[place].row for place in places]]
    workloads = data.space.workloads(rows)
    return {place: anatomy(workloads.workload(row), conditions) for row, place in enumerate(places)}


def anatomy(workload: Workload, conditions: Conditions) -> Anatomy:
    """One network taken apart."""
    costs = operation_costs(workload, rates=conditions.rates, precision=conditions.precision, batch=conditions.batch)
    return Anatomy(blocks=blocks_of(workload), shares=_shares(costs))


def blocks_of(workload: Workload) -> tuple[Block, ...]:
    """The blocks of a network, in the order in which they run."""
    groups: dict[str, list[Operation]] = {}
    for operation in workload.operations:
        prefix = operation.name.rpartition(".")[0]
        if prefix.rpartition(".")[2].isdigit():
            groups.setdefault(prefix, []).append(operation)
    found = [_block(prefix, operations) for prefix, operations in groups.items()]
    return tuple(block for block in found if block is not None)


def _block(prefix: str, operations: Sequence[Operation]) -> Block | None:
    by_name = {operation.name.rpartition(".")[2]: operation for operation in operations}
    attention = [operation for operation in operations if operation.kind == "attention"]
    norm, mlp = by_name.get("norm1"), by_name.get("fc1")
    if norm is None or mlp is None:
        return None  # a patch embedding or a reduction between stages
    local = by_name.get("depthwise")
    numbers = [int(part) for part in prefix.split(".") if part.isdigit()]
    return Block(
        stage=numbers[0] if len(numbers) > 1 else 0,
        width=_size(norm, "channels"),
        tokens=_size(norm, "tokens"),
        heads=sum(_size(operation, "heads") for operation in attention),
        attention_width=sum(_size(operation, "width") for operation in attention),
        hidden=_size(mlp, "outputs"),
        locality=0 if local is None else _size(local, "outputs"),
        kernel=0 if local is None else _size(local, "kernel"),
        macs=sum(int(operation.macs) for operation in operations),
    )


def _size(operation: Operation, name: str) -> int:
    return int(operation.shape[name])


def _shares(costs: Sequence[OperationCost]) -> Shares:
    timed = bool(costs) and all(cost.time_ms is not None for cost in costs)
    return Shares(
        macs=tuple(sum(cost.macs for cost in costs if cost.part == part) for part in PARTS),
        bytes_moved=tuple(sum(cost.bytes_moved for cost in costs if cost.part == part) for part in PARTS),
        time_ms=tuple(sum(cost.time_ms or 0.0 for cost in costs if cost.part == part) for part in PARTS)
        if timed
        else None,
    )
