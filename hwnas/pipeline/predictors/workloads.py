"""Workloads of networks: closed forms of spaces, and traces of timm models."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hwnas.arguments import checked_arguments
from hwnas.data_paths import PROFILES, data_search_path
from hwnas.errors import InputError
from hwnas.profile.subjects import subject_space
from hwnas.records import Subject
from hwnas.records.workloads import TracedModels, load_workloads
from hwnas.runs import package_versions
from hwnas.space import SPACES
from hwnas.workload import Workload, Workloads


def subject_workloads(subjects: Sequence[Subject]) -> tuple[Workload, ...]:
    """Return the workload of each subject; networks of one space are encoded together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for row, subject in enumerate(subjects):
        groups.setdefault(_group(subject), []).append(row)
    by_row: dict[int, Workload] = {}
    for rows in groups.values():
        by_row.update(zip(rows, _workloads([subjects[row] for row in rows]), strict=True))
    return tuple(by_row[row] for row in range(len(subjects)))


def subject_population(subjects: Sequence[Subject]) -> Workloads | None:
    """Return the networks as a population; None if they are of several spaces or of spaces of other image sizes."""
    if {subject.source for subject in subjects} != {"space"} or len({_group(subject) for subject in subjects}) > 1:
        return None
    return _population(subjects)


WORKLOADS = "timm-workloads.jsonl.gz"
"""File of traced models for all tables of a folder of profiles."""


@checked_arguments
def timm_workload(name: str, *, image_size: int | None = None) -> Workload:
    """Return the operations of a model of timm for one image.

    Stored traces are used if they were made with the installed version of timm.

    Args:
        name: The name of the model in timm.
        image_size: Pixels; by default the model's own.

    Raises:
        InputError: timm has no such model, or an operation of it is not supported.
    """
    return _timm_workload(name, image_size)


@cache
def _timm_workload(name: str, image_size: int | None) -> Workload:
    for traced in _traced_before():
        found = traced.models.get((name, image_size or traced.own_sizes.get(name, 0)))
        if found is not None:
            return found
    return trace_timm(name, image_size=image_size)


def trace_timm(name: str, *, image_size: int | None = None) -> Workload:
    """Trace a model of timm, without using stored traces."""
    from hwnas.export.timm_models import build_timm  # torch and timm take seconds to import

    return build_timm(name, image_size=image_size).workload()


def known_workloads(folder: Path) -> TracedModels:
    """Return the stored traces of a folder of profiles; none if there is no file."""
    path = folder / WORKLOADS
    if path.is_file():
        return load_workloads(path)
    return TracedModels(timm=package_versions(["timm"]).get("timm", ""), models={})


def _traced_before() -> Iterator[TracedModels]:
    """Yield stored traces of the installed version of timm; unreadable files are skipped, as they can be remade."""
    installed = package_versions(["timm"]).get("timm")
    for folder, _ in data_search_path(PROFILES):
        path = folder / WORKLOADS
        try:
            traced = _loaded(path, path.stat().st_mtime_ns)
        except (OSError, InputError):
            continue
        if installed in (None, traced.timm):
            yield traced


@cache
def _loaded(path: Path, changed: int) -> TracedModels:
    """Load traced models; the time of the last change is part of the cache key."""
    del changed
    return load_workloads(path)


def _group(subject: Subject) -> tuple[object, ...]:
    if subject.source == "timm":
        return ("timm", subject.name, subject.image_size)
    size = SPACES.get(subject.name).fitted(subject.arch or {}, image_size=subject.image_size).config.image_size
    return ("space", subject.name, size, subject.channels, subject.num_classes)


def _workloads(subjects: Sequence[Subject]) -> list[Workload]:
    first = subjects[0]
    if first.source == "timm":
        return [timm_workload(first.name, image_size=first.image_size)] * len(subjects)
    workloads = _population(subjects)
    return [workloads.workload(row) for row in range(len(subjects))]


def _population(subjects: Sequence[Subject]) -> Workloads:
    space = subject_space(subjects[0])
    return space.workloads(space.encode([space.parse(_arch(subject)) for subject in subjects]))


def _arch(subject: Subject) -> dict[str, Any]:
    if subject.arch is None:
        raise InputError(f"a network of {subject.name} must have an arch", got=subject.network_id)
    return dict(subject.arch)
