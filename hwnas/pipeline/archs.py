"""Networks by what a user may write for one: a name, `min`, `max`, `random:SEED`, JSON or a JSON file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import load_json, parse_json
from hwnas.errors import InputError, unknown
from hwnas.registry import Registry
from hwnas.space.arch import Arch
from hwnas.space.space import Space

_FORMS = ("min", "max", "random:SEED", "a JSON file", "inline JSON")


def find_arch(space: Space[Any, Any], text: str) -> Arch:
    """The network of `space` that `text` names or describes."""
    published = Registry[Arch]("network", space.published.items())
    if text in published:
        return published.get(text)
    if text in ("min", "max"):
        extreme: Arch = space.smallest() if text == "min" else space.largest()
        return extreme
    if text.startswith("random:"):
        return _random(space, text.removeprefix("random:"))
    if text.lstrip().startswith(("{", "[")):
        return _described(space, parse_json(text, source="the inline JSON"))
    if text.endswith(".json") or (Path(text).exists() and not Path(text).is_dir()):
        return _described(space, load_json(Path(text)))
    names = (*space.published, *_FORMS)
    raise unknown(f"{space.name}: network", text, names, hint=f"hwnas describe {space.name} {{}}")


def _random(space: Space[Any, Any], seed: str) -> Arch:
    if not seed.isdecimal():
        hint = f"hwnas describe {space.name} random:0"
        raise InputError("random:SEED needs a whole number that is not negative", got=seed, hint=hint)
    (arch,) = space.decode(space.sample(np.random.default_rng(int(seed)), 1))
    found: Arch = arch
    return found


def _described(space: Space[Any, Any], values: object) -> Arch:
    """A network from its values, alone or as `hwnas describe --json` wraps them."""
    if isinstance(values, Mapping) and {"space", "arch"} <= values.keys():
        if values["space"] != space.name:
            hint = f"hwnas describe {values['space']} …"
            raise InputError(f"the network must be one of {space.name}", got=f"one of {values['space']}", hint=hint)
        values = values["arch"]
    found: Arch = space.parse(values)
    return found
