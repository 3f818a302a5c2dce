"""The exit codes that the pages name are those of the commands."""

import re
import signal
from pathlib import Path

from hwnas import errors
from hwnas.cli.app import EXIT_BROKEN_PIPE

ROOT = Path(__file__).parents[2]

CODES = {
    "0": "success",
    "1": "invalid input",
    "2": "invalid command line",
    "3": "device or toolchain",
    "4": "check failed",
    "70": "bug in hwnas",
    "128 + n": "signal n",
    "141": "reader of the output went away",
}


def test_the_codes_are_those_of_the_errors() -> None:
    kinds = (errors.InputError, errors.UsageError, errors.MissingError, errors.CheckFailedError, errors.HwnasError)
    assert [str(kind.exit_code) for kind in kinds] == ["1", "2", "3", "4", "70"]
    assert (errors.EXIT_SIGNAL, EXIT_BROKEN_PIPE) == (128, errors.EXIT_SIGNAL + signal.SIGPIPE)


def test_the_page_of_the_command_line_lists_them() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\d +n]+) \| (.*) \|$", page, flags=re.MULTILINE))
    assert rows.keys() == CODES.keys()
    for code, words in CODES.items():
        assert words in rows[code].replace("is missing", ""), code


def test_the_readme_names_them() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    sentence = re.search(r"Commands exit with .*?\.", readme)
    assert sentence is not None
    assert re.findall(r"\b\d+\b", sentence[0]) == ["0", "1", "2", "3", "4", "70", "128", "130"]
