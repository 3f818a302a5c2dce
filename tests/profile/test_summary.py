import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.profile import summary
from hwnas.profile.results import ProfileQuality, assess_measurements, assess_profile
from hwnas.profile.summary import SUMMARY, read_quality
from hwnas.records import Measurement, Store, load_profile, to_line
from hwnas.records.profile import MEASUREMENTS
from tests.records.rows import MANIFEST, SESSION, failed, row


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(summary, "MIN_BYTES", 1)
    monkeypatch.setattr(summary, "_SETTLED_NS", -1_000_000_000)
    with Store(tmp_path / "p", manifest=MANIFEST, session=SESSION) as store:
        for measurement in (row(0), failed(1), row(2), failed(2), row(0, process_id="b", ns=2_100_000)):
            store.append(measurement)
    return tmp_path / "p"


@pytest.fixture
def num_assessed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were read by each assessment."""
    counts: list[int] = []
    real = assess_measurements

    def counted(rows: Iterator[Measurement]) -> ProfileQuality:
        measurements = tuple(rows)
        counts.append(len(measurements))
        return real(measurements)

    monkeypatch.setattr(summary, "assess_measurements", counted)
    return counts


def test_the_rows_are_read_once_and_the_summary_is_true_to_them(folder: Path, num_assessed: list[int]) -> None:
    expected = assess_profile(load_profile(folder))
    assert read_quality(folder, MANIFEST).quality == expected
    assert read_quality(folder, MANIFEST).quality == expected
    assert num_assessed == [5]
    with Store(folder, manifest=MANIFEST, session=SESSION) as store:
        store.append(row(3))
    assert read_quality(folder, MANIFEST).quality == assess_profile(load_profile(folder)) != expected
    assert num_assessed == [5, 6]


def test_a_change_that_hides_its_time_is_noticed(folder: Path) -> None:
    before = read_quality(folder, MANIFEST).quality
    path = folder / MEASUREMENTS
    status, text = path.stat(), path.read_text()
    path.write_text(text.replace("1000000", "1500000"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_quality(folder, MANIFEST).quality == assess_profile(load_profile(folder)) != before


def test_a_summary_that_came_with_a_copy_is_not_trusted(folder: Path, num_assessed: list[int]) -> None:
    expected = read_quality(folder, MANIFEST).quality
    data = json.loads((folder / SUMMARY).read_text())
    data["quality"]["num_networks"] = 1_000_000
    (folder / SUMMARY).write_text(json.dumps(data))
    data = (folder / MEASUREMENTS).read_bytes()
    (folder / MEASUREMENTS).unlink()
    (folder / MEASUREMENTS).write_bytes(data)
    assert read_quality(folder, MANIFEST).quality == expected
    assert num_assessed == [5, 5]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"schema": "hwnas.profile-summary/9"}', "[" * 100_000, "\xff"]
)
def test_a_damaged_summary_is_made_again(folder: Path, content: str) -> None:
    expected = read_quality(folder, MANIFEST)
    good = (folder / SUMMARY).read_bytes()
    (folder / SUMMARY).write_bytes(content.encode("latin-1"))
    assert read_quality(folder, MANIFEST) == expected
    assert (folder / SUMMARY).read_bytes() == good


def test_a_summary_that_is_a_pipe_or_a_link_is_replaced_and_not_followed(folder: Path, tmp_path: Path) -> None:
    expected = read_quality(folder, MANIFEST)
    (folder / SUMMARY).unlink()
    os.mkfifo(folder / SUMMARY)
    assert read_quality(folder, MANIFEST) == expected
    (tmp_path / "thesis.txt").write_text("years of work")
    (folder / SUMMARY).unlink()
    (folder / SUMMARY).symlink_to(tmp_path / "thesis.txt")
    assert read_quality(folder, MANIFEST) == expected
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_cannot_be_written_has_no_summary(folder: Path) -> None:
    (folder / SUMMARY).mkdir()
    assert read_quality(folder, MANIFEST).quality == assess_profile(load_profile(folder))


def test_an_incomplete_last_line_is_noted_each_time(folder: Path) -> None:
    with (folder / MEASUREMENTS).open("a") as file:
        file.write(to_line(row(4))[:50])
    first, second = read_quality(folder, MANIFEST), read_quality(folder, MANIFEST)
    assert first == second
    assert first.notes == load_profile(folder).notes


def test_a_bad_row_is_an_error_each_time(folder: Path) -> None:
    with (folder / MEASUREMENTS).open("a") as file:
        file.write("{}\n")
    for _ in range(2):
        with pytest.raises(InputError, match="line 6 must hold a measurement"):
            read_quality(folder, MANIFEST)
    assert not (folder / SUMMARY).exists()


def test_a_file_that_was_just_written_gets_no_summary_yet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "_SETTLED_NS", 60_000_000_000)
    assert read_quality(folder, MANIFEST).quality.num_networks == 2
    assert not (folder / SUMMARY).exists()


def test_a_small_profile_gets_no_summary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MIN_BYTES", 1 << 20)
    assert read_quality(folder, MANIFEST).quality.num_networks == 2
    (folder / MEASUREMENTS).unlink()
    assert read_quality(folder, MANIFEST).quality.num_networks == 0
    assert not (folder / SUMMARY).exists()
