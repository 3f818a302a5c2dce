"""Features of workloads: the terms of all operations, summed per network.

Operations of single networks are stacked by kind; those of a population are arrays already. The networks of a
population share most of their blocks, so the terms of each distinct block are computed once and added wherever it
occurs.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.arrays import Numbers
from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.table import Features
from hwnas.predict.features.terms import terms
from hwnas.workload import Operation, Segment, Size, Workload, Workloads

_MOMENT = "moment."
_MIX = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: odd multiples spread sizes over 64 bits (Knuth's multiplicative hashing)."""

Sums = dict[str, Numbers]
Keys = NDArray[np.uint64]


def workload_features(workloads: Sequence[Workload], conditions: Conditions) -> Features:
    """Return the features of networks given by their operations; batch sizes may differ between networks."""
    sums: Sums = {}
    for operation, owners in _stacked(workloads):
        for name, amount in terms(operation, conditions, conditions.batch_of(owners)):
            sums.setdefault(name, np.zeros(len(workloads)))
            sums[name] += np.bincount(owners, weights=np.broadcast_to(amount, owners.shape), minlength=len(workloads))
    return _features(sums, conditions.batch_of(np.arange(len(workloads))), counts={})


def population_features(
    workloads: Workloads, conditions: Conditions, *, counts: bool | Collection[str] = False
) -> Features:
    """Return the features of a population at one batch size.

    Args:
        workloads: The population.
        conditions: Conditions with a single batch size.
        counts: Also count how often each distinct block occurs in each network: True for all blocks, or the names of
            those to count. Counting all blocks takes longer than everything else.
    """
    if np.ndim(conditions.batch):
        raise ValueError("a population must have one batch size, because equal blocks are evaluated once")
    totals: list[Sums] = []
    counted: Sums = {}
    for segment in workloads.segments:
        positions, blocks = _distinct(segment, workloads.rows)
        names, table = _block_table(blocks, conditions)
        # Slot by slot: a gather of all slots at once would need as many times the memory.
        summed = table[positions[:, 0]]
        for slot in range(1, positions.shape[1]):
            summed += table[positions[:, slot]]
        totals.append(dict(zip(names, summed.T, strict=True)))
        if counts and segment.slots is not None:
            wanted = None if counts is True else frozenset(counts)
            for name, amount in _block_counts(segment.name, positions, blocks, wanted):
                counted[name] = counted[name] + amount if name in counted else amount
    sums: Sums = {}
    for total in totals:
        for name, amount in total.items():
            sums[name] = sums[name] + amount if name in sums else amount
    batches = conditions.batch_of(np.arange(workloads.rows))
    return _features(sums, batches, counts=counted)


def _block_counts(
    segment: str, positions: NDArray[np.int64], blocks: Sequence[Operation], wanted: Collection[str] | None
) -> Iterator[tuple[str, Numbers]]:
    """Count each distinct block, or each of those requested, in each network."""
    names = _block_names(segment, blocks)
    chosen = [number for number, name in enumerate(names) if name and (wanted is None or name in wanted)]
    columns = np.full(len(names), len(chosen))
    columns[chosen] = np.arange(len(chosen))
    rows, width = len(positions), len(chosen) + 1
    # One histogram of (row, block) pairs; blocks that are not wanted share a last column, which is not returned.
    cells = np.arange(rows)[:, None] * width + columns[positions]
    counts = np.bincount(cells.ravel(), minlength=rows * width).reshape(rows, width).astype(np.float64)
    for column, number in enumerate(chosen):
        name = names[number]
        assert name is not None
        yield name, counts[:, column]


def _block_table(blocks: Sequence[Operation], conditions: Conditions) -> tuple[tuple[str, ...], Numbers]:
    """Return the terms of distinct blocks, one row per block."""
    length = max(np.size(block.times) for block in blocks)
    batch = conditions.batch_of(np.zeros(length, dtype=np.intp))
    sums: Sums = {}
    for block in blocks:
        for name, amount in terms(block, conditions, batch):
            if np.any(amount):
                sums[name] = sums.get(name, 0.0) + np.broadcast_to(amount, (length,)).astype(np.float64)
    return tuple(sums), np.column_stack(list(sums.values()))


def _distinct(segment: Segment, rows: int) -> tuple[NDArray[np.int64], tuple[Operation, ...]]:
    """Return the index of the distinct block in each slot, and the distinct blocks as operations with 1-D sizes."""
    import pyarrow as pa  # its dictionary encoding hashes; numpy's unique would sort

    shape = (rows, segment.slots or 1)
    keys = _keys(segment.operations, shape)
    encoded = pa.array(keys.ravel()).dictionary_encode()
    positions: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    # Assigned backwards, so that the first slot of each block is what remains.
    first = np.empty(len(encoded.dictionary), dtype=np.int64)
    first[positions[::-1]] = np.arange(positions.size)[::-1]
    blocks = tuple(_at(operation, first, shape) for operation in segment.operations)
    return positions.reshape(shape), blocks


def _keys(operations: Iterable[Operation], shape: tuple[int, int]) -> Keys:
    """Return a 64-bit hash for each slot of each network, equal if all sizes of its operations are equal."""
    arrays = {id(size): size for operation in operations for _, size in _sizes(operation) if np.ndim(size)}
    # The sum of the sizes times odd factors modulo 2^64; the factors are those of a linear congruential generator. With
    # 10^5 distinct blocks a collision has a probability below 10^-9.
    keys = np.zeros(shape, dtype=np.uint64)
    factor = _MIX
    for size in arrays.values():
        factor = (factor * _MIX + 2) % 2**64 | 1
        keys += np.asarray(size).astype(np.uint64) * np.uint64(factor)
    return keys


def _at(operation: Operation, first: NDArray[np.int64], shape: tuple[int, int]) -> Operation:
    changes: dict[str, Any] = {
        name: np.broadcast_to(np.asarray(size), shape).ravel()[first]
        for name, size in _sizes(operation)
        if np.ndim(size)
    }
    times: Any = np.broadcast_to(np.asarray(changes.get("times", operation.times)), first.shape)
    return dataclasses.replace(operation, **{**changes, "times": times})


def _sizes(operation: Operation) -> Iterator[tuple[str, Any]]:
    yield "times", operation.times
    yield from operation.shape.items()


def _block_names(segment: str, blocks: Sequence[Operation]) -> list[str | None]:
    """Name each distinct block by a hash of its sizes; None for an empty slot."""
    length = np.size(blocks[0].times)
    keys = np.zeros(length, dtype=np.uint64)
    factor = _MIX
    for _, size in (pair for block in blocks for pair in _sizes(block)):
        factor = (factor * _MIX + 2) % 2**64 | 1
        keys += np.broadcast_to(np.asarray(size).astype(np.uint64), (length,)) * np.uint64(factor)
    present = np.any([np.broadcast_to(block.times, (length,)) for block in blocks], axis=0)
    group = segment.split(".")[0]
    return [f"{group}:{key:016x}" if exists else None for key, exists in zip(keys.tolist(), present, strict=True)]


def _stacked(workloads: Sequence[Workload]) -> Iterator[tuple[Operation, NDArray[np.intp]]]:
    """Merge operations of one kind into one with arrays as sizes, and yield it with the rows of their networks."""
    groups: dict[tuple[object, ...], list[tuple[int, Operation]]] = {}
    for owner, workload in enumerate(workloads):
        for operation in workload.operations:
            groups.setdefault(_kind(operation), []).append((owner, operation))
    for members in groups.values():
        owners = np.array([owner for owner, _ in members], dtype=np.intp)
        operations = [operation for _, operation in members]
        names = [entry.name for entry in dataclasses.fields(operations[0]) if entry.type is Size]
        sizes: dict[str, Any] = {name: np.array([getattr(member, name) for member in operations]) for name in names}
        yield dataclasses.replace(operations[0], **sizes), owners


def _kind(operation: Operation) -> tuple[object, ...]:
    """Return the key of operations that can be merged: type, label, traits, and fields that are plain numbers."""
    plain = [getattr(operation, entry.name) for entry in dataclasses.fields(operation) if entry.type is int]
    return type(operation), operation.label, operation.traits, *plain


def _features(sums: Sums, batches: Numbers, *, counts: Mapping[str, Numbers]) -> Features:
    rows = len(batches)
    costs = {name: amount for name, amount in sums.items() if not name.startswith(_MOMENT)}
    moments = {name: amount for name, amount in sums.items() if name.startswith(_MOMENT)}
    costs["runs"] = np.ones(rows)
    shapes = {name.removeprefix(_MOMENT): _mean(name, amount, costs) for name, amount in moments.items()}
    shapes["batch"] = np.log2(batches)
    return Features(
        cost_names=tuple(costs),
        costs=np.column_stack(list(costs.values())),
        shape_names=tuple(f"mean.{name}" for name in shapes),
        shapes=np.column_stack(list(shapes.values())),
        count_names=tuple(counts),
        counts=np.column_stack(list(counts.values())) if counts else np.zeros((rows, 0)),
    )


def _mean(name: str, moment: Numbers, costs: Mapping[str, Numbers]) -> Numbers:
    """Divide a moment by the sum of the cost that weights it; 0 for a network without that cost."""
    group = name.removeprefix(_MOMENT).split(".")[0]
    weight = sum(amount for cost, amount in costs.items() if cost.startswith(f"{group}.macs"))
    return np.divide(moment, weight, out=np.zeros_like(moment), where=np.greater(weight, 0))
