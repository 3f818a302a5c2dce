import os
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.profile.lookup import (
    UnreadableProfile,
    find_profile,
    folder_name,
    folders_of,
    free_name,
    profile_entries,
    scan_profiles,
    search_path,
)
from hwnas.records import Store
from tests.records.rows import MANIFEST, SESSION, SETTING, changed


def profile(path: Path) -> Path:
    Store(path, manifest=MANIFEST, session=SESSION).close()
    return path


def test_a_folder_says_what_was_measured_and_how() -> None:
    setting = changed(SETTING, runtime="torch-graph", precision="bf16", batch=64)
    assert folder_name("glit-tiny", setting) == "glit-tiny-torch-graph-bf16-b64-t1"
    assert folder_name(None, setting) == "timm-torch-graph-bf16-b64-t1"


def test_names_beside_each_other_are_numbered(tmp_path: Path) -> None:
    assert free_name(tmp_path, "a") == "a"
    for name in ("a", "a-10", "a-2", "a-b"):
        profile(tmp_path / name)
    assert free_name(tmp_path, "a") == "a-3"
    assert [folder.name for folder in folders_of(tmp_path, "a")] == ["a", "a-2", "a-10"]


def test_own_profiles_come_first_and_shipped_ones_last(tmp_path: Path) -> None:
    places = search_path(environ={}, working=tmp_path / "w", package=tmp_path / "site" / "hwnas")
    assert places == (
        (tmp_path / "w" / "profiles", "own"),
        (tmp_path / "site" / "hwnas" / "profiles", "shipped"),
        (tmp_path / "site" / "profiles", "shipped"),
    )


def test_the_checkout_as_working_folder_is_listed_once(tmp_path: Path) -> None:
    places = search_path(environ={}, working=tmp_path, package=tmp_path / "hwnas")
    assert [origin for _, origin in places] == ["own", "shipped"]


def test_a_variable_or_an_option_names_other_places(tmp_path: Path) -> None:
    environ = {"HWNAS_PROFILES": f"a{os.pathsep}b"}
    assert search_path(environ=environ) == ((Path("a"), "own"), (Path("b"), "own"))
    assert search_path(tmp_path, environ=environ) == ((tmp_path, "own"),)
    with pytest.raises(InputError, match="--profiles must name a folder"):
        search_path(tmp_path / "none", environ={})


def test_profiles_are_found_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    profile(own / "toy" / "a")
    profile(shipped / "toy" / "a")
    profile(shipped / "toy" / "b")
    (shipped / "toy" / "no-profile").mkdir()
    found = profile_entries([(own, "own"), (shipped, "shipped"), (tmp_path / "none", "shipped")])
    assert [(entry.name, entry.path, entry.origin) for entry in found] == [
        ("toy/a", own / "toy" / "a", "own"),
        ("toy/b", shipped / "toy" / "b", "shipped"),
    ]
    assert found[0].manifest == MANIFEST


def test_a_profile_is_named_in_full_in_short_or_by_path(tmp_path: Path) -> None:
    places = [(tmp_path, "own")]
    for name in ("toy/a", "toy/b", "other/b"):
        profile(tmp_path / name)
    assert find_profile("toy/b", places).path == tmp_path / "toy" / "b"  # type: ignore[arg-type]
    assert find_profile("a", places).name == "toy/a"  # type: ignore[arg-type]
    assert find_profile(str(tmp_path / "other" / "b"), []).path == tmp_path / "other" / "b"
    with pytest.raises(InputError, match="must be named with its device") as caught:
        find_profile("b", places)  # type: ignore[arg-type]
    assert caught.value.known == ("other/b", "toy/b")
    with pytest.raises(InputError, match="profile 'toy/c' is not known") as caught:
        find_profile("toy/c", places)  # type: ignore[arg-type]
    assert caught.value.hint == "hwnas profiles show toy/b" or caught.value.hint == "hwnas profiles show toy/a"


def test_where_nothing_is_the_error_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not known") as caught:
        find_profile("x", [(tmp_path / "profiles", "own")])
    assert caught.value.hint == f"hwnas profile to make one; looked in {tmp_path / 'profiles'}"


def test_a_broken_profile_is_found_and_keeps_no_other_from_being_found(tmp_path: Path) -> None:
    profile(tmp_path / "toy" / "a")
    (profile(tmp_path / "toy" / "b") / "manifest.json").write_text("{")
    places = [(tmp_path, "own")]
    good, broken = scan_profiles(places)  # type: ignore[arg-type]
    assert (good.name, broken.name) == ("toy/a", "toy/b")
    assert isinstance(broken, UnreadableProfile)
    assert [entry.name for entry in profile_entries(places)] == ["toy/a"]  # type: ignore[arg-type]
    assert find_profile("a", places).name == "toy/a"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not JSON"):
        find_profile("b", places)  # type: ignore[arg-type]
