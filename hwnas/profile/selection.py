"""The subjects of a campaign: networks of a space, published ones among them, and models of timm as landmarks."""

from dataclasses import replace
from typing import Any

from hwnas.errors import InputError
from hwnas.profile.choose import choose
from hwnas.profile.subjects import REFERENCE, space_subject, timm_subject, unique
from hwnas.records import Subject
from hwnas.space.space import AnySpace

LANDMARKS = (REFERENCE, timm_subject("deit_small_patch16_224", image_size=224))
"""DeiT-Ti and DeiT-S: networks that everybody knows, measured beside those of every space."""

_EXAMPLE = "--also timm:deit_small_patch16_224"

_PREFIX = "timm:"


def parse_timm(text: str) -> Subject:
    """The subject behind `timm:NAME` or `timm:NAME@SIZE`, built as a shape to be sure that there is one."""
    if not text.casefold().startswith(_PREFIX):
        message = "a model beside those of the space must be one of timm"
        raise InputError(message, got=text, hint=_EXAMPLE)
    known = [subject for subject in LANDMARKS if subject.network_id == text]
    if known:
        return known[0]
    name, at, size = text[len(_PREFIX) :].partition("@")
    if at and not (size.isdecimal() and int(size)):
        raise InputError("an image size must be a whole number above 0", got=text, hint=f"--also {_PREFIX}{name}@224")
    return _built(name, image_size=int(size) if at else None)


def select(
    space: AnySpace, count: int, *, seed: int, also: tuple[str, ...] = (), landmarks: bool = True
) -> tuple[Subject, ...]:
    """`count` networks spread over the space, then the published ones and the models of timm, each network once.

    More networks extend fewer: the first ones are the same.
    """
    published = space.candidates(space.encode([*space.published.values()]))
    candidates = (*choose(space, count, seed=seed), *published)
    known = LANDMARKS if landmarks else ()
    return unique([*(space_subject(space, candidate) for candidate in candidates), *known, *map(parse_timm, also)])


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
