"""Writes the sources of the site, from which `mkdocs build` makes it.

    python docs/site.py FOLDER
    python docs/site.py --sample RUN NAME    keeps the run of a search for the gallery, as docs/samples/NAME

The pages are those that are read in a checkout. Here their links are changed to the files of the site, the reference of
the API becomes a page for each module, and reports are made for the gallery.
"""

import functools
import inspect
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import hwnas
from hwnas.pipeline.report import write_report

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside of docs/, and their names on the site."""

SAMPLES = FOLDER / "samples"
"""Runs of searches, whose reports are the gallery, each with a page `about.md`."""

_SHOWN = ("manifest.json", "search.json", "study.sqlite", "predictors/**/card.json")
"""The files of a run that its report is made from."""

_LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(\))")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", flags=re.MULTILINE | re.DOTALL)


def write_site(out: Path) -> None:
    """Write all sources of the site into a folder, which is emptied before."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copytree(FOLDER / "images", out / "images")
    pages = {page: page.name for page in FOLDER.glob("*.md")} | {ROOT / name: target for name, target in TOP.items()}
    results = sorted({path for page in pages for path in _results_of(page)})
    pages |= {path: f"results/{path.name}" for path in results}
    for page, target in pages.items():
        _write(out / target, _relinked(page, target, pages, out))
    _write(out / "api.md", _api_index())
    for module, names in _modules().items():
        _write(out / "api" / f"{module}.md", _api_page(module, names))
    _write_gallery(out / "gallery")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _results_of(page: Path) -> Iterable[Path]:
    """Return the saved results of benchmarks that a page links to."""
    for _, target, _, _ in _LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if path.is_relative_to(ROOT / "benchmarks" / "results") and path.suffix == ".md":
            yield path


def _copied(path: Path, out: Path) -> str:
    """Copy a file that is no page, and return its path on the site."""
    name = f"files/{path.name}.txt"
    (out / "files").mkdir(exist_ok=True)
    shutil.copyfile(path, out / name)
    return name


def _relinked(page: Path, target: str, pages: dict[Path, str], out: Path) -> str:
    """Return a page with links to the files of the site."""
    up = "../" * target.count("/")

    def replace(match: re.Match[str]) -> str:
        path = (page.parent / match.group(2)).resolve()
        anchor = match.group(3) or ""
        if path in pages:
            return f"]({up}{pages[path]}{anchor})"
        if path.is_relative_to(FOLDER) and path.is_file():
            return f"]({up}{path.relative_to(FOLDER).as_posix()}{anchor})"
        if path.is_file():  # a licence
            return f"]({up}{_copied(path, out)})"
        raise ValueError(f"{page.name} links to {match.group(2)}, which is no page and no file")

    parts = _CODE.split(page.read_text(encoding="utf-8"))
    return "".join(part if index % 2 else _LINK.sub(replace, part) for index, part in enumerate(parts))


def _modules() -> dict[str, list[str]]:
    """Return the public names by the module that defines them, without the prefix `hwnas.`."""
    found: dict[str, list[str]] = {}
    for name in hwnas.__all__:
        if not name.startswith("_"):
            module = inspect.getmodule(getattr(hwnas, name))
            assert module is not None, name
            found.setdefault(module.__name__.removeprefix("hwnas."), []).append(name)
    return dict(sorted(found.items()))


def _api_index() -> str:
    rows = [
        f"| [`hwnas.{name}`](api/{module}.md#hwnas.{module}.{name}) | {_summary(name)} |"
        for module, names in _modules().items()
        for name in sorted(names)
    ]
    head = (
        "# Python API\n\nWhat `import hwnas` offers; each name links to its arguments, results and errors. "
        "[Python](python.md) shows them in use.\n\n| name | |\n| --- | --- |\n"
    )
    return head + "\n".join(sorted(rows)) + "\n"


def _summary(name: str) -> str:
    return (inspect.getdoc(getattr(hwnas, name)) or "").partition("\n")[0].replace("|", "\\|")


def _api_page(module: str, names: Iterable[str]) -> str:
    parts = [f"# {module}\n", *(f"::: hwnas.{module}.{name}\n" for name in names)]
    return "\n".join(parts)


def _write_gallery(folder: Path) -> None:
    """Write the reports of the sample runs, and a page that shows their figures."""
    lines = ["# Gallery\n", "Reports of real searches, as `hwnas report` writes them.\n"]
    for run in sorted(SAMPLES.glob("*/")):
        written = write_report(run, out=folder / run.name)
        about = (run / "about.md").read_text(encoding="utf-8").strip()
        lines += [f"## {run.name}\n", f"{about}\n", f"{written.runs[0].verdict}\n"]
        lines += [f"[Open the report]({run.name}/report.html)\n"]
        lines += [
            f"![{path.stem}]({run.name}/figures/{path.name})\n" for path in written.figures if path.suffix == ".png"
        ]
    _write(folder / "index.md", "\n".join(lines))


def keep_sample(run: Path, name: str) -> None:
    """Copy what the report of a run shows to the samples, with paths that name no folder above it."""
    folder = SAMPLES / name
    above = [f"{parent}/" for parent in run.resolve().parents if len(parent.parts) > 1]
    for pattern in _SHOWN:
        for path in run.glob(pattern):
            copy = folder / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            if copy.suffix == ".json":
                text = copy.read_text(encoding="utf-8")
                copy.write_text(functools.reduce(lambda found, parent: found.replace(parent, ""), above, text), "utf-8")
            else:
                _shorten_paths(copy, above)


def _shorten_paths(database: Path, above: Iterable[str]) -> None:
    """Remove the names of folders from all texts of a study."""
    with closing(sqlite3.connect(database)) as study, study:
        for (table,) in study.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in study.execute(f"PRAGMA table_info({table})").fetchall():
                for parent in above:
                    text = f"UPDATE {table} SET {column} = replace({column}, ?, '') WHERE typeof({column}) = 'text'"
                    study.execute(text, (parent,))


if __name__ == "__main__":
    if sys.argv[1] == "--sample":
        keep_sample(Path(sys.argv[2]), sys.argv[3])
    else:
        write_site(Path(sys.argv[1]))
