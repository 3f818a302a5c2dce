"""Reads a list that make_lists.py made."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
VERSIONS = tuple(path.stem.removeprefix("api-") for path in sorted(FOLDER.glob("api-*.txt")))
(RTX_VERSION,) = (path.stem.removeprefix("rtx-") for path in FOLDER.glob("rtx-*.txt"))
"""The version of TensorRT for RTX whose list is here."""

_CLASS = re.compile(r"class ([\w.]+)(?:\((.*)\))?")
_MEMBER = re.compile(r"([\w.]+) = (-?\d+)")
_ALIAS = re.compile(r"([\w.]+) = (.+)")
_PROPERTY = re.compile(r"([\w.]+): (.+) \[(.*)\]")
_METHOD = re.compile(r"([\w.]+)\((.*)\)(?: -> (.+))?")


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    optional: bool


@dataclass(frozen=True)
class Property:
    kind: str
    can_get: bool
    can_set: bool


Signature = tuple[Parameter, ...] | None
"""The parameters after self; None where the list does not tell them."""


@dataclass
class ApiClass:
    name: str
    base: str | None = None
    members: dict[str, int] = field(default_factory=dict)
    methods: dict[str, list[Signature]] = field(default_factory=dict)
    properties: dict[str, Property] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


@dataclass
class ApiList:
    version: str
    classes: dict[str, ApiClass] = field(default_factory=dict)
    functions: dict[str, list[Signature]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Every dotted name."""
        inside = {
            f"{item.name}.{name}"
            for item in self.classes.values()
            for name in (*item.members, *item.methods, *item.properties, *item.aliases)
        }
        return inside | set(self.classes) | set(self.functions) | set(self.values)


@functools.cache
def read_list(version: str) -> ApiList:
    path = FOLDER / f"{'rtx' if version == RTX_VERSION else 'api'}-{version}.txt"
    return parse_list(version, path.read_text(encoding="utf-8").splitlines())


def parse_list(version: str, lines: Iterable[str]) -> ApiList:
    api = ApiList(version)
    for line in lines:
        if line and not line.startswith("#"):
            _read_line(line, api)
    return api


def _read_line(line: str, api: ApiList) -> None:
    if found := _CLASS.fullmatch(line):
        api.classes[found[1]] = ApiClass(found[1], base=found[2])
    elif found := _MEMBER.fullmatch(line):
        owner, _, name = found[1].rpartition(".")
        api.classes[owner].members[name] = int(found[2])
    elif found := _PROPERTY.fullmatch(line):
        owner, _, name = found[1].rpartition(".")
        api.classes[owner].properties[name] = Property(found[2], "get" in found[3].split(), "set" in found[3].split())
    elif found := _METHOD.fullmatch(line):
        owner, _, name = found[1].rpartition(".")
        table = api.classes[owner].methods if owner else api.functions
        table.setdefault(name, []).append(_parameters(found[2]))
    elif found := _ALIAS.fullmatch(line):
        owner, _, name = found[1].rpartition(".")
        (api.classes[owner].aliases if owner else api.values)[name] = found[2]
    else:
        raise ValueError(f"a line of {api.version} that cannot be read: {line}")


def _parameters(text: str) -> Signature:
    if text == "...":
        return None
    return tuple(_parameter(part) for part in _split(text) if part not in ("self", ""))


def _parameter(text: str) -> Parameter:
    name, _, rest = text.partition(": ")
    kind, _, default = rest.partition(" = ")
    return Parameter(name, kind or "object", bool(default))


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
