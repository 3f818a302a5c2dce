"""Pages that are made from the code are what the code says."""

import re
from pathlib import Path

import hwnas
from docs.make import API, COMMAND, FORMATS, api_page, filled
from tests.docs.pages import ROOT

OUT_OF_DATE = f"the page is out of date: {COMMAND}"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_page_of_the_api_is_what_the_script_makes() -> None:
    assert text(API) == api_page(), OUT_OF_DATE


def test_every_public_name_has_its_part() -> None:
    lines = set(text(API).splitlines())
    for name in hwnas.__all__:
        assert name == "__version__" or {f"### hwnas.{name}", f"### {name}"} & lines, name


def test_the_fields_on_the_page_of_formats_are_those_of_the_code() -> None:
    assert text(FORMATS) == filled(text(FORMATS)), OUT_OF_DATE


def test_a_field_is_listed_with_its_type_and_what_stands_below_it() -> None:
    page = "a\n<!-- fields hwnas.records.measurement:Failure -->\nold\n<!-- end -->\nb\n"
    rows = "- `reason: Reason`\n- `message: str`\n"
    assert filled(page) == f"a\n<!-- fields hwnas.records.measurement:Failure -->\n\n{rows}\n<!-- end -->\nb\n"


def test_every_schema_is_on_the_page_with_the_file_that_defines_it() -> None:
    defined = {}
    for path in sorted((ROOT / "hwnas").rglob("*.py")):
        found = re.search(r'^SCHEMA = "(hwnas\.\w+/\d+)"$', text(path), flags=re.MULTILINE)
        if found:
            defined[found.group(1)] = path.relative_to(ROOT).as_posix()
    listed = re.findall(r"^\| `(hwnas\.\w+/\d+)` \|.*\| `(\S+)` \|$", text(FORMATS), flags=re.MULTILINE)
    assert dict(listed) == defined
