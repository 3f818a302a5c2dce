"""Lists of image files: what the cache keeps, and that it is never trusted over the folder."""

import os
from pathlib import Path
from typing import Any

import pytest

from hwnas.train.data import folder_index
from hwnas.train.data.folder_index import FolderIndex

SUFFIXES = {".png", ".jpg"}


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, whose times count as settled and whose lists are cached whatever their size."""
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "MIN_CACHED", 1)
    monkeypatch.setattr(folder_index, "_SETTLED_NS", -(10**18))
    root = tmp_path / "images"
    for name in ("ant/a.png", "ant/deep/er/b.JPG", "ant/deep-er/c.png", "ant/notes.txt", "bee/d.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def files(root: Path) -> list[str]:
    index = FolderIndex.open(root, SUFFIXES)
    found = [*index.files("ant"), *index.files("bee")]
    index.save()
    return found


def num_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Open the folder; return how many of its folders were listed."""
    listed: list[Path] = []
    scan = folder_index._scan

    def count(folder: Path, *arguments: Any) -> Any:
        listed.append(folder)
        return scan(folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folder_index, "_scan", count)
        files(root)
    return len(listed)


def test_files_are_sorted_by_the_parts_of_their_paths(images: Path) -> None:
    assert files(images) == ["ant/a.png", "ant/deep/er/b.JPG", "ant/deep-er/c.png", "bee/d.png"]


def test_only_folders_that_have_changed_are_listed_again(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (num_listed(images, monkeypatch), num_listed(images, monkeypatch)) == (5, 0)
    (images / "bee" / "e.png").touch()
    (images / "ant" / "a.png").unlink()
    assert num_listed(images, monkeypatch) == 2
    assert files(images) == ["ant/deep/er/b.JPG", "ant/deep-er/c.png", "bee/d.png", "bee/e.png"]


def test_times_that_are_set_back_do_not_hide_a_change(images: Path) -> None:
    before = files(images)
    status = (images / "bee").stat()
    (images / "bee" / "e.png").touch()
    os.utime(images / "bee", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert files(images) == [*before, "bee/e.png"]


def test_a_folder_that_has_just_changed_is_not_trusted(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_index, "_SETTLED_NS", 10**12)
    assert (num_listed(images, monkeypatch), num_listed(images, monkeypatch)) == (5, 5)


@pytest.mark.parametrize("where", [8, 10])  # the flags of a member of the archive, and its method
def test_an_archive_that_zipfile_cannot_read_is_made_anew(images: Path, where: int) -> None:
    expected = files(images)
    (file,) = (images.parent / "cache" / "images").iterdir()
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + where] = 77
    file.write_bytes(content)
    assert files(images) == expected


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_cache_is_made_anew(images: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = files(images)
    (file,) = (images.parent / "cache" / "images").iterdir()
    content = file.read_bytes()
    assert content.count(b"PK\x01\x02") == 3
    file.write_bytes(content.replace(b"a.png", b"../../") if damage is None else damage)
    assert files(images) == expected
    assert num_listed(images, monkeypatch) == 0


def test_a_cache_that_cannot_be_written_only_costs_time(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (images.parent / "file").touch()
    monkeypatch.setenv("HWNAS_CACHE", str(images.parent / "file" / "cache"))
    assert len(files(images)) == 4


def test_names_that_are_not_utf8_are_cached(images: Path) -> None:
    Path(os.fsdecode(os.fsencode(images) + b"/bee/\xe9.png")).touch()
    assert files(images) == files(images)


def test_circles_of_links_are_not_followed(images: Path) -> None:
    before = files(images)
    (images / "ant" / "again").symlink_to(images)
    assert files(images) == before
