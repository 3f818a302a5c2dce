"""Progress of long-running work: the events, and the one protocol that receives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class CampaignProgress:
    """State of a measuring campaign before its first measurement and after each."""

    done: int
    total: int
    failed: int
    network: str
    """The network that was measured last; empty before the first."""
    device: str = ""
    """The device that is measured; empty if there are several."""
    worker: str = ""
    """The host or GPU that measured it."""
    failure: str | None = None
    """Why it could not be measured."""
    elapsed_s: float
    left_s: float | None = None
    """Time until the campaign's deadline or, without one, by the work that is left; None: unknown."""
    between_s: tuple[float, float] | None = None
    """Before the first measurement: least and most time that all may take, by profiles of similar devices."""


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """State of a search after one more generation."""

    generation: int
    evaluations: int
    max_evaluations: int | None
    max_minutes: float | None
    candidates: int
    elapsed_s: float
    hypervolume: float | None
    """Normalised hypervolume of the feasible networks; None where it has no bounds."""
    best: Mapping[str, float]
    """The best feasible value of each objective; empty while no network is feasible."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProgress:
    """State of an evaluation of networks after one more network, or one more batch of images."""

    done: int
    total: int | None
    """None where the number of networks is not known in advance."""
    elapsed_s: float
    images: int = 0
    """Images that the current networks have been run on; 0 between two passes over the images."""
    num_images: int | None = None
    """Images of a pass; None: only networks are counted."""


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """State of a training after one more step."""

    step: int
    """Steps done."""
    total_steps: int
    first_step: int
    """The step from which this process began or resumed."""
    epoch: int
    """Counted from 0."""
    total_epochs: int
    loss: float
    images_per_s: float
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """The next stage of work with several stages begins."""

    number: int
    total: int
    title: str


ProgressEvent = CampaignProgress | SearchProgress | EvaluationProgress | TrainingProgress | StageStarted


class Reporter(Protocol):
    """Receives messages and progress events."""

    def message(self, text: str) -> None:
        """Take a message that the user should read now."""

    def update(self, event: ProgressEvent) -> None:
        """Take a progress event."""


class NullReporter:
    """Discards all messages and events."""

    def message(self, text: str) -> None:
        """Discard a message."""

    def update(self, event: ProgressEvent) -> None:
        """Discard an event."""


class MessageRecorder:
    """Keeps messages in a list, discards events, and passes both on to another reporter if there is one."""

    def __init__(self, forward_to: Reporter | None = None) -> None:
        self.messages: list[str] = []
        self._forward_to = forward_to or NullReporter()

    def message(self, text: str) -> None:
        """Keep a message."""
        self.messages.append(text)
        self._forward_to.message(text)

    def update(self, event: ProgressEvent) -> None:
        """Pass an event on."""
        self._forward_to.update(event)


def format_duration(seconds: float) -> str:
    """Format a time for people: 0.8 s, 45 s, 3 min 05 s, 2 h 10 min."""
    if 0.05 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
