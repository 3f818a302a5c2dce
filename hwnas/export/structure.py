"""The structure of a module: a text that is equal for modules that differ only in sizes, and these sizes.

Modules with equal texts share templates of their graphs. The text holds the classes, the attributes, everything that is
not a number, and a digest of the source code that the forward pass runs. The sizes are those of the tensors and of the
input, and all integer and real attributes, by name.

Some numbers decide which branch the code takes. The values 0, 1 and below are therefore part of the text as well, and
so is, in torch's own modules, whether a number is odd: a convolution with padding='same' needs another operator if its
kernel is even.
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

from hwnas.export.size_rules import Number

_TEXT_TYPES = (bool, str, bytes, enum.Enum, torch.dtype, torch.device, torch.memory_format, type(None))
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_COMMON = frozenset(vars(nn.Module()))
"""Attributes that every module has, hooks and parameters among them."""
_REDUNDANT = frozenset(
    ("in_features", "out_features", "in_channels", "out_channels", "num_features", "normalized_shape", "inplace")
)
"""Attributes of torch's modules that repeat the sizes of their tensors or do not change the result."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Text that identifies the templates of a module, and the sizes that they are filled with."""

    text: str
    sizes: Mapping[str, Number]


class OpaqueError(Exception):
    """A module holds an object that cannot be compared with that of another module."""


def read_structure(module: nn.Module, *, input_shape: Sequence[int], dtype: torch.dtype) -> Structure:
    """Read the structure of a module.

    Args:
        module: The module; its weights are not read.
        input_shape: Shape of its input, with the batch.
        dtype: Precision of the graph.

    Raises:
        OpaqueError: An attribute is neither a number nor plain text, a hook is registered, or source code is missing.
    """
    reader = _StructureReader()
    for name, part in module.named_modules():
        reader.read_module(name, part)
    for index, size in enumerate(input_shape):
        reader.sizes[f"input.{index}"] = size
    reader.lines.append(str(dtype))
    return Structure(text="\n".join(reader.lines), sizes=reader.sizes)


class _StructureReader:
    """Collects lines of text and named sizes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.sizes: dict[str, Number] = {}
        self._tensors: dict[int, str] = {}

    def read_module(self, name: str, module: nn.Module) -> None:
        """Read the attributes of a module, without those of its children."""
        kind = type(module)
        self.lines.append(f"{name}: {kind.__module__}.{kind.__qualname__} {code_digest(kind.__module__)}")
        attributes = vars(module)
        if any(attributes[hooks] for hooks in _HOOKS):
            raise OpaqueError(f"{name or 'the module'} has hooks")
        for group in ("_parameters", "_buffers"):
            for tensor_name, tensor in attributes[group].items():
                self._tensor(f"{name}.{tensor_name}", tensor)
        from_torch = kind.__module__.startswith("torch.nn.")
        for attribute, value in attributes.items():
            if attribute not in _COMMON and not (from_torch and attribute in _REDUNDANT):
                self._value(f"{name}.{attribute}", value, with_parity=from_torch)

    def _tensor(self, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            self.lines.append(f"{name} none")
            return
        first = self._tensors.setdefault(id(tensor), name)
        tied = "" if first == name else f", which is {first}"
        self.lines.append(f"{name} {len(tensor.shape)} {tensor.is_floating_point() or tensor.dtype}{tied}")
        for index, size in enumerate(tensor.shape):
            self.sizes[f"{name}.{index}"] = size

    def _value(self, name: str, value: Any, *, with_parity: bool) -> None:
        """Read an attribute; containers are read down to numbers and text."""
        if isinstance(value, _TEXT_TYPES):
            self.lines.append(f"{name}={value!r}")
        elif isinstance(value, int):
            self.sizes[name] = value
            form = value if value <= 1 else f"odd {value % 2}" if with_parity else "many"
            self.lines.append(f"{name}#{form}")
        elif isinstance(value, float):
            self.sizes[name] = value
            self.lines.append(f"{name}#real {'0' if value == 0 else ''}")
        elif isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            self.lines.append(f"{name}={_describe_code(name, value)}")
        else:
            parts = _parts(name, value)
            self.lines.append(f"{name}: {type(value).__qualname__} of {len(parts)}")
            for key, part in parts.items():
                self._value(f"{name}.{key}", part, with_parity=with_parity)


def _parts(name: str, value: Any) -> dict[str, Any]:
    """Return the parts of a container by name."""
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


def _describe_code(name: str, value: Any) -> str:
    if getattr(value, "__closure__", None):
        raise OpaqueError(f"{name} is a function that captures variables")
    module = value.__module__ or "builtins"
    return f"{module}.{value.__qualname__} {code_digest(module)}"


# -------------------------------------------------------------------------------------------- source code


@functools.cache
def code_digest(module_name: str) -> str:
    """Return a digest of the source of a Python module and of all modules of its package that it uses.

    It is empty for the standard library, and for torch, whose version is part of the name of a cached template.
    """
    package = module_name.partition(".")[0]
    if package in sys.stdlib_module_names or package in ("torch", "builtins"):
        return ""
    digest = hashlib.sha256()
    for name in sorted(_used_modules(module_name, package)):
        digest.update(_source(name))
    return digest.hexdigest()[:16]


def _used_modules(start: str, package: str) -> set[str]:
    """Return the modules of a package that one of them uses, directly or not."""
    seen, pending = {start}, [start]
    while pending:
        new = set(_neighbours(sys.modules.get(pending.pop()), package)) - seen
        seen |= new
        pending.extend(new)
    return seen


def _neighbours(module: ModuleType | None, package: str) -> Iterator[str]:
    # By the objects in its namespace: an import statement leaves either a module or an object that knows its module.
    for value in vars(module).values() if module else ():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name.partition(".")[0] == package and name in sys.modules:
            yield name


def _source(module_name: str) -> bytes:
    path = getattr(sys.modules.get(module_name), "__file__", None)
    if path is None or not path.endswith(".py"):
        raise OpaqueError(f"the source of {module_name} cannot be read")
    return Path(path).read_bytes()
