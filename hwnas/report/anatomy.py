"""The structure of a network, block by block, and the work of its parts, from its operations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.devices import DEVICES
from hwnas.metrics import DEFAULT_DEPLOYMENT, parse_metric
from hwnas.profile.roofline import PeakRates, operation_costs, peak_rates
from hwnas.report.data import RunData
from hwnas.workload import Operation, Workload

PARTS = ("stem", "attention", "locality", "mlp", "head", "other")
"""Parts of a network, in display order."""

MAX_ANATOMIES = 300
"""Networks of one front whose anatomy is computed; of a larger front, evenly spread ones."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Dimensions of one block."""

    stage: int
    width: int
    """Channels of the tokens that pass through."""
    tokens: int
    heads: int
    attention_width: int
    hidden: int
    """Width of the MLP."""
    locality: int
    """Channels of the convolution parallel to attention, or 0."""
    kernel: int
    """Taps of that convolution."""
    macs: int


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Costs of each part, in the order of `PARTS`."""

    macs: tuple[int, ...]
    bytes_moved: tuple[int, ...]
    time_ms: tuple[float, ...] | None
    """Roofline times; None if the peak rates of the device are not known."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Blocks and cost shares of one network."""

    blocks: tuple[Block, ...]
    shares: Shares


@dataclass(frozen=True, kw_only=True)
class CostConditions:
    """Precision, batch size and device for which costs are stated."""

    precision: str = "fp32"
    batch: int = 1
    rates: PeakRates | None = None


def conditions_of(data: RunData) -> CostConditions:
    """Return the conditions of the first device metric of a run."""
    metrics = [parse_metric(metric.key) for metric in data.metrics if metric.where]
    if not metrics:
        return CostConditions()
    deployment = metrics[0].deployment.completed(DEFAULT_DEPLOYMENT)
    precision, name = str(deployment.precision), str(deployment.device)
    device = DEVICES.get(name) if name in DEVICES else None
    rates = None if device is None else peak_rates(device, precision)
    return CostConditions(precision=precision, batch=deployment.fixed_batch or 1, rates=rates)


def spread_indices(count: int) -> list[int]:
    """Return the indices of all networks of a front, or of `MAX_ANATOMIES` evenly spread ones with both ends."""
    indices: list[int] = np.linspace(0, max(0, count - 1), min(count, MAX_ANATOMIES)).round().astype(int).tolist()
    return indices


def anatomies(data: RunData) -> dict[int, Anatomy]:
    """Return the anatomy of the networks of a front, by their index in it."""
    indices, conditions = spread_indices(len(data.front)), conditions_of(data)
    workloads = data.space.workloads(data.candidates.genomes[[data.front[index].row for index in indices]])
    return {index: anatomy(workloads.workload(row), conditions) for row, index in enumerate(indices)}


def anatomy(workload: Workload, conditions: CostConditions) -> Anatomy:
    """Return the blocks of a network and the costs of its parts."""
    costs = operation_costs(workload, rates=conditions.rates, precision=conditions.precision, batch=conditions.batch)
    timed = bool(costs) and all(cost.time_ms is not None for cost in costs)
    return Anatomy(
        blocks=blocks_of(workload),
        shares=Shares(
            macs=tuple(sum(cost.macs for cost in costs if cost.part == part) for part in PARTS),
            bytes_moved=tuple(sum(cost.bytes_moved for cost in costs if cost.part == part) for part in PARTS),
            time_ms=tuple(sum(cost.time_ms or 0.0 for cost in costs if cost.part == part) for part in PARTS)
            if timed
            else None,
        ),
    )


def blocks_of(workload: Workload) -> tuple[Block, ...]:
    """Return the blocks of a network, in execution order."""
    groups: dict[str, list[Operation]] = {}
    for operation in workload.operations:
        prefix = operation.name.rpartition(".")[0]
        if prefix.rpartition(".")[2].isdigit():
            groups.setdefault(prefix, []).append(operation)
    blocks = [_block(prefix, operations) for prefix, operations in groups.items()]
    return tuple(block for block in blocks if block is not None)


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
