import numpy as np
from torch import Tensor

from benchmarks.support.rounds import Spread, time_rounds
from hwnas.profile.runners.runner import Sample


class Fixed:
    """A session that takes a given time and counts its runs."""

    def __init__(self, ms: float) -> None:
        self.ms, self.runs = ms, 0

    def run_once(self) -> Sample:
        self.runs += 1
        return Sample(wall_ns=1, cpu_ns=round(1e6 * self.ms))

    def outputs(self) -> Tensor:
        raise AssertionError("the outputs are not read")

    def memory_mb(self) -> float | None:
        return None

    def close(self) -> None:
        pass


def test_each_round_has_one_time_of_each_session() -> None:
    sessions = {"slow": Fixed(3.0), "fast": Fixed(1.5)}
    times = time_rounds(sessions, rounds=5, rng=np.random.default_rng(0))
    assert (times["fast"] / times["slow"]).tolist() == [0.5] * 5
    assert sessions["slow"].runs >= 10, "a run before each timed one"


def test_a_spread_is_written_with_its_quartiles() -> None:
    spread = Spread.of(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (spread.median, spread.low, spread.high) == (3.0, 2.0, 4.0)
    assert spread.text(1) == "3.0 (2.0–4.0)"
