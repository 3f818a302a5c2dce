"""The card of a predictor: the data that it was fitted to and its accuracy on held-out networks."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hwnas.config import Between, FileName, UtcTime, from_mapping, parse_json, require_schema, shown, to_mapping
from hwnas.errors import InputError, unknown
from hwnas.files import file_errors, printable
from hwnas.metrics import MAX_BATCH, MEASURED_METRICS, TIMED_METRICS, Metric
from hwnas.predict.arrays import Numbers
from hwnas.predict.metrics import Correlation, RelativeError, Scores, Share, best_spearman
from hwnas.predict.selection import Protocol
from hwnas.predict.stored import read_stored

SCHEMA = "hwnas.predictor/3"
"""Schema of predictors that this version writes and reads."""

CARD = "card.json"
"""File name of a card in the folder of its predictor."""

UNMEASURED = "not measured on this device"
"""Beginning of the first note on the card of a predictor of an unmeasured device."""

INTERPOLATED = "not measured at this batch"
"""Beginning of the first note on the card of a predictor of a batch between two that were measured."""

CONFIDENCES = (0.5, 0.8, 0.9, 0.95)
"""Confidences at which coverage is reported."""

Count = Annotated[int, Between(0, 1_000_000_000)]


class _LineRule:
    """A text that can be printed: a card is shown in the terminal, on pages and in reports."""

    def check(self, value: Any, *, where: str) -> None:
        if len(value) > _MAX_LINE or not value.isprintable():
            message = f"{where} must be a line of at most {_MAX_LINE} printable characters"
            raise InputError(message, got=ascii(value[:80]))


_MAX_LINE = 2000
Line = Annotated[str, _LineRule()]


@dataclass(frozen=True, kw_only=True)
class FittedData:
    """The data that a predictor was fitted to."""

    sources: tuple[Line, ...]
    """Profiles or files."""
    num_rows: Count
    num_networks: Annotated[int, Between(1, 1_000_000_000)]
    """Number of distinct networks."""
    is_mixed: bool = False
    """True if rows of several environments were combined on request."""
    kinds: tuple[Line, ...] = ()
    """Spaces of the networks; `timm` for its models."""
    usual_batch: Annotated[int, Between(1, MAX_BATCH)] | None = None
    """The most frequent batch size if the rows have several."""
    count_names: tuple[Line, ...] = ()
    """Names of the blocks that the model counts, if it counts blocks."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A model that was tried, with its scores."""

    model: Line
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The share of held-out networks inside intervals that were calibrated without them."""

    confidence: Share
    share: Share


@dataclass(frozen=True, kw_only=True)
class FamilyScores:
    """Accuracy for networks unlike the fitted ones: whole families were left out."""

    num_families: Annotated[int, Between(2, 1_000_000)]
    scores: Scores
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The measured value of a network and its held-out prediction (mean over the repeats)."""

    measured: float
    predicted: float


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The error of a model fitted to this number of measurements, of which a network may have two."""

    count: Count
    mape: RelativeError
    spearman: Correlation | None = None


@dataclass(frozen=True, kw_only=True)
class _Body:
    schema: str = SCHEMA
    created_utc: UtcTime
    metric: Metric
    space: FileName | None = None
    """Space of the fitted networks; None: all networks that were measured in this setting, of any kind."""
    data: FittedData
    protocol: Protocol
    model: Line
    ranking: tuple[Ranked, ...]
    """All models that were tried, best first."""
    coverage: tuple[Coverage, ...]
    noise_floor: Annotated[float, Between(0, 10)] | None = None
    """Mean absolute relative error of a perfect predictor, which is that of repeated measurements."""
    learning_curve: tuple[CurvePoint, ...] = ()
    held_out: tuple[HeldOut, ...] = ()
    unlike: FamilyScores | None = None
    """Accuracy for unlike networks; None where the fitted ones are of one space or of few families."""
    notes: tuple[Line, ...] = ()
    model_sha256: str = ""
    """SHA-256 of the text of model.json."""
    card_sha256: str = ""
    """SHA-256 of the card without this field."""


@dataclass(frozen=True, kw_only=True)
class Card(_Body):
    """The card of a predictor."""

    environment: Mapping[str, str]
    """Environment that the rows were measured in, as far as it is known."""

    @property
    def scores(self) -> Scores:
        """The chosen model's scores on held-out networks."""
        return next(ranked.scores for ranked in self.ranking if ranked.model == self.model)

    @property
    def is_unmeasured(self) -> bool:
        """True if the device was not measured, and the predictor was made from measurements of other devices."""
        return any(note.startswith(UNMEASURED) for note in self.notes)

    @property
    def is_interpolated(self) -> bool:
        """True if the batch was not measured, but a smaller and a larger one."""
        return any(note.startswith(INTERPOLATED) for note in self.notes)

    @property
    def error_over_floor(self) -> float | None:
        """The error in units of the noise floor."""
        return None if not self.noise_floor else self.scores.mape / self.noise_floor

    @cached_property
    def best_spearman(self) -> float | None:
        """Approximate rank correlation of a perfect predictor; repeated measurements reorder similar networks.

        Only known for times and rates, whose noise is a factor.
        """
        if not self.noise_floor or self.metric.name not in TIMED_METRICS:
            return None
        return best_spearman(np.array([row.predicted for row in self.held_out]), noise_floor=self.noise_floor)

    def coverage_at(self, confidence: float) -> float:
        """Return the share of held-out networks inside intervals of this confidence, one of `CONFIDENCES`."""
        return next(entry.share for entry in self.coverage if entry.confidence == confidence)


def sealed(card: Card, *, model_text: str) -> Card:
    """Return the card with the digests of the model file and of itself."""
    bound = replace(card, model_sha256=_digest(model_text), card_sha256="")
    return replace(bound, card_sha256=_digest(_canonical(bound)))


def require_seal(card: Card, *, model_text: str, source: str) -> None:
    """Raise InputError if the card or the model was changed after it was written."""
    if card.card_sha256 != _digest(_canonical(replace(card, card_sha256=""))):
        raise _changed(f"{source}/card.json")
    if card.model_sha256 != _digest(model_text):
        raise _changed(f"{source}/model.json")


def card_json(card: Card) -> dict[str, Any]:
    """Return the card as plain values."""
    return to_mapping(card)


def load_card(folder: Path) -> Card:
    """Read the card of a predictor without its model."""
    with file_errors(folder):
        is_predictor = (folder / CARD).is_file()
    if not is_predictor:
        raise InputError(
            f"{printable(folder)} must be the folder of a predictor", got=f"it has no {CARD}", hint="hwnas fit"
        )
    return card_from_json(parse_json(read_stored(folder / CARD), source=str(folder / CARD)), source=str(folder / CARD))


def card_from_json(data: object, *, source: str) -> Card:
    """Make a card from plain values; raise InputError for another schema or a value of another type."""
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{source} must hold the card of a predictor", got=shown(data))
    hint = "fit again with this version of hwnas, or read it with the one that wrote it"
    require_schema(data["schema"], expected=SCHEMA, source=source, hint=hint)
    environment = data.get("environment")
    if not isinstance(environment, dict) or not all(isinstance(value, str) for value in environment.values()):
        raise InputError(f"{source}: environment must map names to texts", got=shown(environment))
    for name, value in environment.items():
        _LineRule().check(name + value, where=f"{source}: environment.{name[:80]!a}")
    body = from_mapping(_Body, {name: value for name, value in data.items() if name != "environment"}, where=source)
    if body.metric.name not in MEASURED_METRICS:
        raise unknown(f"{source}: metric", body.metric.name, MEASURED_METRICS)
    deployment = body.metric.deployment
    missing = [name for name in ("device", "runtime", "precision", "batch") if getattr(deployment, name) is None]
    if missing:
        raise InputError(
            f"{source}: metric.deployment must specify {', '.join(missing)}", got=str(deployment) or "none"
        )
    if body.model not in [ranked.model for ranked in body.ranking]:
        raise InputError(f"{source}: the model must be one of the ranking", got=body.model)
    if {entry.confidence for entry in body.coverage} < {*CONFIDENCES}:
        raise InputError(f"{source}: coverage must have the confidences {CONFIDENCES}", got=len(body.coverage))
    if any(row.measured <= 0 or row.predicted <= 0 for row in body.held_out):
        raise InputError(f"{source}: held_out must have values above 0")
    values = {name: getattr(body, name) for name in _Body.__dataclass_fields__}
    return Card(**values, environment=environment)


def _canonical(card: Card) -> str:
    # Sorted keys and no spaces: the digest is that of the values, however the file is formatted.
    return json.dumps(card_json(card), sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _changed(what: str) -> InputError:
    return InputError(
        f"{what} was changed after the predictor was fitted, so its figures cannot be relied on",
        got="another digest than the one that the card states",
        hint="fit again, or restore the file",
    )


def held_out_rows(measured: Numbers, predicted: Numbers) -> tuple[HeldOut, ...]:
    """Return the rows of a card from values in the unit of its metric."""
    rows = zip(measured.tolist(), predicted.tolist(), strict=True)
    return tuple(HeldOut(measured=value, predicted=prediction) for value, prediction in rows)


def common_facts(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the facts that all environments share."""
    first, *others = environments
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def usual_batch(batches: Numbers) -> int:
    """Return the most frequent batch size, the largest of several."""
    values, counts = np.unique(batches, return_counts=True)
    return int(values[counts == counts.max()][-1])
