"""How far long work is, and who is told: measurements, searches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class CampaignProgress:
    """How far a measuring campaign is, after one more network."""

    done: int
    total: int
    failed: int
    network: str
    """The network that was measured last."""
    failure: str | None = None
    """Why it could not be measured."""
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """How far a search is, after one more generation."""

    generation: int
    evaluations: int
    max_evaluations: int | None
    max_minutes: float | None
    candidates: int
    elapsed_s: float
    hypervolume: float | None
    """Share of the box that the feasible networks dominate; None without a box."""
    best: Mapping[str, float]
    """The best feasible value of each objective; empty while there is none."""


class Reporter(Protocol):
    """Who is told how a campaign goes."""

    def say(self, text: str) -> None:
        """Something that is worth knowing now."""

    def progress(self, state: CampaignProgress) -> None:
        """One more task is done."""


class SearchReporter(Protocol):
    """What a search tells while it runs."""

    def say(self, text: str) -> None:
        """Something that is worth knowing now."""

    def searched(self, state: SearchProgress) -> None:
        """One more generation is done."""

    def judged(self) -> None:
        """One more network was judged."""

    def campaign(self) -> Reporter:
        """Who is told how the measurements go that verify the front."""


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Nothing."""

    def progress(self, state: CampaignProgress) -> None:
        """Nothing."""


class Quiet:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Nothing."""

    def searched(self, state: SearchProgress) -> None:
        """Nothing."""

    def judged(self) -> None:
        """Nothing."""

    def campaign(self) -> Reporter:
        """Nobody either."""
        return Silent()
