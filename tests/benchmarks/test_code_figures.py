import json
import sys
from pathlib import Path

import pytest

from benchmarks.code_figures import Figures, main, measure, table

FILES = {
    "toy/__init__.py": '"""A toy."""\n\nfrom .numbers import Twice, double\n',
    "toy/numbers.py": '''"""What numbers do."""

from typing import TYPE_CHECKING

import toy.words

if TYPE_CHECKING:
    from toy.inner import deep  # only for hints


class Twice:
    """Two of a thing."""

    def of(self, value: int) -> int:
        """Double a value.

        Args:
            value: A number.
        """
        # Behind the docstring.
        return _plus(value, value)

    def bare(self, value) -> int:
        return value


class _Hidden:
    def shown(self) -> None: ...


def double(value: int) -> int:
    """Whether or not it is needed."""
    return _plus(value, value)


def _plus(one: int, other: int) -> int:
    return one + other


def _once() -> str:
    return toy.words.WORD


FIRST = _once()
''',
    "toy/words.py": 'WORD = "word"\n"""A word."""\n\n\nclass Twice: ...\n',
    "toy/inner/__init__.py": "",
    "toy/inner/deep.py": "def late():\n    from .. import words\n    from . import other\n\n    return words, other\n",
    "toy/inner/other.py": "class _Hidden: ...\n",
    "tests/test_toy.py": "import toy\n\n\ndef test_toy() -> None:\n    assert toy\n",
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "toy"


def test_figures_of_a_package_counted_by_hand(toy: Path) -> None:
    lines, code, functions = 3 + 44 + 5 + 0 + 5 + 1, 1 + 18 + 2 + 0 + 4 + 1, 7
    assert measure(toy) == Figures(
        files=6,
        files_under_40_lines=5,
        lines=lines,
        code_lines=code,
        function_lines_median=2,  # 1, 2, 2, 2, 2, 3 with the comment, 5
        function_lines_p90=5,
        function_lines_max=5,
        typed_percent=100 * 5 / functions,
        public_docstrings_percent=100 * 3 / 6,  # not bare, the Twice of words, late
        args_returns_percent=100 * 1 / 5,
        opening_what_whether_who_percent=100 * 2 / 5,
        comments_per_100_code_lines=100 * 2 / code,
        import_edges_per_1000_lines=1000 * 4 / lines,  # toy to numbers, numbers to words, deep to words and other
        private_with_one_use_percent=100 * 1 / functions,
        class_names_with_several_meanings=1,
        tests_to_code=5 / lines,
    )


def test_a_package_inside_another_counts_its_own_imports_and_what_is_not_there_is_left_open(toy: Path) -> None:
    figures = measure(toy / "inner")
    assert (figures.import_edges_per_1000_lines, figures.tests_to_code) == (1000 / 6, None)
    assert "| tests to code | - |" in table({"inner": figures})


def test_one_column_a_package(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["code_figures", str(toy), str(toy / "inner")])
    main()
    header, _, files, *_ = capsys.readouterr().out.splitlines()
    assert (header, files) == ("|  | toy | inner |", "| files | 6 | 3 |")
    monkeypatch.setattr(sys, "argv", ["code_figures", str(toy), "--json"])
    main()
    assert json.loads(capsys.readouterr().out)["toy"]["class_names_with_several_meanings"] == 1


def test_a_folder_without_python_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["code_figures", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "must be a folder with Python files" in capsys.readouterr().err
