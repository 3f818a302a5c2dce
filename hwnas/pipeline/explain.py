"""`hwnas explain`: where the time of a network goes on a device, and why it is not faster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hwnas.devices import DEVICES, Device, Machine, detect, resolve
from hwnas.errors import MissingError, UsageError, unknown
from hwnas.metrics import PRECISIONS, Deployment
from hwnas.profile.roofline import OperationCost, PeakRates, bottlenecks, operation_costs, peak_rates
from hwnas.profile.runtime_profile import RuntimeProfile, measured_bottlenecks, runtime_profile
from hwnas.profile.subjects import space_subject
from hwnas.records import Setting, Subject
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.lookup import find_arch

_COMMAND = "hwnas explain {space} {arch}"

RUNTIME = "onnxruntime"
"""The runtime whose own profile is asked first where the device is here."""


@dataclass(frozen=True, kw_only=True)
class OperationGroup:
    """Operations of one name in all blocks: `blocks.*.fc1`."""

    name: str
    kind: str
    num_operations: int
    macs: int
    bytes_moved: int
    intensity: float
    """Floating-point operations for each byte moved."""
    time_ms: float | None
    """By the roofline; None where no peak rates are known."""
    share: float
    """Of the time; of the products where no time is known."""
    bound: Literal["compute", "memory"] | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Where the time of a batch goes."""

    space: str
    arch: Arch
    network_id: str
    deployment: Deployment
    """Without a runtime where nothing was measured."""
    measured: RuntimeProfile | None
    """None where the device is not here, or nothing here can measure on it."""
    roofline_ms: float | None
    """By the device's peak rates, without fusion and launches; None where they are not known, as of a CPU."""
    operations: tuple[OperationCost, ...]
    groups: tuple[OperationGroup, ...]
    hints: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        operations = [{**vars(cost), "time_ms": cost.time_ms} for cost in self.operations]
        return {**values, "arch": self.arch.to_mapping(), "operations": operations}


Profiler = Callable[[Subject, Setting], RuntimeProfile | None]


def explain(
    space: str,
    arch: str | Path | Mapping[str, Any] | Arch,
    *,
    device: str = "auto",
    batch: int = 1,
    precision: str = "fp32",
    threads: int = 1,
    machine: Machine | None = None,
    profiler: Profiler | None = None,
) -> Explanation:
    """Say where the time of a network goes: measured if the device is here, and by its peak rates if they are known."""
    if space not in SPACES:
        raise unknown("space", space, SPACES, hint="hwnas explain {} max")
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known", got=precision, known=PRECISIONS)
    chosen = SPACES.get(space)
    network = chosen.candidate(find_arch(chosen, arch, command=_COMMAND))
    here = machine or detect()
    found = _device(resolve(device, machine=here), here)
    deployment = Deployment(device=found.name, runtime=RUNTIME, precision=precision, batch=batch, threads=threads)
    is_here = any(item.name == found.name for item in here.devices)
    setting = Setting(deployment=deployment)
    measured = (profiler or runtime_profile)(space_subject(chosen, network), setting) if is_here else None
    rates = peak_rates(found, precision)
    if measured is None and rates is None:
        raise _nothing_known(found, precision, here)
    workload = chosen.workload(network.arch)
    costs = operation_costs(workload, rates=rates, precision=precision, batch=batch)
    times = [cost.time_ms for cost in costs]
    told = () if measured is None else measured_bottlenecks(measured, macs=sum(cost.macs for cost in costs))
    return Explanation(
        space=chosen.name,
        arch=network.arch,
        network_id=network.network_id,
        deployment=replace(deployment, runtime=None if measured is None else measured.runtime),
        measured=measured,
        roofline_ms=None if rates is None else sum(time for time in times if time is not None),
        operations=costs,
        groups=grouped(costs, rates),
        hints=(*told, *bottlenecks(workload, costs, device=found, rates=rates, precision=precision)),
    )


def grouped(costs: Sequence[OperationCost], rates: PeakRates | None) -> tuple[OperationGroup, ...]:
    """Operations of one name in all blocks together, the largest share first."""
    groups: dict[tuple[str, str], list[OperationCost]] = {}
    for cost in costs:
        name = ".".join("*" if part.isdecimal() else part for part in cost.name.split("."))
        groups.setdefault((name, cost.kind), []).append(cost)
    whole = sum(_weight(cost, rates) for cost in costs) or 1.0
    found = [_group(name, kind, members, rates, whole) for (name, kind), members in groups.items()]
    return tuple(sorted(found, key=lambda group: -group.share))


def _group(
    name: str, kind: str, members: Sequence[OperationCost], rates: PeakRates | None, whole: float
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
        intensity=2 * macs / moved if moved else 0.0,
        time_ms=None if rates is None else time_ms,
        share=sum(_weight(cost, rates) for cost in members) / whole,
        bound=None if rates is None else "memory" if memory_ms > time_ms / 2 else "compute",
    )


def _weight(cost: OperationCost, rates: PeakRates | None) -> float:
    return cost.macs if rates is None else cost.time_ms or 0.0


def _device(name: str, machine: Machine) -> Device:
    """The device of that name, here or on a datasheet; a CPU that is elsewhere has neither."""
    for device in machine.devices:
        if device.name == name:
            return device
    if name in DEVICES:
        return DEVICES.get(name)
    raise MissingError(
        f"device {name} is not in this machine, and no datasheet stands for it",
        got=name,
        known=[device.name for device in machine.devices],
        hint="the same command on that machine",
    )


def _nothing_known(device: Device, precision: str, machine: Machine) -> MissingError:
    here = any(item.name == device.name for item in machine.devices)
    lacks = f"its datasheet has no {precision} rate" if device.source else "no peak rates are known of it"
    needs = f"no runtime here measures {precision} on it" if here else "it is not in this machine"
    return MissingError(
        f"{device.name}: {lacks}, and {needs}", got=precision, hint="another --precision, or hwnas doctor"
    )
