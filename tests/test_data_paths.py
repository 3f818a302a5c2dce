import os
from pathlib import Path

import pytest

from hwnas.data_paths import data_search_path
from hwnas.errors import InputError


def test_own_data_comes_first_and_what_ships_last(tmp_path: Path) -> None:
    places = data_search_path(
        "data", variable="X", environ={}, working=tmp_path / "w", package=tmp_path / "s" / "hwnas"
    )
    assert places == (
        (tmp_path / "w" / "data", "own"),
        (tmp_path / "s" / "hwnas" / "data", "shipped"),
        (tmp_path / "s" / "data", "shipped"),
    )


def test_a_variable_or_a_folder_stands_in_place_of_all(tmp_path: Path) -> None:
    environ = {"X": f"a{os.pathsep}b"}
    assert data_search_path("data", variable="X", environ=environ) == ((Path("a"), "own"), (Path("b"), "own"))
    assert data_search_path("data", tmp_path, variable="X", environ=environ) == ((tmp_path, "own"),)
    with pytest.raises(InputError, match="--data must name a folder of data"):
        data_search_path("data", tmp_path / "none", variable="X", environ={})
