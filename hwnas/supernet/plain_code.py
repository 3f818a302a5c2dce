"""The PyTorch code of one network, taken from the source text of its family: it needs torch and nothing of hwnas.

The text holds the definitions that the segments of the network are made of, with all that these use, and the configs of
the segments. A method stays if something in the text calls one of its name. What chooses a kernel for this machine is
replaced by torch's own attention.
"""

import ast
import builtins
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

from hwnas.errors import InputError
from hwnas.files import read_text
from hwnas.supernet.network import SegmentConfig

_PACKAGE = "hwnas."

_ENTRY_METHODS = ("build", "forward")
"""Methods that are called from outside; those with two underscores are, too."""

_REPLACED = {
    "attend": '''\
def attend(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, scale: float | None = None) -> Tensor:
    """Compute scaled dot-product attention; without a scale it is the width of a head to the power of -1/2."""
    return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, scale=scale)
''',
}
"""Definitions with another text, by name."""

_CHECKER_COMMENT = re.compile(r"  # (type: ignore\[[^\]]*\]|noqa: [A-Z0-9, ]+)(?: .*)?$", re.MULTILINE)


def network_code(outline: Mapping[str, SegmentConfig]) -> str:
    """Return imports, definitions and `OUTLINE`, the configs of the segments of a network by name.

    Args:
        outline: The configs of the segments, in the order in which they run.

    Raises:
        InputError: A segment is of a family that is not part of hwnas.
    """
    code = _Code()
    for config in outline.values():
        for kind in _config_types(config):
            if not kind.__module__.startswith(_PACKAGE):
                message = "code is written of networks whose families are part of hwnas"
                hint = "--format onnx, pt2 or safetensors"
                raise InputError(message, got=f"{kind.__qualname__} of {kind.__module__}", hint=hint)
            code.add(kind.__module__, kind.__qualname__)
    code.complete()
    entries = "\n".join(f"    {name!r}: {config!r}," for name, config in outline.items())
    about = '"""The config of each segment by name, in the order in which they run."""'
    return "\n\n\n".join([code.imports(), *code.texts(), f"OUTLINE = {{\n{entries}\n}}\n{about}"])


def _config_types(value: object) -> Iterator[type]:
    """Yield the dataclasses that a config is made of."""
    if is_dataclass(value):
        yield type(value)
        for item in fields(value):
            yield from _config_types(getattr(value, item.name))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _config_types(part)


@dataclass(frozen=True)
class _Module:
    """The source text of a module of hwnas."""

    name: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        """Top-level classes, functions and assignments by name."""
        found: dict[str, ast.stmt] = {}
        for node in self.tree.body:
            for name in _defined(node):
                found[name] = node
        return found

    @cached_property
    def imports(self) -> dict[str, tuple[str, str | None]]:
        """Imported names: the module, and the name in it or None for the module itself."""
        found: dict[str, tuple[str, str | None]] = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {item.asname or item.name: (node.module, item.name) for item in node.names}
            elif isinstance(node, ast.Import):
                found |= {item.asname or item.name: (item.name, None) for item in node.names}
        return found

    def text_of(self, node: ast.stmt, *, without: Iterable[ast.stmt] = ()) -> str:
        """Return the lines of a statement, without those of some statements in it."""
        first, last = _span(node)
        dropped: set[int] = set()
        for part in without:
            start, end = _span(part)
            while not self.lines[start - 2].strip():  # the empty lines before a method go with it
                start -= 1
            dropped |= set(range(start, end + 1))
        kept = [self.lines[number - 1] for number in range(first, last + 1) if number not in dropped]
        return _CHECKER_COMMENT.sub("", "\n".join(kept))

    def documented(self, node: ast.stmt) -> str:
        """Return an assignment with the text that describes it."""
        body = self.tree.body
        after = body[body.index(node) + 1 :]
        is_text = after and isinstance(after[0], ast.Expr) and isinstance(after[0].value, ast.Constant)
        return self.text_of(node) + (f"\n{self.text_of(after[0])}" if is_text else "")


@dataclass
class _Code:
    """Definitions that are collected with all that they use."""

    kept: dict[tuple[str, str], ast.stmt] = field(default_factory=dict)
    external: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    """Names of attributes that the definitions read."""

    def add(self, module: str, name: str) -> None:
        """Add a definition; what it uses is added by `complete`."""
        source = _module(module)
        if name in source.definitions:
            self.kept[module, name] = source.definitions[name]
        elif name in source.imports:
            origin, original = source.imports[name]
            if origin.startswith(_PACKAGE) and original is not None:
                assert original == name, f"{module} renames {original}"
                self.add(origin, original)
            else:
                self.external[name] = (origin, original)
        else:
            assert hasattr(builtins, name) or name == "__name__", f"{name} of {module} is defined nowhere"

    def complete(self) -> None:
        """Add all that is used, until nothing is missing: methods and definitions lead to each other."""
        size = -1
        while size != (size := len(self.kept) + len(self.external) + len(self.called)):
            for (module, name), node in list(self.kept.items()):
                for part in self._parts(name, node):
                    self.called |= {item.attr for item in ast.walk(part) if isinstance(item, ast.Attribute)}
                    for used in _free_names(part):
                        self.add(module, used)
        names = [name for _, name in self.kept]
        assert len(names) == len(set(names)), "two definitions of one name"

    def imports(self) -> str:
        """Return the import statements."""
        modules: dict[str, list[str]] = {}
        lines = []
        for name, (module, original) in sorted(self.external.items()):
            alias = "" if name == (original or module) else f" as {name}"
            if original is None:
                lines.append(f"import {module}{alias}")
            else:
                modules.setdefault(module, []).append(f"{original}{alias}")
        lines += [f"from {module} import {', '.join(names)}" for module, names in sorted(modules.items())]
        return "\n".join(lines)

    def texts(self) -> list[str]:
        """Return the definitions, those of a module before those of the modules that import it."""
        found = []
        for module in _in_order({module for module, _ in self.kept}):
            own = [(node.lineno, name, node) for (owner, name), node in self.kept.items() if owner == module]
            found += [self._text(module, name, node) for _, name, node in sorted(own, key=lambda item: item[0])]
        return found

    def _text(self, module: str, name: str, node: ast.stmt) -> str:
        source = _module(module)
        if name in _REPLACED:
            return _REPLACED[name].rstrip("\n")
        if isinstance(node, ast.ClassDef):
            kept = self._parts(name, node)
            return source.text_of(node, without=[item for item in _methods(node) if item not in kept])
        return source.text_of(node) if isinstance(node, ast.FunctionDef) else source.documented(node)

    def _parts(self, name: str, node: ast.stmt) -> list[ast.AST]:
        """Return what stays of a definition: of a class, its head, its fields and the methods that are called."""
        if name in _REPLACED:
            return [ast.parse(_REPLACED[name])]
        if not isinstance(node, ast.ClassDef):
            return [node]
        methods = _methods(node)
        stays = [item for item in methods if item.name in _ENTRY_METHODS or item.name in self.called]
        stays += [item for item in methods if item.name.startswith("__")]
        others = [item for item in node.body if item not in methods]
        return [*node.bases, *node.decorator_list, *others, *stays]


@lru_cache(maxsize=64)
def _module(name: str) -> _Module:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return _Module(name=name, text=read_text(Path(spec.origin)))


def _in_order(modules: set[str]) -> list[str]:
    """Return modules such that each comes after those that it imports."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        for origin in sorted({origin for origin, _ in _module(name).imports.values()}):
            if origin in modules:
                visit(origin)
        ordered.append(name)

    for name in sorted(modules):
        visit(name)
    return ordered


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]


def _span(node: ast.stmt) -> tuple[int, int]:
    """Return the numbers of the first and the last line, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(item.lineno for item in decorators)]), node.end_lineno or node.lineno


def _free_names(node: ast.AST) -> set[str]:
    """Return the names that a piece of code reads and does not bind itself."""
    names = [item for item in ast.walk(node) if isinstance(item, ast.Name)]
    bound = {item.id for item in names if not isinstance(item.ctx, ast.Load)}
    bound |= {item.arg for item in ast.walk(node) if isinstance(item, ast.arg)}
    bound |= {item.name for item in ast.walk(node) if isinstance(item, (ast.FunctionDef, ast.ClassDef))}
    return {item.id for item in names} - bound
