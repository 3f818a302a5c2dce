"""Who is told how a search goes."""

from typing import Protocol

from hwnas.pipeline.workplace import Reporter
from hwnas.search.ledger import Progress


class SearchReporter(Protocol):
    """What a search tells while it runs."""

    def say(self, text: str) -> None:
        """Something that is worth knowing now."""

    def searched(self, state: Progress) -> None:
        """One more generation is done."""

    def judged(self) -> None:
        """One more network was judged."""

    def campaign(self) -> Reporter:
        """Who is told how the measurements go that verify the front."""


class Quiet:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Nothing."""

    def searched(self, state: Progress) -> None:
        """Nothing."""

    def judged(self) -> None:
        """Nothing."""

    def campaign(self) -> Reporter:
        """Nobody either."""
        from hwnas.pipeline.workplace import Silent

        return Silent()
