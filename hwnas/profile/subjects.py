"""The networks that a campaign measures: networks of a space, timm models, and the reference network. No torch."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hwnas.errors import InputError
from hwnas.profile.reference import REFERENCE_NETWORKS, TIMM_PREFIX, timm_subject
from hwnas.profile.sampling import sample_evenly
from hwnas.records import Subject
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Candidate


def space_subject(space: AnySpace, candidate: Candidate) -> Subject:
    """Return the subject of a network of a space."""
    return Subject(
        source="space",
        name=space.name,
        network_id=candidate.network_id,
        arch=candidate.arch.to_mapping(),
        arch_id=candidate.arch_id,
        image_size=space.image_size_of(candidate.arch),
        channels=space.config.channels,
        num_classes=space.config.num_classes,
    )


def subject_space(subject: Subject) -> AnySpace:
    """Return the space of a subject, with its images, channels and classes."""
    space: AnySpace = SPACES.get(subject.name).fitted(subject.arch or {}, image_size=subject.image_size)
    return space.adapted(channels=subject.channels, num_classes=subject.num_classes)


def space_network(subject: Subject) -> tuple[AnySpace, Any]:
    """Return the space of a network, with its images and classes, and the arch of the network.

    Raises:
        InputError: The space is not known, the arch is not valid, or it is another network than the subject names.
    """
    if subject.arch is None:
        raise InputError(f"a network of the space {subject.name} must have an arch", got=subject.network_id)
    space = subject_space(subject)
    arch = space.parse(dict(subject.arch))
    network_id = space.network_id(arch)
    if network_id != subject.network_id:
        message = f"the arch of a network of {subject.name} must have the network_id that is stated with it"
        raise InputError(message, got=f"{subject.network_id}, and the arch has {network_id}")
    return space, arch


def select_subjects(
    space: AnySpace, count: int, *, seed: int, extra_models: tuple[str, ...] = (), reference_networks: bool = True
) -> tuple[Subject, ...]:
    """Select the networks of a campaign, each once.

    Args:
        space: The space.
        count: Number of networks sampled evenly from it. A larger number extends a smaller one.
        seed: Seed of the sample.
        extra_models: Timm models as `timm:NAME` or `timm:NAME@SIZE`.
        reference_networks: Include DeiT-Ti and DeiT-S.

    Returns:
        The sampled networks, the published networks of the space, the reference networks and the timm models.

    Raises:
        InputError: A timm model is not known or does not take square images.
    """
    published = space.candidates(space.encode([*space.published.values()]))
    candidates = (*sample_evenly(space, count, seed=seed), *published)
    references = REFERENCE_NETWORKS if reference_networks else ()
    subjects = [space_subject(space, candidate) for candidate in candidates]
    return unique_subjects([*subjects, *references, *map(parse_timm_model, extra_models)])


def unique_subjects(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """Return the first subject of each network."""
    first: dict[str, Subject] = {}
    for subject in subjects:
        first.setdefault(subject.network_id, subject)
    return tuple(first.values())


def parse_timm_model(text: str) -> Subject:
    """Parse `timm:NAME` or `timm:NAME@SIZE`; the model is built without weights to learn its image size and classes.

    Raises:
        InputError: There is no such model, or it does not take square images.
    """
    if not text.casefold().startswith(TIMM_PREFIX):
        message = "a model in addition to those of the space must be one of timm"
        raise InputError(message, got=text, hint="--extra-model timm:deit_small_patch16_224")
    for subject in REFERENCE_NETWORKS:
        if subject.network_id == text:
            return subject
    name, at, size = text[len(TIMM_PREFIX) :].partition("@")
    if at and not (size.isdecimal() and int(size)):
        raise InputError(
            "an image size must be a whole number above 0", got=text, hint=f"--extra-model {TIMM_PREFIX}{name}@224"
        )
    from hwnas.export.timm_models import build_timm

    image_size = int(size) if at else None
    model = build_timm(name, image_size=image_size)
    height, width = model.image_size
    if height != width:
        raise InputError(
            f"{name} must take square images", got=f"{height} x {width}", hint=f"--extra-model timm:{name}@224"
        )
    module: Any = model.module
    own_size = image_size is None or image_size == int(module.pretrained_cfg["input_size"][1])
    subject = timm_subject(name, image_size=height, num_classes=int(module.num_classes), own_size=own_size)
    return replace(subject, channels=model.channels)
