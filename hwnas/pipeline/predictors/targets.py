"""Targets of predictions: models of timm, networks of spaces, and files of them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.config import parse_json, shown
from hwnas.errors import InputError, nearest, unknown
from hwnas.files import read_text, require_file_name
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.elastic import PREFIXES
from hwnas.space.lookup import find_arch

TIMM = "timm:"
_MAX_IMAGE_SIZE = 16_384
_COMMAND = "hwnas predict {space}:{arch}"
_FORMS = "timm:NAME, SPACE:ARCH, or a file of networks that ends in .jsonl"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One network; `space` is None for a model of timm."""

    label: str
    """Text that the user gave."""
    space: str | None = None
    arch: Arch | None = None
    model: str = ""
    image_size: int | None = None

    @property
    def network_id(self) -> str:
        """Id of the extracted network."""
        if self.space is None:
            return TIMM + self.model + (f"@{self.image_size}" if self.image_size else "")
        return str(SPACES.get(self.space).network_id(self.arch))


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Networks to predict, in the order in which they were given."""

    networks: tuple[Target, ...]
    from_files: bool
    """True if targets came from a file; then one that cannot be predicted does not stop the others."""


def parse_targets(texts: Sequence[str], *, space: str | None = None) -> Targets:
    """Parse networks given as texts; with `space` a text may be an arch without a space."""
    if space is not None and space not in SPACES:
        raise unknown("space", space, SPACES, hint="--space {}")
    if not texts:
        raise InputError("there must be a network to predict", known=[_FORMS])
    networks = [target for text in texts for target in _parse(text, space)]
    return Targets(networks=tuple(networks), from_files=any(map(_is_file, texts)))


def _parse(text: str, space: str | None) -> Iterator[Target]:
    if _is_file(text):
        yield from _lines(Path(text), space)
    elif text.casefold().startswith(TIMM):
        yield _timm(text)
    else:
        prefix = next((prefix for prefix in PREFIXES if text.casefold().startswith(prefix)), "")
        name, colon, arch = text[len(prefix) :].partition(":")
        name = text[: len(prefix)] + name
        if colon and name in SPACES:
            yield _network(text, name, arch)
        elif space is not None:
            yield _network(text, space, text)
        elif colon and nearest(name, SPACES) is not None:
            raise unknown("space", name, SPACES, hint="hwnas predict {}:max")
        else:
            hint = "hwnas predict autoformer-tiny:random:0, or --space autoformer-tiny random:0"
            raise InputError("a network must be named with its space", got=text, known=[_FORMS], hint=hint)


def _is_file(text: str) -> bool:
    return text.endswith(".jsonl")


def _timm(text: str) -> Target:
    name, at, size = text[len(TIMM) :].partition("@")
    if at and not (re.fullmatch(r"[1-9][0-9]{0,4}", size) and int(size) <= _MAX_IMAGE_SIZE):
        message = f"an image size must be a whole number from 1 to {_MAX_IMAGE_SIZE}"
        raise InputError(message, got=shown(size), hint=f"{TIMM}{name:.100}@224")
    require_file_name(name, what="a model of timm")
    return Target(label=text, model=name, image_size=int(size) if at else None)


def _network(label: str, space: str, arch: str | Mapping[str, Any]) -> Target:
    chosen = SPACES.get(space)
    return Target(label=label, space=chosen.name, arch=find_arch(chosen, arch, command=_COMMAND))


def _lines(path: Path, space: str | None) -> Iterator[Target]:
    lines = read_text(path).split("\n")  # splitlines would split at U+2028 too, which JSON allows in texts
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} is empty, but it must hold networks")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _from_line(line, space, where=f"{path}:{number}")


def _from_line(line: str, space: str | None, *, where: str) -> Target:
    data = parse_json(line, source=where)
    if isinstance(data, str):
        if _is_file(data):
            raise InputError(f"{where} must be a network, not another file", got=data)
        (target,) = _parse(data, space)
        return target
    if not isinstance(data, Mapping):
        raise InputError(f"{where} must hold a network", got=shown(data))
    if {"space", "arch"} <= data.keys():
        name, arch = data["space"], data["arch"]
    else:
        name, arch = space, data
    if not isinstance(name, str) or name not in SPACES:
        raise InputError(f"{where} must name a space", got=shown(name), known=SPACES, hint="--space autoformer-tiny")
    try:
        return _network(where, name, arch if isinstance(arch, (Mapping, str)) else json.dumps(arch))
    except InputError as error:
        raise InputError(f"{where}: {error.message}", got=error.got, known=error.known, hint=error.hint) from error
