"""Readability figures of Python packages, a column each: how the house looks beside other packages.

    python -m benchmarks.code_figures [PACKAGE_DIR ...] [--json]

Without arguments it measures `hwnas`. Code is read, never imported. Code lines hold something other than blanks,
comments and strings that stand alone (docstrings); lines are all lines of a file. The figures:

- function lines: from `def` to the last line, blank ones included, without the docstring. A nested function counts on
  its own and in the one around it.
- typed: share of the functions whose parameters (but `self` and `cls`) and result all have hints; `__init__` needs
  none for its result.
- public docstrings: of classes, functions and methods without a leading underscore in their name or in that of their
  class. What stands inside a function is not public.
- args returns: share of all docstrings, those of modules and private ones included, with a section such as Args,
  Parameters, Returns or Raises. Opening what whether who: likewise, whose first word is such a question.
- comments: on a line of their own or behind code.
- import edges: pairs of a module and another of the package that it imports, at its top or inside a function, but not
  under TYPE_CHECKING.
- private with one use: functions with one leading underscore whose name their module mentions once besides the
  definition, as a share of all functions.
- class names with several meanings: public names that more than one module defines at its top level.
- tests to code: lines of the folder `tests` beside the package over those of the package.
"""

import argparse
import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from statistics import median

HOUSE = Path(__file__).parents[1] / "hwnas"
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
ASKS = re.compile(r"(What|Whether|Who|Whose|How|Where|Which|When|Why)\b")
SECTION = re.compile(
    r"^\W*(Args|Arguments|Parameters|Returns|Yields|Raises)(\*\*)?(:|\s*\n\s*-{3})|^\s*:(param|returns?)\b",
    re.MULTILINE,
)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of a package; None where there is nothing to measure."""

    files: int
    files_under_40_lines: int
    lines: int
    code_lines: int
    function_lines_median: float | None
    function_lines_p90: int | None
    function_lines_max: int | None
    typed_percent: float | None
    public_docstrings_percent: float | None
    args_returns_percent: float | None
    opening_what_whether_who_percent: float | None
    comments_per_100_code_lines: float | None
    import_edges_per_1000_lines: float | None
    private_with_one_use_percent: float | None
    class_names_with_several_meanings: int
    tests_to_code: float | None


@dataclass(frozen=True, kw_only=True)
class Module:
    """A source file, read once."""

    name: str
    is_package: bool
    text: str
    tree: ast.Module

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in self.nodes if isinstance(node, Function)]

    @cached_property
    def docstrings(self) -> list[str]:
        found = [ast.get_docstring(node) for node in self.nodes if isinstance(node, Documented)]
        return [text for text in found if text]

    def count_code_and_comments(self) -> tuple[int, int]:
        """Return the number of code lines and of comments."""
        code: set[int] = set()
        comments = 0
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                comments += 1
            elif token.type not in LAYOUT:
                code.update(range(token.start[0], token.end[0] + 1))
        for node in self.nodes:
            if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
                code.difference_update(span(node))
        return len(code), comments

    def single_uses(self) -> list[str]:
        """Return the private functions that the module mentions once besides their definition."""
        uses = Counter(node.id for node in self.nodes if isinstance(node, ast.Name))
        uses.update(node.attr for node in self.nodes if isinstance(node, ast.Attribute))
        private = [f.name for f in self.functions if f.name.startswith("_") and not f.name.startswith("__")]
        return [name for name in private if uses[name] == 1]

    def imports(self, names: set[str]) -> set[str]:
        """Return those of `names` that the module imports when it is loaded or run."""
        found = set()
        for node in walk_at_run_time(self.tree):
            if isinstance(node, ast.Import):
                found |= {nearest(alias.name, names) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = self.name.split(".")
                here = parts[: len(parts) - node.level + self.is_package] if node.level else []
                base = [*here, node.module] if node.module else here
                found |= {nearest(".".join([*base, alias.name]), names) for alias in node.names}
        return found - {"", self.name}


def walk_at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree as `ast.walk` does, but past the blocks that only type checkers see."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from walk_at_run_time(other)
        else:
            yield from walk_at_run_time(child)


def nearest(name: str, names: set[str]) -> str:
    """Return the longest beginning of a dotted name that is one of `names`, or an empty string."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


def read_source(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def read_package(package: Path) -> list[Module]:
    """Read all files below a folder; modules of a package inside another bear their full names."""
    top = package
    while (top.parent / "__init__.py").exists():
        top = top.parent
    modules = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(top.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        text = read_source(path)
        tree = ast.parse(text, filename=str(path))
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module(name=name, is_package=is_package, text=text, tree=tree))
    return modules


def span(statement: ast.stmt) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)


def function_lines(function: Function) -> int:
    has_docstring = ast.get_docstring(function, clean=False) is not None
    return len(span(function)) - (len(span(function.body[0])) if has_docstring else 0)


def is_typed(function: Function) -> bool:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    hinted = all(one.annotation for one in every if one is not None and one.arg not in ("self", "cls"))
    return hinted and (function.returns is not None or function.name == "__init__")


def public_parts(node: ast.AST) -> Iterator[Function | ast.ClassDef]:
    """Yield what users of a module may name: in public classes and under conditions too, but not in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            if child.name.startswith("_"):
                continue
            yield child
        if not isinstance(child, Function):
            yield from public_parts(child)


def shared_class_names(modules: list[Module]) -> list[str]:
    """Return the public class names that more than one module defines."""
    defined = Counter[str]()
    for module in modules:
        defined.update({node.name for node in module.tree.body if isinstance(node, ast.ClassDef)})
    return sorted(name for name, count in defined.items() if count > 1 and not name.startswith("_"))


def share(found: Iterable[object], count: int) -> float | None:
    """Return the true ones of `found` in per cent of `count`."""
    return 100 * sum(map(bool, found)) / count if count else None


def measure(package: Path) -> Figures:
    modules = read_package(package)
    names = {module.name for module in modules}
    functions = [function for module in modules for function in module.functions]
    lengths = sorted(map(function_lines, functions))
    docstrings = [text for module in modules for text in module.docstrings]
    single = [name for module in modules for name in module.single_uses()]
    public = [part for module in modules for part in public_parts(module.tree)]
    counts = [module.count_code_and_comments() for module in modules]
    code, comments = sum(pair[0] for pair in counts), sum(pair[1] for pair in counts)
    lines = sum(module.num_lines for module in modules)
    edges = sum(len(module.imports(names)) for module in modules)
    test_lines = sum(len(read_source(path).splitlines()) for path in (package.parent / "tests").rglob("*.py"))
    return Figures(
        files=len(modules),
        files_under_40_lines=sum(module.num_lines < 40 for module in modules),
        lines=lines,
        code_lines=code,
        function_lines_median=median(lengths) if lengths else None,
        function_lines_p90=lengths[int(0.9 * len(lengths))] if lengths else None,
        function_lines_max=lengths[-1] if lengths else None,
        typed_percent=share(map(is_typed, functions), len(functions)),
        public_docstrings_percent=share(map(ast.get_docstring, public), len(public)),
        args_returns_percent=share(map(SECTION.search, docstrings), len(docstrings)),
        opening_what_whether_who_percent=share(map(ASKS.match, docstrings), len(docstrings)),
        comments_per_100_code_lines=100 * comments / code if code else None,
        import_edges_per_1000_lines=1000 * edges / lines if lines else None,
        private_with_one_use_percent=share(single, len(functions)),
        class_names_with_several_meanings=len(shared_class_names(modules)),
        tests_to_code=test_lines / lines if test_lines and lines else None,
    )


def table(columns: dict[str, Figures]) -> str:
    rows = [["", *columns], ["---", *("--:" for _ in columns)]]
    for field in fields(Figures):
        values = [getattr(figures, field.name) for figures in columns.values()]
        shown = ["-" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}" for value in values]
        rows.append([field.name.replace("_", " "), *shown])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", type=Path, default=[HOUSE], metavar="PACKAGE_DIR")
    parser.add_argument("--json", action="store_true", help="print an object for each package instead of the table")
    options = parser.parse_args()
    columns = {}
    for package in options.packages:
        if not any(package.rglob("*.py")):
            parser.error(f"PACKAGE_DIR must be a folder with Python files, got {package}")
        try:
            folder = package.resolve()
            columns[str(folder) if folder.name in columns else folder.name] = measure(folder)
        except SyntaxError as error:
            parser.error(f"every file must be Python that this version reads, got {error}")
    if options.json:
        print(json.dumps({name: asdict(figures) for name, figures in columns.items()}, indent=2))
    else:
        print(table(columns))


if __name__ == "__main__":
    main()
