"""What is measured: networks of spaces, models of timm, and the reference network beside them. No torch."""

from collections.abc import Iterable

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


def unique(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """The subjects without those that extract to a network that was there before."""
    found: dict[str, Subject] = {}
    for subject in subjects:
        found.setdefault(subject.network_id, subject)
    return tuple(found.values())
