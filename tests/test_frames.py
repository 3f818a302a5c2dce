"""Data frames with and without pandas, and tables for notebooks."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from hwnas.frames import html_table, to_frame

COLUMNS: dict[str, list[object]] = {"name": ["a", "b"], "value": [1.0, 2.5], "count": [1, 2], "missing": [None, 3.0]}


def test_columns_are_arrays_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.frames.find_spec", lambda name: None)
    frame = to_frame(COLUMNS)
    assert isinstance(frame, dict)
    assert {name: array.dtype for name, array in frame.items()} == {
        "name": object,
        "value": np.float64,
        "count": np.int64,
        "missing": object,
    }
    assert frame["missing"].tolist() == [None, 3.0]
    assert to_frame({"name": []})["name"].shape == (0,)


def test_columns_are_a_data_frame_with_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = ModuleType("pandas")
    pandas.__spec__ = ModuleSpec("pandas", None)
    pandas.DataFrame = lambda columns: ("frame", columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert to_frame(COLUMNS) == ("frame", COLUMNS)


def test_a_table_shows_the_first_rows_and_leaves_mappings_out() -> None:
    text = html_table({"name": ["<b>"] * 25, "value": [1234.5678] * 25, "arch": [{"depth": 1}] * 25}, title="a & b")
    assert text.startswith("<p>a &amp; b</p><table><tr><th>name</th><th>value</th></tr>")
    assert text.count("<td>&lt;b&gt;</td><td>1,234.57</td>") == 20
    assert text.endswith("<p>… 5 more</p>")
    assert html_table({}, title="none") == "<p>none</p><table><tr></tr></table>"
