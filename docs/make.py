"""Writes what pages of the documentation say of the code, from the code: `python docs/make.py`.

api.md        all of it: public names, signatures, docstrings
formats.md    the lists of fields, between `<!-- fields MODULE:CLASS -->` and `<!-- end -->`
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import hwnas

FOLDER = Path(__file__).parent
API, FORMATS = FOLDER / "api.md", FOLDER / "formats.md"

COMMAND = "python docs/make.py"

_HEAD = f"""# Python API

What `import hwnas` offers; generated from the code by `{COMMAND}`. Names are imported when they are first used, so that
`import hwnas` alone loads neither torch nor any runtime. Functions refuse invalid arguments with a
`hwnas.errors.HwnasError`, whose `message`, `got`, `known` and `hint` say what must hold, what was given and what to do
next. [Python](python.md) shows them in use.

Every command of the command line is one of these functions and prints what it returns; `--json` prints all of it.
"""

_FIELDS = re.compile(r"(<!-- fields (\S+):(\S+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
_WIDTH = 110


def api_page() -> str:
    """Return the text of `api.md`."""
    public = {name: getattr(hwnas, name) for name in hwnas.__all__ if not name.startswith("_")}
    functions = {name: item for name, item in public.items() if inspect.isfunction(item)}
    classes = {name: item for name, item in public.items() if inspect.isclass(item)}
    taken = _taken(functions.values())
    parts = [_HEAD, "## Functions\n", *(_function(name, item) for name, item in functions.items())]
    parts += ["## Arguments\n", *(_class(item) for name, item in classes.items() if name in taken)]
    parts += ["## Results\n", *(_class(item) for name, item in classes.items() if name not in taken)]
    return "\n".join(parts)


def filled(text: str) -> str:
    """A page with the lists of fields that its comments ask for."""

    def block(match: re.Match[str]) -> str:
        kind = getattr(import_module(match.group(2)), match.group(3))
        return "\n".join([match.group(1), *_rows(kind), "", match.group(4)])

    return _FIELDS.sub(block, text)


def _taken(functions: Iterable[Callable[..., Any]]) -> set[str]:
    """Return the names of the classes that functions take, and of those in the fields of options."""
    annotations = [
        str(annotation)
        for function in functions
        for name, annotation in inspect.get_annotations(function).items()
        if name != "return"
    ]
    options = [getattr(hwnas, name) for name in hwnas.__all__ if name.endswith("Options")]
    annotations += [str(field.type) for kind in options for field in dataclasses.fields(kind)]
    return {name for annotation in annotations for name in re.findall(r"\w+", annotation)}


def _function(name: str, function: Callable[..., Any]) -> str:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    return f"### hwnas.{name}\n\n```python\n{_signature(name, node)}\n```\n\n{inspect.getdoc(function)}\n"


def _signature(name: str, node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    parts = _arguments(node.args)
    line = f"hwnas.{name}({', '.join(parts)}){returns}"
    if len(line) > _WIDTH:
        line = "\n".join([f"hwnas.{name}(", *(f"    {part}," for part in parts), f"){returns}"])
    return line.replace("'", '"')


def _arguments(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    first = [_argument(item, default) for item, default in zip(positional, defaults, strict=True)]
    keywords = [
        _argument(item, default) for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return [*first, "*", *keywords] if keywords else first


def _argument(item: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(item) + ("" if default is None else f" = {ast.unparse(default)}")


def _class(kind: type) -> str:
    head = [f"### {kind.__name__}\n", f"`{kind.__module__}`. {inspect.getdoc(kind)}\n"]
    return "\n".join([*head, *_rows(kind), *_methods(kind), ""])


def _rows(kind: type) -> list[str]:
    """A list of the fields of a dataclass, with the sentences that stand below them."""
    found: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        found |= dict(_declared(node))
    return [f"- `{field}`{f': {text}' if text else ''}" for field, text in found.items()]


def _methods(kind: type) -> Iterator[str]:
    """A list of the public methods and properties of a class, with the first sentence of each docstring."""
    for name, item in inspect.getmembers(kind):
        defined = any(name in vars(base) for base in kind.__mro__ if base.__module__.startswith("hwnas"))
        text = (inspect.getdoc(item) or "").partition("\n\n")[0].replace("\n", " ")
        if name.startswith("_") or not defined or not text or name in getattr(kind, "__dataclass_fields__", {}):
            continue
        if not callable(item):
            yield f"- `{name}` (property): {text}"
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(item))).body
        assert isinstance(node, ast.FunctionDef)
        arguments = [part for part in _arguments(node.args) if part not in ("self", "cls")]
        if node.args.kwarg:
            arguments.append(f"**{node.args.kwarg.arg}")
        yield f"- `{name}({', '.join(arguments)})`".replace("'", '"') + f": {text}"


def _declared(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    following: list[ast.stmt | None] = [*node.body[1:], None]
    for item, below in zip(node.body, following, strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            text = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = " ".join(str(below.value.value).split())
            yield f"{item.target.id}: {ast.unparse(item.annotation)}".replace("'", '"'), text


if __name__ == "__main__":
    API.write_text(api_page(), encoding="utf-8")
    FORMATS.write_text(filled(FORMATS.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{API}\n{FORMATS}\n")
