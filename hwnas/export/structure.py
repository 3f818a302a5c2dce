"""What a module is apart from its sizes: modules that differ in numbers alone share one template of their graph.

A module is described in two parts. Its text names the classes, the attributes and whatever is no number, and so does
the code that its forward runs. Its numbers are the sizes of its tensors and of its input, and all whole and real
numbers among the attributes. The values 0, 1 and below, and in torch's own modules whether a number is odd, stand in
the text too: code that treats some sizes in another way than others mostly asks for these.
"""

import enum
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Number = int | float


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A module and its input as text, which templates are kept by, and numbers by name, which fill them in."""

    text: str
    numbers: Mapping[str, Number]


class OpaqueError(Exception):
    """A module holds something that its structure cannot be read from."""


def read_structure(module: nn.Module, *, input_shape: Sequence[int], dtype: torch.dtype) -> Structure:
    """The structure of a module for an input of this shape and precision."""
    reader = _Reader()
    for name, part in module.named_modules():
        reader.read_module(name, part)
    for index, size in enumerate(input_shape):
        reader.numbers[f"input.{index}"] = size
    reader.say(str(dtype))
    return Structure(text="\n".join(reader.lines), numbers=reader.numbers)


class _Reader:
    """Collects lines of text and named numbers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: dict[str, Number] = {}
        self._tensors: dict[int, str] = {}

    def say(self, line: str) -> None:
        self.lines.append(line)

    def read_module(self, name: str, module: nn.Module) -> None:
        kind = type(module)
        self.say(f"{name}: {kind.__module__}.{kind.__qualname__} {code_digest(kind.__module__)}")
        own = vars(module)
        if any(own[hooks] for hooks in _HOOKS):
            raise OpaqueError(f"{name or 'the module'} has hooks")
        for group in ("_parameters", "_buffers"):
            for tensor_name, tensor in own[group].items():
                self._tensor(f"{name}.{tensor_name}", tensor)
        from_torch = kind.__module__.startswith("torch.nn.")
        for attribute, value in own.items():
            if attribute not in _COMMON and not (from_torch and attribute in _WIDTHS):
                self.value(f"{name}.{attribute}", value, parity=from_torch)

    def _tensor(self, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            self.say(f"{name} none")
            return
        first = self._tensors.setdefault(id(tensor), name)
        tied = "" if first == name else f", which is {first}"
        self.say(f"{name} {len(tensor.shape)} {tensor.is_floating_point() or tensor.dtype}{tied}")
        for index, size in enumerate(tensor.shape):
            self.numbers[f"{name}.{index}"] = size

    def value(self, name: str, value: Any, *, parity: bool = False) -> None:
        """An attribute, taken apart down to numbers and text."""
        if isinstance(value, (bool, str, bytes, enum.Enum, torch.dtype, torch.device, torch.memory_format, type(None))):
            self.say(f"{name}={value!r}")
        elif isinstance(value, (int, float)):
            self.number(name, value, parity=parity)
        elif isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            self.say(f"{name}={_code_name(name, value)}")
        else:
            parts = _parts(name, value)
            self.say(f"{name}: {type(value).__qualname__} of {len(parts)}")
            for key, part in parts.items():
                self.value(f"{name}.{key}", part, parity=parity)

    def number(self, name: str, value: Number, *, parity: bool = False) -> None:
        self.numbers[name] = value
        if isinstance(value, int):
            form = value if value <= 1 else f"odd {value % 2}" if parity else "many"
            self.say(f"{name}#{form}")
        else:
            self.say(f"{name}#real {'0' if value == 0 else ''}")


def _parts(name: str, value: Any) -> dict[str, Any]:
    """What a value consists of, by name."""
    match value:
        case tuple() | list():
            return {str(index): part for index, part in enumerate(value)}
        case slice():
            return {"start": value.start, "stop": value.stop, "step": value.step}
        case dict():
            return {str(key): part for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise OpaqueError(f"{name} is a {type(value).__qualname__}")


def _code_name(name: str, value: Any) -> str:
    if getattr(value, "__closure__", None):
        raise OpaqueError(f"{name} is a function with values of its own")
    module = value.__module__ or "builtins"
    return f"{module}.{value.__qualname__} {code_digest(module)}"


_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_COMMON = frozenset(vars(nn.Module()))
_WIDTHS = frozenset(
    ("in_features", "out_features", "in_channels", "out_channels", "num_features", "normalized_shape", "inplace")
)
"""Attributes of torch's modules that only repeat the sizes of their tensors, or say nothing of the outcome."""


# -------------------------------------------------------------------------------------------- the code


@functools.cache
def code_digest(module_name: str) -> str:
    """A digest of the source of a Python module and of all that it uses within its own package.

    Torch and the standard library have versions, which templates are kept by anyway.
    """
    package = module_name.partition(".")[0]
    if package in sys.stdlib_module_names or package in ("torch", "builtins"):
        return ""
    digest = hashlib.sha256()
    for name in sorted(_used(module_name, package)):
        digest.update(_source(name))
    return digest.hexdigest()[:16]


def _used(start: str, package: str) -> set[str]:
    """The modules of a package that a module of it uses, directly or not."""
    seen, pending = {start}, [start]
    while pending:
        found = set(_neighbours(sys.modules.get(pending.pop()), package)) - seen
        seen |= found
        pending.extend(found)
    return seen


def _neighbours(module: ModuleType | None, package: str) -> Iterator[str]:
    for value in vars(module).values() if module else ():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name.partition(".")[0] == package and name in sys.modules:
            yield name


def _source(module_name: str) -> bytes:
    path = getattr(sys.modules.get(module_name), "__file__", None)
    if path is None or not path.endswith(".py"):
        raise OpaqueError(f"the source of {module_name} cannot be read")
    return Path(path).read_bytes()
