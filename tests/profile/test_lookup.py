from pathlib import Path

import pytest

from hwnas.data_paths import DataPaths
from hwnas.errors import InputError
from hwnas.profile.lookup import (
    UnreadableProfile,
    find_profile,
    free_name,
    numbered_profiles,
    profile_entries,
    profile_folder_name,
    scan_profiles,
)
from hwnas.records import Store
from tests.records.rows import MANIFEST, SESSION, SETTING, changed


def profile(path: Path) -> Path:
    Store(path, manifest=MANIFEST, session=SESSION).close()
    return path


def test_a_folder_is_named_after_space_and_deployment() -> None:
    setting = changed(SETTING, runtime="torch-graph", precision="bf16", batch=64)
    assert profile_folder_name("glit-tiny", setting) == "glit-tiny-torch-graph-bf16-b64-t1"
    assert profile_folder_name(None, setting) == "timm-torch-graph-bf16-b64-t1"


def test_profiles_of_one_name_are_numbered(tmp_path: Path) -> None:
    assert free_name(tmp_path, "a") == "a"
    for name in ("a", "a-10", "a-2", "a-b"):
        profile(tmp_path / name)
    assert free_name(tmp_path, "a") == "a-3"
    assert [folder.name for folder in numbered_profiles(tmp_path, "a")] == ["a", "a-2", "a-10"]


def test_profiles_are_found_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    profile(own / "toy" / "a")
    profile(shipped / "toy" / "a")
    profile(shipped / "toy" / "b")
    (shipped / "toy" / "no-profile").mkdir()
    found = profile_entries(((own, "own"), (shipped, "shipped"), (tmp_path / "none", "shipped")))
    assert [(entry.name, entry.path, entry.origin) for entry in found] == [
        ("toy/a", own / "toy" / "a", "own"),
        ("toy/b", shipped / "toy" / "b", "shipped"),
    ]
    assert found[0].manifest == MANIFEST


def test_a_profile_is_named_in_full_in_short_or_by_path(tmp_path: Path) -> None:
    places: DataPaths = ((tmp_path, "own"),)
    for name in ("toy/a", "toy/b", "other/b"):
        profile(tmp_path / name)
    assert find_profile("toy/b", places).path == tmp_path / "toy" / "b"
    assert find_profile("a", places).name == "toy/a"
    assert find_profile(str(tmp_path / "other" / "b"), ()).path == tmp_path / "other" / "b"
    with pytest.raises(InputError, match="must be named with its device") as caught:
        find_profile("b", places)
    assert caught.value.known == ("other/b", "toy/b")
    with pytest.raises(InputError, match="profile 'toy/c' is not known") as caught:
        find_profile("toy/c", places)
    assert caught.value.hint == "hwnas profiles show toy/b" or caught.value.hint == "hwnas profiles show toy/a"


def test_an_unknown_name_lists_the_folders_that_were_searched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not known") as caught:
        find_profile("x", ((tmp_path / "profiles", "own"),))
    assert caught.value.hint == f"hwnas profile to measure one; searched in {tmp_path / 'profiles'}"


def test_an_unreadable_profile_is_listed_and_does_not_hide_others(tmp_path: Path) -> None:
    profile(tmp_path / "toy" / "a")
    (profile(tmp_path / "toy" / "b") / "manifest.json").write_text("{")
    places: DataPaths = ((tmp_path, "own"),)
    good, broken = scan_profiles(places)
    assert (good.name, broken.name) == ("toy/a", "toy/b")
    assert isinstance(broken, UnreadableProfile)
    assert [entry.name for entry in profile_entries(places)] == ["toy/a"]
    assert find_profile("a", places).name == "toy/a"
    with pytest.raises(InputError, match="is not JSON"):
        find_profile("b", places)
