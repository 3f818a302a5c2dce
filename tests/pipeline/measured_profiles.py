"""Profiles of networks of real spaces whose times follow a known law."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.predict.learning_curve import COUNTS
from hwnas.predict.models import AnalyticLearner, Learner, RidgeLearner
from hwnas.predict.selection import Protocol
from hwnas.profile.lookup import profile_folder_name
from hwnas.profile.subjects import space_subject
from hwnas.records import Measurement, Setting, Store, Subject
from hwnas.space import SPACES
from tests.records.rows import SESSION, make_setting, manifest, row, samples

DEVICE = "toy-2c"
NOISE = 0.004
FAST: tuple[Learner, ...] = (AnalyticLearner(freedoms=(2.0,), iterations=3), RidgeLearner(iterations=1))
"""Few steps are enough for times that follow a law."""


def make_profile(
    place: Path,
    space: str = "autoformer-micro",
    count: int = 30,
    *,
    batch: int = 1,
    device: str = DEVICE,
    factor: float = 1.0,
    environment: dict[str, str] | None = None,
    name: str | None = None,
) -> Path:
    """A profile of so many networks, the first twelve measured twice."""
    setting = make_setting(device=device, runtime="onnxruntime", batch=batch)
    made = manifest(environment, setting=setting, space=space)
    made = replace(made, device={"name": device, "kind": "cpu"})
    folder = place / device / (name or profile_folder_name(space, setting))
    subjects = subjects_of(space, count)
    with pytest.MonkeyPatch.context() as patch, Store(folder, manifest=made, session=SESSION) as store:
        patch.setattr("hwnas.records.store.os.fsync", lambda file: None)  # made up rows need not survive a power cut
        for number, (subject, process_id) in enumerate(
            [*((subject, "a") for subject in subjects), *((subject, "b") for subject in subjects[:12])]
        ):
            noise = float(np.random.default_rng([batch, number]).standard_normal())
            ns = factor * true_ms(subject, batch=batch) * 1e6 * np.exp(NOISE * noise)
            store.append(_row(subject, round(ns), number, process_id, setting, made.environment_id))
    return folder


def subjects_of(space: str, count: int) -> list[Subject]:
    chosen = SPACES.get(space)
    genomes = np.unique(chosen.sample(np.random.default_rng(3), 3 * count), axis=0)
    genomes = np.random.default_rng(1).permutation(genomes)[:count]
    return [space_subject(chosen, candidate) for candidate in chosen.candidates(genomes)]


def true_ms(subject: Subject, *, batch: int = 1) -> float:
    """What a network takes: by its products, its parameters and its operations."""
    space: Any = SPACES.get(subject.name)
    workload = space.workload(space.parse(dict(subject.arch or {})))
    operations = sum(operation.times for operation in workload.operations)
    return float(batch * workload.macs_executed / 1e8 + workload.params / 1e7 + operations / 1e3)


def fast_fits(monkeypatch: pytest.MonkeyPatch, learners: Sequence[Learner] = FAST) -> None:
    """Two quick models, one repeat, a short curve and no drawing in place of everything."""
    monkeypatch.setattr("hwnas.predict.fit.candidates", lambda features, any_kind: tuple(learners))
    monkeypatch.setattr("hwnas.predict.fit.Protocol", lambda **options: Protocol(**{**options, "repeats": 1}))
    monkeypatch.setattr("hwnas.predict.fit.COUNTS", COUNTS[:1])
    monkeypatch.setattr("hwnas.predict.saving.parity_plot", lambda card: "<svg/>")


def _row(subject: Subject, ns: int, number: int, process_id: str, setting: Setting, environment_id: str) -> Measurement:
    started = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=number)
    made = row(0, setting=setting, process_id=process_id, environment_id=environment_id)
    return replace(
        made,
        subject=subject,
        samples=samples(ns),
        started_utc=started.isoformat(timespec="milliseconds"),
        memory_mb=10 + ns / 1e6,
    )
