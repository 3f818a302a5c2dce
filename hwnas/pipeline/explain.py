"""`hwnas explain`: show where the time of a network goes on a device, and why it is not faster."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hwnas.arguments import checked_arguments
from hwnas.data_paths import PROFILES, data_search_path
from hwnas.devices import DEVICES, Device, Machine, detect, resolve
from hwnas.errors import InputError, MissingError
from hwnas.metrics import PRECISIONS, Deployment, unknown_precision
from hwnas.pipeline.named_network import find_network
from hwnas.profile.executed_graph import precision_limits
from hwnas.profile.lookup import profile_entries
from hwnas.profile.roofline import OperationCost, PeakRates, bottlenecks, operation_costs, peak_rates
from hwnas.profile.runtime_profile import RuntimeProfile, measured_bottlenecks, runtime_profile
from hwnas.profile.subjects import space_subject
from hwnas.records import Setting, Subject
from hwnas.space.arch import Arch

_COMMAND = "hwnas explain {space} {arch}"

RUNTIME = "onnxruntime"
"""The runtime whose own profile is taken first if this machine has the device."""


@dataclass(frozen=True, kw_only=True)
class OperationGroup:
    """Operations with the same name in all blocks, such as `blocks.*.fc1`."""

    name: str
    kind: str
    num_operations: int
    macs: int
    bytes_moved: int
    intensity: float
    """Floating-point operations per byte moved."""
    time_ms: float | None
    """Roofline time; None if no peak rates are known."""
    share: float
    """Share of the time, or of the multiply-accumulates if no time is known."""
    bound: Literal["compute", "memory"] | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Breakdown of the time of a batch."""

    space: str
    arch: Arch
    network_id: str
    deployment: Deployment
    """Without a runtime if nothing was measured."""
    measured: RuntimeProfile | None
    """None if this machine lacks the device, or has no runtime that can measure on it."""
    roofline_ms: float | None
    """Time at the device's peak rates, without fusion and launches; None if these are unknown, as for a CPU."""
    operations: tuple[OperationCost, ...]
    groups: tuple[OperationGroup, ...]
    hints: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields as plain values, as `--json` prints them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        operations = [{**vars(cost), "time_ms": cost.time_ms} for cost in self.operations]
        return {**values, "arch": self.arch.to_mapping(), "operations": operations}


Profiler = Callable[[Subject, Setting], RuntimeProfile | None]


@checked_arguments
def explain(
    space: str,
    arch: str | Path | Mapping[str, object] | Arch,
    *,
    device: str = "auto",
    batch: int = 1,
    precision: str = "fp32",
    threads: int = 1,
    machine: Machine | None = None,
    profiler: Profiler | None = None,
) -> Explanation:
    """Break down the time of a network: measured if this machine has the device, and by peak rates if they are known.

    Args:
        space: Name of a space, or the folder of a run that holds the network.
        arch: A network of the space: an `Arch`, its mapping, a published name, 'min', 'max', 'random:SEED' or a file.
            Of a run also the id of a network, or its first digits.
        device: Name of a device; 'auto' for one of this machine.
        batch: Batch size.
        precision: Precision of weights and activations.
        threads: Threads on a CPU.
        machine: The devices of this machine; detected if None.
        profiler: Measures a network with a runtime's own profiler; None for that of onnxruntime or torch.

    Raises:
        MissingError: The device is not in this machine and its peak rates are unknown.
        UnknownNameError: There is no such space, network or device.
        UsageError: The precision is not known.
    """
    if precision not in PRECISIONS:
        raise unknown_precision(precision)
    named_space, found = find_network(space, arch, command=_COMMAND)
    network = named_space.candidate(found)
    this_machine = machine or detect()
    target = _find_device(resolve(device, machine=this_machine), this_machine)
    deployment = Deployment(device=target.name, runtime=RUNTIME, precision=precision, batch=batch, threads=threads)
    is_present = any(item.name == target.name for item in this_machine.devices)
    profile = profiler or runtime_profile
    subject, setting = space_subject(named_space, network), Setting(deployment=deployment)
    measured = profile(subject, setting) if is_present else None
    rates = peak_rates(target, precision)
    if measured is None and rates is None:
        raise _nothing_known(target, precision, is_present=is_present)
    workload = named_space.workload(network.arch)
    costs = operation_costs(workload, rates=rates, precision=precision, batch=batch)
    of_profile = () if measured is None else measured_bottlenecks(measured, macs=sum(cost.macs for cost in costs))
    return Explanation(
        space=named_space.name,
        arch=network.arch,
        network_id=network.network_id,
        deployment=replace(deployment, runtime=None if measured is None else measured.runtime),
        measured=measured,
        roofline_ms=None if rates is None else sum(cost.time_ms or 0.0 for cost in costs),
        operations=costs,
        groups=group_operations(costs, rates),
        hints=(
            *(() if measured is None else _other_runtimes(measured.runtime, target)),
            *of_profile,
            *(precision_limits(subject, setting) if is_present else ()),
            *bottlenecks(workload, costs, device=target, rates=rates, precision=precision),
        ),
    )


def _other_runtimes(runtime: str, device: Device) -> Iterator[str]:
    """Yield a note if the profiles of a device, and so its predictors, are of other runtimes than the timed one."""
    others: set[str] = set()
    with suppress(InputError):  # a folder of HWNAS_PROFILES need not exist
        entries = profile_entries(data_search_path(PROFILES))
        others = {item.manifest.setting.runtime for item in entries if item.manifest.setting.device == device.name}
    if others and runtime not in others:
        names = " and ".join(sorted(others))
        yield f"these times are of {runtime}; profiles of {device.name}, and predictors fitted to them, are of {names}"


def group_operations(costs: Sequence[OperationCost], rates: PeakRates | None) -> tuple[OperationGroup, ...]:
    """Group operations that have the same name in all blocks, the largest share first."""
    groups: dict[tuple[str, str], list[OperationCost]] = {}
    for cost in costs:
        name = ".".join("*" if part.isdecimal() else part for part in cost.name.split("."))
        groups.setdefault((name, cost.kind), []).append(cost)
    total = sum(_weight(cost, rates) for cost in costs) or 1.0
    summed = [_sum_group(name, kind, members, rates, total) for (name, kind), members in groups.items()]
    return tuple(sorted(summed, key=lambda group: -group.share))


def _sum_group(
    name: str, kind: str, members: Sequence[OperationCost], rates: PeakRates | None, total: float
) -> OperationGroup:
    macs, moved = sum(cost.macs for cost in members), sum(cost.bytes_moved for cost in members)
    memory_ms = sum(cost.time_ms or 0.0 for cost in members if cost.memory_bound)
    time_ms = sum(cost.time_ms or 0.0 for cost in members)
    return OperationGroup(
        name=name,
        kind=kind,
        num_operations=len(members),
        macs=macs,
        bytes_moved=moved,
        intensity=2 * macs / moved if moved else 0.0,  # a multiply-accumulate is two floating-point operations
        time_ms=None if rates is None else time_ms,
        share=sum(_weight(cost, rates) for cost in members) / total,
        bound=None if rates is None else "memory" if memory_ms > time_ms / 2 else "compute",
    )


def _weight(cost: OperationCost, rates: PeakRates | None) -> float:
    return cost.macs if rates is None else cost.time_ms or 0.0


def _find_device(name: str, machine: Machine) -> Device:
    """Return a device of the machine or of a datasheet; a CPU of another machine is neither."""
    for device in machine.devices:
        if device.name == name:
            return device
    if name in DEVICES:
        return DEVICES.get(name)
    raise MissingError(
        f"device {name} must be in this machine or have a datasheet in hwnas",
        got=name,
        known=[device.name for device in machine.devices],
        hint="the same command on that machine",
    )


def _nothing_known(device: Device, precision: str, *, is_present: bool) -> MissingError:
    lacks = f"its datasheet has no {precision} rate" if device.source else "its peak rates are unknown"
    needs = f"no runtime of this machine measures {precision} on it" if is_present else "it is not in this machine"
    message = f"{device.name}: {lacks}, and {needs}"
    return MissingError(message, got=precision, hint="another --precision, or hwnas doctor")
