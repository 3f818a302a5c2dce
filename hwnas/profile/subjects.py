"""What is measured: networks of spaces, models of timm, and the reference network beside them. No torch."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hwnas.errors import InputError
from hwnas.profile.sampling import sample_evenly
from hwnas.records import Subject
from hwnas.space.space import AnySpace, Candidate


def space_subject(space: AnySpace, candidate: Candidate) -> Subject:
    """A network of a space."""
    return Subject(
        source="space",
        name=space.name,
        network_id=candidate.network_id,
        arch=candidate.arch.to_mapping(),
        arch_id=candidate.arch_id,
        image_size=space.config.image_size,
        channels=space.config.channels,
        num_classes=space.config.num_classes,
    )


def timm_subject(name: str, *, image_size: int, num_classes: int = 1000, own_size: bool = True) -> Subject:
    """A model of timm for images of that size; `own_size` says that the size is the model's own."""
    network_id = f"timm:{name}" if own_size else f"timm:{name}@{image_size}"
    return Subject(source="timm", name=name, network_id=network_id, image_size=image_size, num_classes=num_classes)


REFERENCE = timm_subject("deit_tiny_patch16_224", image_size=224)
"""DeiT-Ti at its own image size, in campaigns of every space, so that all latencies share one reference."""


def unique_subjects(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """The subjects without those that extract to a network that was there before."""
    found: dict[str, Subject] = {}
    for subject in subjects:
        found.setdefault(subject.network_id, subject)
    return tuple(found.values())


REFERENCE_NETWORKS = (REFERENCE, timm_subject("deit_small_patch16_224", image_size=224))
"""DeiT-Ti and DeiT-S: networks that everybody knows, measured beside those of every space."""

_EXAMPLE = "--also timm:deit_small_patch16_224"

_PREFIX = "timm:"


def parse_timm(text: str) -> Subject:
    """The subject behind `timm:NAME` or `timm:NAME@SIZE`, built as a shape to be sure that there is one."""
    if not text.casefold().startswith(_PREFIX):
        message = "a model beside those of the space must be one of timm"
        raise InputError(message, got=text, hint=_EXAMPLE)
    known = [subject for subject in REFERENCE_NETWORKS if subject.network_id == text]
    if known:
        return known[0]
    name, at, size = text[len(_PREFIX) :].partition("@")
    if at and not (size.isdecimal() and int(size)):
        raise InputError("an image size must be a whole number above 0", got=text, hint=f"--also {_PREFIX}{name}@224")
    return _built(name, image_size=int(size) if at else None)


def select_subjects(
    space: AnySpace, count: int, *, seed: int, also: tuple[str, ...] = (), landmarks: bool = True
) -> tuple[Subject, ...]:
    """`count` networks spread over the space, then the published ones and the models of timm, each network once.

    More networks extend fewer: the first ones are the same.
    """
    published = space.candidates(space.encode([*space.published.values()]))
    candidates = (*sample_evenly(space, count, seed=seed), *published)
    known = REFERENCE_NETWORKS if landmarks else ()
    return unique_subjects(
        [*(space_subject(space, candidate) for candidate in candidates), *known, *map(parse_timm, also)]
    )


def _built(name: str, *, image_size: int | None) -> Subject:
    from hwnas.export.timm_models import build_timm

    model = build_timm(name, image_size=image_size)
    height, width = model.image_size
    if height != width:
        raise InputError(f"{name} must take square images", got=f"{height} x {width}", hint=f"--also timm:{name}@224")
    module: Any = model.module
    own = image_size is None or image_size == int(module.pretrained_cfg["input_size"][1])
    subject = timm_subject(name, image_size=height, num_classes=int(module.num_classes), own_size=own)
    return replace(subject, channels=model.channels)
