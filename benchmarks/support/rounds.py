"""Times of several sessions that run in turn, in a new random order each round, so that all see the same machine."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.profile.runners.runner import RuntimeSession
from hwnas.profile.timing import duration_ns, warm_up


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Spread":
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median=median, low=low, high=high)

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def time_rounds(
    sessions: Mapping[str, RuntimeSession], *, rounds: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """The time of each session in each round, in milliseconds, by the best clock that it has.

    A run that is not counted comes before each timed one: it refills the caches that the other sessions evicted.
    """
    names = list(sessions)
    for session in sessions.values():
        warm_up(session)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for index in rng.permutation(len(names)):
            session = sessions[names[index]]
            session.run_once()
            times[names[index]].append(duration_ns(session.run_once()) / 1e6)
    return {name: np.asarray(values) for name, values in times.items()}
