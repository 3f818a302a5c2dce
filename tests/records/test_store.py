import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.records import CampaignSession, Store, load_profile, to_line
from hwnas.records.profile import MEASUREMENTS
from hwnas.records.store import LOCK
from tests.records.rows import ENVIRONMENT, MANIFEST, SESSION, SETTING, changed, manifest, row


def open_store(path: Path, *, session: CampaignSession = SESSION) -> Store:
    return Store(path, manifest=MANIFEST, session=session)


def test_a_row_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    with open_store(tmp_path / "p") as store:
        assert store.profile.measurements == ()
        store.append(row(0))
        assert load_profile(tmp_path / "p").measurements == (row(0),)
        store.append(row(1))
    assert load_profile(tmp_path / "p").measurements == (row(0), row(1))


def test_every_row_is_written_through_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / "p") as store:
        store.append(row(0))
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", synced.append)
        store.append(row(1))
    assert len(synced) == 1


def test_a_store_goes_on_where_it_was_and_keeps_the_commands(tmp_path: Path) -> None:
    with open_store(tmp_path / "p") as store:
        store.append(row(0))
    more = replace(SESSION, command=("hwnas", "profile", "--samples", "9"))
    with open_store(tmp_path / "p", session=more) as store:
        assert store.profile.measurements == (row(0),)
        store.append(row(1))
    with open_store(tmp_path / "p", session=replace(SESSION, command=("nothing", "new"))):
        pass
    assert load_profile(tmp_path / "p").manifest.sessions == (SESSION, more)


@pytest.mark.parametrize("length", [1, 30, 400])
def test_a_torn_last_line_is_cut_off_and_told(tmp_path: Path, length: int) -> None:
    with open_store(tmp_path / "p") as store:
        store.append(row(0))
    with (tmp_path / "p" / MEASUREMENTS).open("a") as file:
        file.write(to_line(row(1))[:length])
    with open_store(tmp_path / "p") as store:
        assert f"its {length} bytes were cut off" in store.notes[0]
        store.append(row(2))
    assert load_profile(tmp_path / "p").measurements == (row(0), row(2))


def test_zeros_that_a_power_failure_left_are_cut_off(tmp_path: Path) -> None:
    with open_store(tmp_path / "p") as store:
        store.append(row(0))
    with (tmp_path / "p" / MEASUREMENTS).open("ab") as file:
        file.write(bytes(500))
    with open_store(tmp_path / "p") as store:
        assert "its 500 bytes were cut off" in store.notes[0]


def test_a_last_line_that_is_no_beginning_of_a_row_is_kept(tmp_path: Path) -> None:
    open_store(tmp_path / "p").close()
    (tmp_path / "p" / MEASUREMENTS).write_text("years of work")
    with pytest.raises(InputError, match="must end with a measurement"):
        open_store(tmp_path / "p")
    assert (tmp_path / "p" / MEASUREMENTS).read_text() == "years of work"


def test_a_row_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with open_store(tmp_path / "p") as store:
        with pytest.raises(InputError, match="started_utc must be a time"):
            store.append(replace(row(0), started_utc="1970-01-01T00:00:00+00:00"))
        store.append(row(1))
    assert load_profile(tmp_path / "p").measurements == (row(1),)


def test_a_last_line_that_lacks_only_its_break_is_kept(tmp_path: Path) -> None:
    with open_store(tmp_path / "p"):
        pass
    (tmp_path / "p" / MEASUREMENTS).write_text(to_line(row(0)))
    with open_store(tmp_path / "p") as store:
        assert store.profile.measurements == (row(0),)
        assert store.notes == ()
        store.append(row(1))
    assert load_profile(tmp_path / "p").measurements == (row(0), row(1))


def test_a_bad_line_in_the_middle_is_an_error_and_nothing_is_changed(tmp_path: Path) -> None:
    with open_store(tmp_path / "p") as store:
        store.append(row(0))
    path = tmp_path / "p" / MEASUREMENTS
    path.write_text("{}\n" + path.read_text())
    before = path.read_bytes()
    with pytest.raises(InputError, match="line 1 must hold a measurement"):
        open_store(tmp_path / "p")
    assert path.read_bytes() == before
    path.write_text(path.read_text().removeprefix("{}\n"))
    open_store(tmp_path / "p").close()  # the lock was given back


def test_a_line_of_another_schema_is_an_error(tmp_path: Path) -> None:
    with open_store(tmp_path / "p") as store:
        store.append(row(0))
    path = tmp_path / "p" / MEASUREMENTS
    path.write_text(path.read_text().replace("hwnas.measurement/2", "hwnas.measurement/7"))
    with pytest.raises(InputError, match="line 1 has an unsupported schema") as caught:
        open_store(tmp_path / "p")
    assert caught.value.got == '"hwnas.measurement/7"'
    assert caught.value.known == ("hwnas.measurement/2",)


def test_two_writers_at_once_are_refused_with_who_holds_it(tmp_path: Path) -> None:
    with open_store(tmp_path / "p"):
        code = (
            "import sys; from pathlib import Path; from hwnas.errors import InputError\n"
            "from tests.records.test_store import open_store\n"
            "try: open_store(Path(sys.argv[1]))\n"
            "except InputError as error: print(error)"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "p")], cwd=root, capture_output=True, text=True, check=True
        )
        assert "p is being written by another campaign" in done.stdout
        assert f"process {os.getpid()} on " in done.stdout
        with pytest.raises(InputError, match="another campaign"):
            open_store(tmp_path / "p")
    open_store(tmp_path / "p").close()


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / LOCK).write_text(json.dumps({"pid": 1, "host": "gone"}))
    with open_store(tmp_path / "p"):
        assert json.loads((tmp_path / "p" / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("wanted", "difference"),
    [
        (manifest({**ENVIRONMENT, "torch": "2.16.0"}), "torch: 2.15.0 recorded, 2.16.0 now"),
        (manifest({**ENVIRONMENT, "driver": "595"}), "driver: nothing recorded, 595 now"),
        (manifest(setting=changed(SETTING, batch=8)), "batch: 1 recorded, 8 now"),
        (manifest(space="glit-micro"), "space: autoformer-micro recorded, glit-micro now"),
    ],
)
def test_another_environment_is_refused_with_what_differs(tmp_path: Path, wanted: object, difference: str) -> None:
    open_store(tmp_path / "p").close()
    with pytest.raises(InputError, match="rows are not mixed") as caught:
        Store(tmp_path / "p", manifest=wanted, session=SESSION)  # type: ignore[arg-type]
    assert caught.value.got == difference
    assert "--new" in str(caught.value)


def test_the_exporter_of_the_manifest_alone_keeps_nothing_apart(tmp_path: Path) -> None:
    open_store(tmp_path / "p").close()
    other = manifest(setting=replace(SETTING, exporter="dynamo"))
    with_other = Store(tmp_path / "p", manifest=other, session=SESSION)
    with_other.close()
    assert with_other.profile.manifest.setting == SETTING


def test_measurements_without_a_manifest_are_refused(tmp_path: Path) -> None:
    (tmp_path / MEASUREMENTS).write_text(to_line(row(0)) + "\n")
    with pytest.raises(InputError, match=r"must hold a manifest\.json"):
        open_store(tmp_path)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:100])

    with open_store(tmp_path / "p") as store:
        store.append(row(0))
        before = (tmp_path / "p" / MEASUREMENTS).read_bytes()
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(InputError, match="cannot be written") as caught:
            store.append(row(1))
        assert caught.value.got == "No space left on device"
        assert (tmp_path / "p" / MEASUREMENTS).read_bytes() == before
        monkeypatch.undo()
        store.append(row(2))
    assert load_profile(tmp_path / "p").measurements == (row(0), row(2))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be locked"):
        open_store(tmp_path / "file" / "p")


@pytest.mark.parametrize("name", [MEASUREMENTS, LOCK])
def test_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    open_store(tmp_path / "p").close()
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "p" / name).unlink()
    (tmp_path / "p" / name).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(InputError, match=r"must not be a symbolic link|cannot be locked"):
        open_store(tmp_path / "p")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_measurements_must_be_an_ordinary_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    open_store(tmp_path / "p").close()
    (tmp_path / "p" / MEASUREMENTS).unlink()
    make(tmp_path / "p" / MEASUREMENTS)
    with pytest.raises(InputError, match=r"must be an ordinary file|cannot be written"):
        open_store(tmp_path / "p")
    with pytest.raises(InputError, match="must be an ordinary file"):
        load_profile(tmp_path / "p")


def test_nothing_is_cut_off_where_another_line_is_bad(tmp_path: Path) -> None:
    open_store(tmp_path / "p").close()
    path = tmp_path / "p" / MEASUREMENTS
    path.write_text("a file of another program\nwithout a last line break")
    before = path.read_bytes()
    with pytest.raises(InputError, match="line 1 is not JSON"):
        open_store(tmp_path / "p")
    assert path.read_bytes() == before


def test_a_row_of_another_environment_is_our_own_mistake(tmp_path: Path) -> None:
    with open_store(tmp_path / "p") as store, pytest.raises(ValueError, match="environment"):
        store.append(replace(row(0), environment_id="0" * 16))


@pytest.mark.parametrize("change", [{"batch": 8}, {"device": "toy-4c"}, {"precision": "fp16"}, {"threads": 2}])
def test_a_row_of_another_setting_is_neither_written_nor_read(tmp_path: Path, change: dict[str, object]) -> None:
    other = row(0, setting=changed(SETTING, **change))
    with open_store(tmp_path / "p") as store:
        with pytest.raises(ValueError, match="another deployment"):
            store.append(other)
        store.append(row(0, setting=replace(SETTING, exporter="dynamo")))
    with (tmp_path / "p" / MEASUREMENTS).open("a") as file:
        file.write(to_line(other) + "\n")
    for read in (open_store, load_profile):
        with pytest.raises(InputError, match=r"line 2 must be of the deployment in manifest\.json") as caught:
            read(tmp_path / "p")
        assert str(next(iter(change.values()))) in str(caught.value.got)
