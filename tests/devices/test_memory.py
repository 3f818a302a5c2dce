"""Readings of this process, of system files with known text, and the limit."""

import resource

import pytest
import torch

from hwnas.devices.memory import available_bytes, memory_limit, peak_mb, release_free_memory, reset_peak, resident_mb


def test_status_is_read_in_megabytes() -> None:
    def read(path: str) -> str:
        return "Name: python\nVmHWM:\t  200000 kB\nVmRSS:\t  100000 kB\n"

    assert resident_mb(read=read) == pytest.approx(102.4)
    assert peak_mb(read=read) == pytest.approx(204.8)


def test_systems_that_tell_nothing() -> None:
    assert resident_mb(read=lambda path: None) is None
    assert available_bytes(read=lambda path: None) is None


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 1_024_000_000), ("500000000", 400_000_000), ("50000000", 0), (None, 1_024_000_000)]
)
def test_a_container_may_have_less_than_the_system(limit: str | None, expected: int) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable: 1000000 kB\n",
        "/sys/fs/cgroup/memory.max": limit,
        "/sys/fs/cgroup/memory.current": "100000000",
    }
    assert available_bytes(read=files.get) == expected


def test_copies_of_files_are_no_memory_in_use() -> None:
    files = {
        "/proc/meminfo": "MemAvailable: 1000000 kB\n",
        "/sys/fs/cgroup/memory.max": "500000000\n",
        "/sys/fs/cgroup/memory.current": "480000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 100000000\nfile 380000000\ninactive_file 300000000\nactive_file 80000000\n",
    }
    assert available_bytes(read=files.get) == 320_000_000
    files["/sys/fs/cgroup/memory.stat"] = "anon 1\ninactive_file many\n\nhalf"
    assert available_bytes(read=files.get) == 20_000_000
    del files["/sys/fs/cgroup/memory.current"]
    assert available_bytes(read=files.get) == 1_024_000_000


def test_the_peak_sees_what_was_given_back() -> None:
    if not reset_peak():
        pytest.skip("this system does not let the peak be reset")
    release_free_memory()
    before = resident_mb()
    block = torch.ones(16_000_000)
    del block
    after, peak = resident_mb(), peak_mb()
    assert before is not None
    assert after is not None
    assert peak is not None
    assert peak - before > 50
    assert peak - after > 50


def test_what_does_not_fit_is_an_error_and_the_limit_is_lifted() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(RuntimeError, match="allocate memory"), memory_limit(100_000_000):
        torch.empty(2_000_000_000, dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with memory_limit(100_000_000):
        assert torch.ones(1_000_000).sum() == 1_000_000
