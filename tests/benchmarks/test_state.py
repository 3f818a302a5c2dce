from pathlib import Path

import numpy as np

from benchmarks.support.saving import Line
from benchmarks.support.state import State, digest_of_arrays, digest_of_code


def test_a_finished_line_is_read_and_another_setting_or_code_makes_it_anew(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> list[Line]:
        made.append(1)
        return [("a row", str(len(made)))]

    state = State(folder=tmp_path / "state", code="first")
    assert state.lines("Row 1: ours", {"seeds": 1}, make) == [("a row", "1")]
    assert state.lines("Row 1: ours", {"seeds": 1}, make) == [("a row", "1")]
    assert state.lines("Row 1: ours", {"seeds": 2}, make) == [("a row", "2")]
    assert State(folder=tmp_path / "state", code="second").lines("Row 1: ours", {"seeds": 2}, make) == [("a row", "3")]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["row-1-ours.json"]


def test_without_a_folder_nothing_is_kept() -> None:
    state = State(folder=None)
    assert [state.lines("row", {}, lambda: [("a",)]) for _ in range(2)] == [[("a",)]] * 2


def test_digests_tell_code_and_numbers_apart() -> None:
    assert digest_of_code("hwnas/predict") != digest_of_code("hwnas/predict", "benchmarks")
    assert digest_of_arrays(np.arange(6.0)) != digest_of_arrays(np.arange(6.0).reshape(2, 3))
