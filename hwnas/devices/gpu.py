"""Detect the GPUs of this machine by NVIDIA's driver.

A GPU with multi-instance mode (MIG) is a set of slices with compute units and memory of their own, and programs run on
a slice. Each kind of slice is a device of its own, such as `a100-mig-1g.10gb`: its speed is not that of the GPU.
"""

import re
from dataclasses import dataclass, replace

from hwnas.devices.datasheets import match, normalised
from hwnas.devices.device import Device, FileReader
from hwnas.runs import CommandRunner

GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version,uuid", "--format=csv,noheader")
SLICE_QUERY = ("nvidia-smi", "-L")
DRIVER_FILE = "/proc/driver/nvidia/version"
BOARD_FILE = "/proc/device-tree/model"

_WITH_SLICES = ("a100", "a30", "h100", "h200", "gh200", "b200", "b300", "rtx-pro-6000", "nvidia-")
"""Beginnings of the names of devices that may be in multi-instance mode."""

_LISTED_GPU = re.compile(r"^GPU \d+: .*\(UUID: (GPU-[0-9a-fA-F-]+)\)")
_LISTED_SLICE = re.compile(r"^\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-\S+)\)")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU in this machine."""

    index: int
    """Index among the GPUs that the driver lists."""
    reported: str
    driver: str
    memory_bytes: int | None
    uuid: str
    """The driver's identifier of the GPU, or of the slice."""
    device: Device


def parse_gpus(text: str) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Parse the output of `GPU_QUERY`.

    Returns:
        The GPUs, and a note for each line that is not one.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    gpus = [_gpu(index, row) for index, row in enumerate(rows) if len(row) == 4]
    notes = [f"nvidia-smi answered {', '.join(row)!r}" for row in rows if len(row) != 4]
    return tuple(gpus), tuple(notes)


def detect_gpus(
    *, run: CommandRunner, read: FileReader, visible: str | None
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Detect the GPUs that this process may use.

    Args:
        run: Runs a command.
        read: Reads a system file.
        visible: Value of CUDA_VISIBLE_DEVICES.

    Returns:
        The GPUs, and notes on what could not be detected.
    """
    outcome = run(GPU_QUERY)
    if outcome.failure is not None:
        driver = "" if read(DRIVER_FILE) is None else ", though NVIDIA's driver is loaded"
        return (), (outcome.failure + driver,)
    gpus, notes = parse_gpus(outcome.output)
    gpus = tuple(_on_board(gpu, read=read) for gpu in gpus)
    slices: tuple[Gpu, ...] = ()
    if any(gpu.device.name.startswith(_WITH_SLICES) for gpu in gpus) or "MIG-" in (visible or ""):
        listed = run(SLICE_QUERY)
        slices = parse_slices(listed.output, gpus)
        notes += () if listed.failure is None else (f"slices of GPUs are not known: {listed.failure}",)
    kept, hidden = visible_gpus(gpus, slices=slices, visible=visible)
    return kept, (*notes, *hidden)


def parse_slices(text: str, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Parse the output of `SLICE_QUERY`, in which the slices of a GPU follow its line.

    Returns:
        The slices of GPUs in multi-instance mode, in the order of the list.
    """
    slices = []
    parents = {gpu.uuid: gpu for gpu in gpus}
    parent: Gpu | None = None
    for line in text.splitlines():
        if (found := _LISTED_GPU.search(line)) is not None:
            parent = parents.get(found.group(1))
        elif parent is not None and (found := _LISTED_SLICE.search(line)) is not None:
            slices.append(_slice(parent, profile=found.group(1), uuid=found.group(2)))
    return tuple(slices)


def visible_gpus(
    gpus: tuple[Gpu, ...], *, slices: tuple[Gpu, ...] = (), visible: str | None
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES selects, in its order, and a note if it hides any.

    As in CUDA, the first entry that names no GPU or slice ends the list, and the number of a GPU in multi-instance mode
    stands for its first slice. Without the variable all slices are there: workers choose theirs by it.
    """
    first_slices: dict[int, Gpu] = {}
    for item in slices:
        first_slices.setdefault(item.index, item)
    usable = tuple(first_slices.get(gpu.index, gpu) for gpu in gpus)
    if visible is None:
        of_gpus = [[item for item in slices if item.index == gpu.index] or [gpu] for gpu in gpus]
        return tuple(item for items in of_gpus for item in items), ()
    kept: list[Gpu] = []
    for entry in visible.split(","):
        named = [shown for gpu, shown in zip(gpus, usable, strict=True) if _is_named(gpu, entry.strip())]
        named += [item for item in slices if item.uuid == entry.strip()]
        if len(named) != 1:
            break
        kept += named
    hidden = len({gpu.index for gpu in gpus} - {gpu.index for gpu in kept})
    notes = [f"CUDA_VISIBLE_DEVICES={visible!r} hides {hidden} of {len(gpus)} GPUs"] if hidden else []
    first = visible.split(",")[0].strip()
    if not kept and first.startswith("MIG-"):
        known = ", ".join(f"{item.uuid} ({item.device.name})" for item in slices) or "none"
        notes.append(f"the slice {first} does not exist, and those that do are: {known}")
    return tuple(kept), tuple(notes)


def _gpu(index: int, row: list[str]) -> Gpu:
    reported, memory, driver, uuid = row
    # Bytes of a text such as `143771 MiB`; None for `[N/A]`, as of a board that shares its memory with the CPU.
    number = memory.removesuffix("MiB").strip()
    return Gpu(
        index=index,
        reported=reported,
        driver=driver,
        memory_bytes=int(number) * 2**20 if number.isdecimal() else None,
        uuid=uuid,
        device=match(reported) or _unknown_device(reported),
    )


def _unknown_device(reported: str) -> Device:
    name = f"nvidia-{normalised(reported)}"
    return Device(name=name, kind="gpu", vendor="nvidia", architecture="unknown", reported=(reported,))


def _slice(gpu: Gpu, *, profile: str, uuid: str) -> Gpu:
    """Return a slice of a GPU as a GPU; its peak rates and its memory are not on the datasheet."""
    reported = f"{gpu.reported} MIG {profile}"
    device = Device(
        name=f"{gpu.device.name}-mig-{profile.replace('+', '-')}",
        kind="gpu",
        vendor="nvidia",
        architecture=gpu.device.architecture,
        compute_capability=gpu.device.compute_capability,
        reported=(reported,),
    )
    return replace(gpu, reported=reported, uuid=uuid, memory_bytes=None, device=device)


def _on_board(gpu: Gpu, *, read: FileReader) -> Gpu:
    """The GPU named after its board, if the driver reports one name for several boards."""
    board = read(BOARD_FILE) if "nvgpu" in gpu.reported else None
    if board is None:
        return gpu
    model = board.strip("\0\n ")
    return replace(gpu, device=match(model) or _unknown_device(model))


def _is_named(gpu: Gpu, entry: str) -> bool:
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
