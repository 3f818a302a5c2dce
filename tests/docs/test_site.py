"""The sources of the site: every page has its place, and every link leads to a file of the site."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import hwnas
from docs import site
from tests.docs.pages import DOCS, ROOT
from tests.report.example import Example, make_run

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def entries(nav: Any) -> Iterator[str]:
    """The files of a navigation, whatever they are nested in."""
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            for value in item.values():
                yield from [value] if isinstance(value, str) else entries(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "SAMPLES", out / "none")  # rendering a report takes seconds
        site.write_site(out / "docs")
    return out / "docs"


def test_every_page_has_its_place(folder: Path) -> None:
    named = set(entries(CONFIG["nav"]))
    assert {path.name for path in DOCS.glob("*.md")} | set(site.TOP.values()) | {"gallery/index.md"} == named
    assert [name for name in named if not (folder / name).is_file()] == []


def test_links_of_the_site_lead_to_its_files(folder: Path) -> None:
    broken = []
    for path in folder.rglob("*.md"):
        text = re.sub(r"^```.*?^```|`[^`\n]+`", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
        broken += [(path.name, link) for link in links if not (path.parent / link).exists()]
    assert broken == []


def test_every_public_name_is_in_the_reference(folder: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (folder / "api").glob("*.md"))
    index = (folder / "api.md").read_text(encoding="utf-8")
    for name in hwnas.__all__:
        if name != "__version__":
            assert re.search(rf"^::: hwnas\.\S+\.{name}$", pages, flags=re.MULTILINE), name
            assert f"`hwnas.{name}`" in index


def test_links_in_code_stay_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](b.md#c) `[a](b.md)` [x](https://x.org)\n```\n[a](b.md)\n```\n[n](NOTICE)\n")
    (tmp_path / "NOTICE").write_text("notice")
    (tmp_path / "out").mkdir()
    text = site._relinked(page, "results/page.md", {tmp_path / "b.md": "guide/b.md"}, tmp_path / "out")
    assert text == (
        "[a](../guide/b.md#c) `[a](b.md)` [x](https://x.org)\n```\n[a](b.md)\n```\n[n](../files/NOTICE.txt)\n"
    )
    assert (tmp_path / "out" / "files" / "NOTICE.txt").read_text() == "notice"
    page.write_text("[a](nowhere.md)")
    with pytest.raises(ValueError, match=r"nowhere\.md"):
        site._relinked(page, "page.md", {}, tmp_path)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed: pip install 'hwnas[docs]'")
    site.write_site(tmp_path / "docs")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = config.replace("build/docs", str(tmp_path / "docs")).replace("paths: [.]", f"paths: [{ROOT}]")
    (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "site" / "gallery" / "index.html").is_file()


def test_a_sample_keeps_what_its_report_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "SAMPLES", tmp_path / "samples")
    run = make_run(tmp_path / "runs" / "search", Example(count=60))
    (run / "search.json").write_text((run / "search.json").read_text() + " " + str(tmp_path / "runs" / "supernet"))
    site.keep_sample(run, "kept")
    kept = {path.relative_to(tmp_path / "samples" / "kept").as_posix() for path in tmp_path.glob("samples/**/*.*")}
    assert {"manifest.json", "search.json", "study.sqlite"} <= kept
    assert not any(name.startswith(("networks/", "profiles/")) for name in kept)
    assert (tmp_path / "samples" / "kept" / "search.json").read_text().endswith(" supernet")


def test_samples_say_what_they_are_and_name_no_folder_of_a_machine() -> None:
    for folder in site.SAMPLES.glob("*/"):
        assert (folder / "about.md").read_text(encoding="utf-8").startswith("`hwnas"), folder
        for path in folder.rglob("*.json"):
            assert re.findall(r'"(/[^"]+)"', path.read_text(encoding="utf-8")) == [], path
