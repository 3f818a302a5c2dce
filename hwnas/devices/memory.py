"""Memory of this process, and a limit on it, so that what does not fit is an error and not the end of the machine."""

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from hwnas.devices.device import FileReader, read_system_file

STATUS = "/proc/self/status"
MEMORY = "/proc/meminfo"
CGROUP_LIMIT, CGROUP_USE = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"
CGROUP_KINDS = "/sys/fs/cgroup/memory.stat"
_SHARE = 0.9
"""Of the memory that is free: the rest is for others."""


def resident_mb(*, read: FileReader = read_system_file) -> float | None:
    """Memory of this process that is in use now; None where the system does not tell."""
    return _field(read(STATUS), "VmRSS")


def peak_mb(*, read: FileReader = read_system_file) -> float | None:
    """The most that was in use since `reset_peak`."""
    return _field(read(STATUS), "VmHWM")


def reset_peak(*, path: Path = Path("/proc/self/clear_refs")) -> bool:
    """Begin to watch for the peak anew; False where the system does not allow it."""
    try:
        path.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def release_free_memory() -> None:
    """Give memory that is free inside this process back to the system, so that sizes can be compared."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # a C library without it (musl) keeps what it has
            ctypes.CDLL(None).malloc_trim(0)


def available_bytes(*, read: FileReader = read_system_file) -> int | None:
    """Memory that this process may still take: what the system has free, or less where a container is limited."""
    free = _field(read(MEMORY), "MemAvailable")
    found = [] if free is None else [int(free * 1e6)]
    limit, use = (read(CGROUP_LIMIT) or "").strip(), _used_bytes(read)
    if limit.isdecimal() and use is not None:
        found.append(int(limit) - use)
    return max(0, min(found)) if found else None


def _used_bytes(read: FileReader) -> int | None:
    """What a container holds and cannot give back: copies of files that nobody uses now go when memory is wanted."""
    use = (read(CGROUP_USE) or "").strip()
    if not use.isdecimal():
        return None
    kinds = dict(line.split()[:2] for line in (read(CGROUP_KINDS) or "").splitlines() if len(line.split()) >= 2)
    idle = kinds.get("inactive_file", "0")
    return max(0, int(use) - (int(idle) if idle.isdecimal() else 0))


@contextlib.contextmanager
def memory_limit(limit_bytes: int | None = None) -> Iterator[None]:
    """Refuse allocations beyond what is free now, or beyond `limit_bytes` more than is in use."""
    more = available_bytes() if limit_bytes is None else limit_bytes
    if more is None or sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    share = _SHARE if limit_bytes is None else 1.0
    wanted = _data_bytes() + int(share * more)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What counts against the limit: private writable memory, touched or not."""
    return int((_field(read_system_file(STATUS), "VmData") or 0.0) * 1e6)


def _field(text: str | None, name: str) -> float | None:
    """A line such as `VmRSS:  1234 kB` in megabytes."""
    for line in (text or "").splitlines():
        key, _, value = line.partition(":")
        if key == name and value.split()[:1]:
            return int(value.split()[0]) * 1024 / 1e6
    return None
