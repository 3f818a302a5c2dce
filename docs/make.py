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
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import hwnas

FOLDER = Path(__file__).parent
API, FORMATS = FOLDER / "api.md", FOLDER / "formats.md"

COMMAND = "python docs/make.py"

_HEAD = f"""# Python API

What `import hwnas` offers; made from the code by `{COMMAND}`. A verb is imported when it is first used, so that
`import hwnas` alone loads neither torch nor any runtime. What a verb refuses is a `hwnas.errors.HwnasError`, whose
`message`, `got`, `known` and `hint` say what must hold, what was given and what to do next.

Every command of the command line is one of these verbs and prints what it returns; `--json` prints all of it.
"""

_FIELDS = re.compile(r"(<!-- fields (\S+):(\S+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
_WIDTH = 110


def api_page() -> str:
    """The text of `api.md`."""
    things = {name: getattr(hwnas, name) for name in hwnas.__all__ if not name.startswith("_")}
    verbs = {name: thing for name, thing in things.items() if inspect.isfunction(thing)}
    options = {name: thing for name, thing in things.items() if inspect.isclass(thing)}
    results = _results(verbs, known=set(options.values()))
    parts = [_HEAD, "## Verbs\n", *(_verb(name, thing) for name, thing in verbs.items())]
    parts += ["## What verbs are asked with\n", *map(_class, options.values())]
    parts += ["## What verbs return\n", *map(_class, results)]
    return "\n".join(parts)


def filled(text: str) -> str:
    """A page with the lists of fields that its comments ask for."""

    def block(match: re.Match[str]) -> str:
        kind = getattr(import_module(match.group(2)), match.group(3))
        return "\n".join([match.group(1), *_rows(kind), "", match.group(4)])

    return _FIELDS.sub(block, text)


def _results(verbs: Mapping[str, Callable[..., Any]], *, known: set[type]) -> list[type]:
    """The classes of hwnas that verbs return, each once, by name."""
    found = {kind for verb in verbs.values() for kind in _classes(inspect.signature(verb).return_annotation)}
    return sorted(found - known, key=lambda kind: kind.__name__)


def _classes(annotation: Any) -> Iterator[type]:
    if inspect.isclass(annotation) and annotation.__module__.startswith("hwnas."):
        yield annotation
    for argument in get_args(annotation):
        yield from _classes(argument)


def _verb(name: str, verb: Callable[..., Any]) -> str:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(verb))).body
    assert isinstance(node, ast.FunctionDef)
    return f"### hwnas.{name}\n\n```python\n{_signature(name, node)}\n```\n\n{inspect.getdoc(verb)}\n"


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
    return "\n".join([f"### {kind.__name__}\n", f"`{kind.__module__}`. {inspect.getdoc(kind)}\n", *_rows(kind), ""])


def _rows(kind: type) -> list[str]:
    """A list of the fields of a dataclass, with the sentences that stand below them."""
    found: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        found |= dict(_declared(node))
    return [f"- `{field}`{f': {text}' if text else ''}" for field, text in found.items()]


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
