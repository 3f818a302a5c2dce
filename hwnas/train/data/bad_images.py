"""A tally of pictures that cannot be read."""

import logging
from dataclasses import dataclass, field

from hwnas.errors import InputError

DEFAULT_LIMIT = 50
"""How many unreadable pictures are skipped where nobody says."""

_SHOWN = 20
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class BadImages:
    """Pictures that were skipped; one more than the limit is an error that lists them."""

    limit: int = DEFAULT_LIMIT
    reasons: dict[str, str] = field(default_factory=dict)
    """Why, by key, in the order in which they were met."""

    def add(self, key: str, reason: str) -> None:
        """Count a picture once, however often it is met."""
        if key in self.reasons:
            return
        self.reasons[key] = reason
        if len(self.reasons) > self.limit:
            message = f"more than {self.limit} pictures cannot be read"
            raise InputError(
                message,
                got=self.summary(),
                hint=f"repair or remove them, or allow more: --max-bad {2 * self.limit or 1}",
            )
        _log.warning("skipped %s, which cannot be read: %s", key, reason)

    def summary(self) -> str:
        """Their number and the first of them."""
        more = len(self) - _SHOWN
        listed = "; ".join(f"{key} ({reason})" for key, reason in list(self.reasons.items())[:_SHOWN])
        return f"{len(self)}: {listed}" + (f"; and {more} more" if more > 0 else "")

    def __len__(self) -> int:
        return len(self.reasons)
