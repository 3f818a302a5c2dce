"""Detect the GPUs of this machine by NVIDIA's driver."""

from dataclasses import dataclass, replace

from hwnas.devices.datasheets import match, normalised
from hwnas.devices.device import Device, FileReader
from hwnas.runs import CommandRunner

GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version,uuid", "--format=csv,noheader")
DRIVER_FILE = "/proc/driver/nvidia/version"
BOARD_FILE = "/proc/device-tree/model"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU in this machine."""

    index: int
    """Index among the GPUs that the driver lists."""
    reported: str
    driver: str
    memory_bytes: int | None
    uuid: str
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
    kept, hidden = visible_gpus(tuple(_on_board(gpu, read=read) for gpu in gpus), visible=visible)
    return kept, (*notes, *hidden)


def visible_gpus(gpus: tuple[Gpu, ...], *, visible: str | None) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES selects, in its order, and a note if it hides any.

    As in CUDA, the first entry that names no GPU ends the list.
    """
    if visible is None:
        return gpus, ()
    kept: list[Gpu] = []
    for entry in visible.split(","):
        matching = [gpu for gpu in gpus if _is_named(gpu, entry.strip())]
        if len(matching) != 1:
            break
        kept += matching
    hidden = len(gpus) - len(kept)
    note = f"CUDA_VISIBLE_DEVICES={visible!r} hides {hidden} of {len(gpus)} GPUs"
    return tuple(kept), (note,) if hidden else ()


def _gpu(index: int, row: list[str]) -> Gpu:
    reported, memory, driver, uuid = row
    return Gpu(
        index=index,
        reported=reported,
        driver=driver,
        memory_bytes=_mib(memory),
        uuid=uuid,
        device=match(reported) or _unknown_device(reported),
    )


def _mib(text: str) -> int | None:
    """Bytes of a text such as `143771 MiB`; None for `[N/A]`, as of a board that shares its memory with the CPU."""
    number = text.removesuffix("MiB").strip()
    return int(number) * 2**20 if number.isdecimal() else None


def _unknown_device(reported: str) -> Device:
    name = f"nvidia-{normalised(reported)}"
    return Device(name=name, kind="gpu", vendor="nvidia", architecture="unknown", reported=(reported,))


def _on_board(gpu: Gpu, *, read: FileReader) -> Gpu:
    """The GPU named after its board, if the driver reports one name for several boards."""
    board = read(BOARD_FILE) if "nvgpu" in gpu.reported else None
    if board is None:
        return gpu
    model = board.strip("\0\n ")
    return replace(gpu, device=match(model) or _unknown_device(model))


def _is_named(gpu: Gpu, entry: str) -> bool:
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
