"""Many commands on a disk that becomes full: exit code 1, nothing half written, and the same end when there is room."""

import pytest

from tests.fuzz.test_fuzz import run_module


@pytest.mark.slow
def test_a_full_disk_ends_every_command_in_good_order() -> None:
    ended = run_module("tests.fuzz.full_disk", "--seed", "1", "--count", "100", "--slow")
    assert ended.code == 0, ended.end
