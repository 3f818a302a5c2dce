"""Measure and limit the memory of this process: too large a network raises an error and does not stall the machine."""

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from hwnas.devices.device import FileReader, read_system_file
from hwnas.errors import InputError

STATUS = "/proc/self/status"
MEMORY = "/proc/meminfo"
CGROUP_LIMIT, CGROUP_USE = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"
CGROUP_KINDS = "/sys/fs/cgroup/memory.stat"
_SHARE = 0.9
"""Fraction of the free memory that may be used; the rest is left to other processes."""


def resident_mb(*, read: FileReader = read_system_file) -> float | None:
    """Return the resident memory of this process; None if the system does not report it."""
    return _field(read(STATUS), "VmRSS")


def peak_mb(*, read: FileReader = read_system_file) -> float | None:
    """Return the peak of the resident memory since `reset_peak`."""
    return _field(read(STATUS), "VmHWM")


def reset_peak(*, path: Path = Path("/proc/self/clear_refs")) -> bool:
    """Reset the peak of the resident memory. Returns False if the system does not allow it."""
    try:
        path.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def release_free_memory() -> None:
    """Return memory that is free inside this process to the system, so that sizes can be compared."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without it (musl) keeps what it has
            ctypes.CDLL(None).malloc_trim(0)


def available_bytes(*, read: FileReader = read_system_file) -> int | None:
    """Return the memory that this process may still allocate: what is free in the system, or less in a container."""
    free = _field(read(MEMORY), "MemAvailable")
    limits = [] if free is None else [int(free * 1e6)]
    limit, use = (read(CGROUP_LIMIT) or "").strip(), _used_bytes(read)
    if limit.isdecimal() and use is not None:
        limits.append(int(limit) - use)
    return max(0, min(limits)) if limits else None


def require_memory(num_bytes: int, *, what: str, hint: str | None = None) -> None:
    """Raise an InputError if something would need more memory than this process may still allocate.

    Args:
        num_bytes: Bytes that it needs.
        what: Its name, for the error message.
        hint: Remedy.
    """
    free = available_bytes()
    if free is not None and num_bytes > free:
        got = f"{num_bytes / 1e6:,.0f} MB, of which {free / 1e6:,.0f} MB are free"
        raise InputError(f"{what} must fit into memory", got=got, hint=hint)


def _used_bytes(read: FileReader) -> int | None:
    """Memory of a container without its inactive file cache, which the kernel drops when memory is needed."""
    use = (read(CGROUP_USE) or "").strip()
    if not use.isdecimal():
        return None
    kinds = dict(line.split()[:2] for line in (read(CGROUP_KINDS) or "").splitlines() if len(line.split()) >= 2)
    idle = kinds.get("inactive_file", "0")
    return max(0, int(use) - (int(idle) if idle.isdecimal() else 0))


@contextlib.contextmanager
def memory_limit(limit_bytes: int | None = None) -> Iterator[None]:
    """Limit the memory of this process within a `with` block.

    Args:
        limit_bytes: Bytes that may be allocated in addition; None: most of the free memory.
    """
    more = available_bytes() if limit_bytes is None else limit_bytes
    if more is None or sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    share = _SHARE if limit_bytes is None else 1.0
    # RLIMIT_DATA counts private writable memory, whether it was touched or not.
    allowed = int((_field(read_system_file(STATUS), "VmData") or 0.0) * 1e6) + int(share * more)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed if hard < 0 else min(allowed, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _field(text: str | None, name: str) -> float | None:
    """The value of a line such as `VmRSS:  1234 kB`, in megabytes."""
    for line in (text or "").splitlines():
        key, _, value = line.partition(":")
        if key == name and value.split()[:1]:
            return int(value.split()[0]) * 1024 / 1e6
    return None
