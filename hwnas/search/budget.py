"""How long a search may go on."""

import math
import time
from dataclasses import dataclass

from hwnas.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """True evaluations, or minutes, or whichever ends first.

    Where nothing dear is asked for, every network counts as an evaluation.
    """

    evaluations: int | None = 500
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.minutes is None:
            raise InputError("a search needs a budget of evaluations or of minutes", hint="--budget 500")
        if self.evaluations is not None and self.evaluations < 1:
            raise InputError("a budget must be at least 1 evaluation", got=self.evaluations)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError("a budget of time must be above 0 minutes", got=self.minutes)


class Stopwatch:
    """Seconds that a search has taken, in this process and in those before it."""

    def __init__(self, *, before_s: float = 0.0) -> None:
        self._before_s, self._start = before_s, time.monotonic()

    def seconds(self) -> float:
        """Seconds so far."""
        return self._before_s + time.monotonic() - self._start
