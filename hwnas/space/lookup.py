"""Look-up of networks by name, `min`, `max`, `random:SEED`, JSON or a JSON file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hwnas.config import load_json, parse_json, shown
from hwnas.errors import InputError, UnknownNameError, unknown
from hwnas.registry import Registry
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.space.task_head import HEAD_KINDS

_FORMS = ("min", "max", "random:SEED", "a JSON file", "inline JSON")
_SEEDS = 2**64

COMMAND = "hwnas describe {space} {arch}"
"""Command that errors suggest, with placeholders for a space and an arch."""

_LIMITS = {"image_size": 2**14, "num_classes": 2**24}
"""Above these, counts no longer fit into 64 bits and weights no longer into memory."""


def adapted(space: AnySpace, *, image_size: int | None, num_classes: int | None) -> AnySpace:
    """Return the same space for other images or classes.

    Args:
        space: The space.
        image_size: Height and width of the images; None: unchanged.
        num_classes: Number of classes; None: unchanged.

    Raises:
        InputError: A value is too large, or the networks of the space cannot take such images.
    """
    sizes = {"image_size": image_size, "num_classes": num_classes}
    for name, value in sizes.items():
        if value is not None and value > _LIMITS[name]:
            raise InputError(f"{name} must be at most {_LIMITS[name]}", got=shown(value))
    return space.adapted(**sizes)


def classifier_name(name: str) -> str:
    """Return the name of the space of the same networks as classifiers."""
    return next((name[len(kind) + 1 :] for kind in HEAD_KINDS if name.startswith(f"{kind}-")), name)


def find_arch(
    space: AnySpace,
    given: str | Path | Mapping[str, object] | Arch,
    *,
    command: str = COMMAND,
) -> Arch:
    """Find a network of a space.

    Args:
        space: The space.
        given: Name of a published network, `min`, `max`, `random:SEED` (in any letter case), inline JSON, path of a
            JSON file, plain values, or the network itself. JSON and values may be a description as
            `hwnas describe --json` prints it.
        command: Command that errors suggest, with placeholders for a space and an arch.

    Raises:
        UnknownNameError: No network has this name.
        InputError: The values are no network of the space, or the file cannot be read.
    """
    if isinstance(given, Arch):
        return given
    if isinstance(given, Path):
        return _described(space, load_json(given), command=command)
    if not isinstance(given, str):
        return _described(space, given, command=command)
    if given.lstrip().startswith(("{", "[")):
        return _described(space, parse_json(given, source="the inline JSON"), command=command)
    published = Registry[Arch]("network", space.published.items())
    if given in published:
        return published.get(given)
    form, colon, seed = given.partition(":")
    if colon and form.casefold() == "random":
        return _random(space, seed, command=command)
    if given.casefold() in ("min", "max"):
        extreme: Arch = space.smallest() if given.casefold() == "min" else space.largest()
        return extreme
    if given.endswith(".json") or _is_file(given):
        return _described(space, load_json(Path(given)), command=command)
    raise _unknown(space, given, command=command)


def _random(space: AnySpace, seed: str, *, command: str) -> Arch:
    digits = seed.lstrip("0") or seed[:1]  # counted before int(), which refuses very long texts
    if not seed.isdecimal() or len(digits) > len(str(_SEEDS)) or int(digits) >= _SEEDS:
        hint = command.format(space=space.name, arch="random:0")
        raise InputError("random:SEED needs a whole number from 0 to 2**64 - 1", got=shown(seed), hint=hint)
    arch: Arch = space.decode(space.sample(np.random.default_rng(int(digits)), 1))[0]
    return arch


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists() and not Path(text).is_dir()
    except OSError:  # the text is longer than a file name may be
        return False


def _unknown(space: AnySpace, text: str, *, command: str) -> UnknownNameError:
    """Make the error for an unknown network, which may be one of another space."""
    folded, names = text.casefold(), (*space.published, *_FORMS)
    homes = {other.name: name for other in SPACES.values() for name in other.published if name.casefold() == folded}
    if homes:
        other, name = next(iter(homes.items()))
        hint = command.format(space=other, arch=name)
        message = f"{name} is a network of {' and '.join(homes)}, not of {space.name}"
        return UnknownNameError(message, got=text, known=names, hint=hint)
    short = text if len(text) <= 80 else text[:77] + "..."
    return unknown(f"{space.name}: network", short, names, hint=command.format(space=space.name, arch="{}"))


def _described(space: AnySpace, values: object, *, command: str) -> Arch:
    """Parse the values of a network, alone or as `hwnas describe --json` wraps them."""
    if isinstance(values, Mapping) and {"space", "arch"} <= values.keys():
        if values["space"] != space.name:
            hint = command.format(space=values["space"], arch="…")
            raise InputError(f"the network must be one of {space.name}", got=f"one of {values['space']}", hint=hint)
        values = values["arch"]
    arch: Arch = space.parse(values)
    return arch
