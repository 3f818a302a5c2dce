"""Changes to valid content: of plain data, of bytes, and of what stands at a path."""

import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

_DEEP, _HUGE = "@deeply nested@", "@1e400@"
"""Texts that `to_json` replaces by JSON which Python cannot write: nested 20,000 deep, and a number beyond floats."""

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, -0.0, 1.5, 0.1, -1.5, True, False, 255, 256, 32768, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64),
    *(10**9, 10**20, 10**30, -(10**30), 10**400, 1e-320, 1e308, -1e308, _HUGE),
    *(float("nan"), float("inf"), float("-inf"), "1", "nan"),
)
TEXTS: tuple[str, ...] = (
    *("", " ", "x", "../evil/x", "../../evil/x", "../../../../abs/x", "@abs@", ".", "..", ".hidden", "a/b", "-x", "~"),
    *("a\x00b", "\ud800", "e\u0301", "\u202e", "name\nline", "\x1b[31m", "=1+1", "</script><b>", "%s{0}$HOME", "nul\\"),
    *("x" * 101, "x" * 300, "é" * 200, "x" * 100_000, "1", "null", "NaN", "auto", "any", "cuda", "timm:resnet18"),
    *("9999-99-99", "yesterday", "0000-01-01T00:00:00+00:00", "2026-01-02T03:04:05+99:99", "\U0001f4a5"),
)
OTHERS: tuple[Any, ...] = (
    *(None, [], {}, [[]], [None], [{}], {"": 0}, {"__class__": "x"}, {"kind": []}, _DEEP, [0] * 1000, ["x", 1, None]),
    *([[1.0, 2.0], [3.0]], [float("nan")], [-1], [10**30], ["../evil"], {"a": {"b": {"c": []}}}),
)
KEYS = ("", "x", "__class__", "schema", "../evil", "a\x00b", "\ud800", "x" * 1000, "kind", "name")


def anything(rng: Random) -> Any:
    """A hostile value."""
    return copy.deepcopy(rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS))))


def mutate_plain(document: Any, rng: Random) -> tuple[Any, str]:
    """Change plain data in one or two places.

    Returns:
        The changed copy, and what was done to it.
    """
    document, done = copy.deepcopy(document), []
    for _ in range(rng.choice((1, 1, 1, 2))):
        document, text = _mutate_once(document, rng)
        done.append(text)
    return document, "; ".join(done)


def _mutate_once(document: Any, rng: Random) -> tuple[Any, str]:
    root = {"": document}
    parent, key, path = _descend(root, rng)
    value = parent[key]
    if parent is not root and rng.random() < 0.2:
        del parent[key]
        return root[""], f"{path} dropped"
    if isinstance(value, dict) and rng.random() < 0.4:
        name = rng.choice(KEYS)
        value[name] = anything(rng)
        return root[""], f"{path}[{_short(name)}] = {_short(value[name])}"
    if isinstance(value, list) and value and rng.random() < 0.5:
        return root[""], f"{path} {_mutate_list(value, rng)}"
    parent[key] = _other_value(value, rng)
    return root[""], f"{path} = {_short(parent[key])}"


def _descend(root: Any, rng: Random) -> tuple[Any, Any, str]:
    """Choose a place in nested data: each level is as likely as the others, however many values it has."""
    parent: Any = root
    key: Any = ""
    path = "document"
    while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.8:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
        path += f"[{_short(key)}]"
    return parent, key, path


def _mutate_list(values: list[Any], rng: Random) -> str:
    kind = rng.choice(("doubled", "cut", "longer", "reversed", "emptied", "much longer"))
    if kind == "doubled":
        values.insert(rng.randrange(len(values) + 1), copy.deepcopy(rng.choice(values)))
    elif kind == "cut":
        del values[rng.randrange(len(values)) :]
    elif kind == "longer":
        values.append(anything(rng))
    elif kind == "reversed":
        values.reverse()
    elif kind == "much longer":
        values.extend(values * min(200, 20_000 // len(values)))
    else:
        values.clear()
    return kind


def _other_value(value: Any, rng: Random) -> Any:
    """Often of the same type, so that it is not refused for its type alone."""
    if rng.random() < 0.35:
        return anything(rng)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        scaled = [-value, value * 10**6, value + 1, value - 1, float(value), str(value)]
        return rng.choice([*scaled, *NUMBERS])
    if isinstance(value, str):
        return rng.choice([value[:-1], value + "x", value.upper(), f"../{value}", f"{value}/../x", *TEXTS])
    return anything(rng)


def to_json(document: Any, *, root: Path, indent: int | None = None) -> bytes:
    """Return JSON with the values that Python cannot write; `@abs@` is an absolute path outside of the case."""
    text = json.dumps(_absolute(document, str(root / "abs" / "x")), indent=indent)
    text = text.replace(json.dumps(_DEEP), "[" * 20_000 + "]" * 20_000).replace(json.dumps(_HUGE), "1e400")
    return text.encode()


def _absolute(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {_absolute(key, path): _absolute(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, path) for item in value]
    return path if isinstance(value, str) and value == "@abs@" else value


def mutate_bytes(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Change bytes: cut, flip, overwrite, repeat, or replace all."""
    place = rng.randrange(len(data)) if data else 0
    end = min(len(data), place + rng.choice((1, 4, 50, 1000)))
    lines = data.split(b"\n")
    line = rng.randrange(len(lines))
    choices: list[tuple[str, Callable[[], bytes]]] = [
        (f"cut at byte {place}", lambda: data[:place]),
        (f"bytes {place} to {end} removed", lambda: data[:place] + data[end:]),
        (f"bit of byte {place} flipped", lambda: _flipped(data, [place] if data else [], rng)),
        ("20 bits flipped", lambda: _flipped(data, [rng.randrange(len(data)) for _ in range(20)] if data else [], rng)),
        (f"NUL from byte {place} to {end}", lambda: data[:place] + bytes(end - place) + data[end:]),
        (f"no UTF-8 at byte {place}", lambda: data[:place] + b"\xff\xfe\xc3" + data[place:]),
        (f"line {line} doubled", lambda: b"\n".join([*lines[: line + 1], *lines[line:]])),
        (f"line {line} removed", lambda: b"\n".join([*lines[:line], *lines[line + 1 :]])),
        ("carriage returns", lambda: data.replace(b"\n", b"\r\n")),
        ("byte order mark", lambda: b"\xef\xbb\xbf" + data),
        ("empty", lambda: b""),
        ("a line break", lambda: b"\n"),
        ("random bytes", lambda: rng.randbytes(200)),
        ("a megabyte of spaces behind", lambda: data + b" " * 1_000_000),
        ("a long line behind", lambda: data + b"x" * 300_000),
        ("nested deep", lambda: b"[" * 100_000),
    ]
    what, make = rng.choice(choices)
    return make(), what


def _flipped(data: bytes, places: Sequence[int], rng: Random) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def replace_path(path: Path, rng: Random, *, root: Path) -> str:
    """Put something else at the path of a file: nothing, a folder, a link or a named pipe."""
    kind = rng.choice(
        ("missing", "folder", "link outside", "dangling link", "loop", "named pipe", "full folder", "link")
    )
    moved = path.with_name(f"moved-{path.name}")
    path.rename(moved)
    if kind == "folder":
        path.mkdir()
    elif kind == "full folder":
        path.mkdir()
        (path / "file").write_text("x")
    elif kind == "link outside":
        path.symlink_to(root / "secret.txt")
    elif kind == "dangling link":
        path.symlink_to(root / "abs" / "made")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(moved.name)
    return f"{path.name}: {kind}"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:50]}… ({len(text)})"
