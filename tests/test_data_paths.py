import os
from pathlib import Path

import pytest

from hwnas.data_paths import DataFolder, data_search_path, find_data_folders
from hwnas.errors import InputError


def test_own_data_come_first_and_shipped_ones_last(tmp_path: Path) -> None:
    paths = data_search_path("profiles", environ={}, working=tmp_path / "w", package=tmp_path / "s" / "hwnas")
    assert paths == (
        (tmp_path / "w" / "profiles", "own"),
        (tmp_path / "s" / "hwnas" / "profiles", "shipped"),
        (tmp_path / "s" / "profiles", "shipped"),
    )


def test_a_checkout_as_working_folder_is_listed_once(tmp_path: Path) -> None:
    paths = data_search_path("profiles", environ={}, working=tmp_path, package=tmp_path / "hwnas")
    assert [origin for _, origin in paths] == ["own", "shipped"]


def test_a_variable_or_a_folder_replaces_the_default_path(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    environ = {"HWNAS_PREDICTORS": f"{first}{os.pathsep}{second}"}
    assert data_search_path("predictors", environ=environ) == ((first, "own"), (second, "own"))
    assert data_search_path("predictors", tmp_path, environ=environ) == ((tmp_path, "own"),)
    with pytest.raises(InputError, match="--predictors must name a folder of predictors"):
        data_search_path("predictors", tmp_path / "none", environ={})
    with pytest.raises(InputError, match="HWNAS_PREDICTORS must name folders of predictors"):
        data_search_path("predictors", environ={"HWNAS_PREDICTORS": str(tmp_path / "none")})
    with pytest.raises(InputError, match="cannot be read"):
        data_search_path("predictors", tmp_path / ("x" * 300), environ={})


def test_what_stands_in_the_place_of_the_file_is_found_to_be_refused_by_its_reader(tmp_path: Path) -> None:
    for name in ("folder", "pipe", "dangling"):
        (tmp_path / "toy" / name).mkdir(parents=True)
    (tmp_path / "toy/folder/card.json").mkdir()
    os.mkfifo(tmp_path / "toy/pipe/card.json")
    (tmp_path / "toy/dangling/card.json").symlink_to("nothing")
    found = find_data_folders(((tmp_path, "own"),), "*/*/card.json")
    assert [folder.name for folder in found] == ["toy/dangling", "toy/folder", "toy/pipe"]


def test_the_first_folder_of_a_name_is_found_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for folder in ("own/toy/a", "shipped/toy/a", "shipped/toy/b", "shipped/toy/.c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "card.json").touch()
    (tmp_path / "shipped/toy/d").mkdir()
    paths = ((tmp_path / "own", "own"), (tmp_path / "none", "own"), (tmp_path / "shipped", "shipped"))
    assert find_data_folders(paths, "*/*/card.json") == (  # type: ignore[arg-type]
        DataFolder(name="toy/a", path=tmp_path / "own/toy/a", origin="own"),
        DataFolder(name="toy/b", path=tmp_path / "shipped/toy/b", origin="shipped"),
    )
