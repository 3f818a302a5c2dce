"""Names, paths, reading, writing, locks and errors of files from elsewhere."""

import csv
import errno
import fcntl
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.files import (
    WriterLock,
    brief_lock,
    cannot,
    file_errors,
    nearest_path,
    path_within,
    printable,
    read_bytes,
    read_text,
    refuse_link,
    remove_temporaries,
    require_file_name,
    storage_failed,
    write_atomic,
)


@pytest.mark.parametrize("name", ["a", "A100-SXM4", "cpu_2.1", "_x", "x" * 100])
def test_names_of_letters_digits_and_a_few_signs_are_accepted(name: str) -> None:
    assert require_file_name(name, what="device") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", "../evil", "/abs", "a/b", "a\\b", "ü", "a b", "a\n", "a\0", "x" * 101]
)
def test_every_other_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="device must have 1 to 100 letters"):
        require_file_name(name, what="device")


def test_a_path_from_data_stays_within_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    assert path_within(root, "a", "b") == root / "a" / "b"
    for part in ("a/..", "../x", "/etc", "a/../../x", "link/x", ".", "a\0b"):
        with pytest.raises(InputError, match="must stay within"):
            path_within(root, part)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        sqlite3.OperationalError("database is locked"),
        csv.Error("field larger than field limit"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        RecursionError(),
        OverflowError("too large"),
        MemoryError(),
        EOFError(),
    ],
)
def test_exceptions_about_a_file_become_errors_that_name_it(error: Exception) -> None:
    with pytest.raises(InputError, match="study cannot be opened") as caught, file_errors("study", "opened"):
        raise error
    assert caught.value.got


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyError), file_errors("x"):
        raise KeyError("a bug")


def test_an_error_has_the_reason_and_a_remedy() -> None:
    error = cannot("written", "x", OSError(28, "No space left on device"))
    assert error.got == "No space left on device"
    assert "free some space" in str(error.hint)


def test_a_full_disk_is_known_by_what_an_error_was_raised_from() -> None:
    for error, failed in ((OSError(28, "full"), True), (OSError(2, "missing"), False), (ValueError(), False)):
        wrapped = InputError("x cannot be written")
        wrapped.__cause__ = error
        assert storage_failed(wrapped) == failed
    assert not storage_failed(None)


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ü", encoding="utf-8")
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "latin").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    assert read_text(tmp_path / "text") == read_text(tmp_path / "link") == "ü"
    for name in ("pipe", "socket", ".", "latin", "none", "a\0b", "x" * 300):
        with pytest.raises(InputError):
            read_text(tmp_path / name)
    with pytest.raises(InputError, match="got     a named pipe"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(InputError, match="symbolic link"):
        read_text(tmp_path / "link", follow_links=False)


def test_links_are_refused_where_they_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    refuse_link(tmp_path / "none")
    with pytest.raises(InputError, match="must not be a symbolic link"):
        refuse_link(tmp_path / "dangling")


def test_any_path_can_be_printed() -> None:
    assert printable("a\udcffb\nc\x1b[31m") == "a\\udcffb\\nc\\x1b[31m"
    assert printable(Path("größe")) == "größe"
    assert len(printable("x" * 5000)) < 300


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_the_system_refuses_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / name, "text")


def test_a_text_that_is_no_unicode_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "file", "\ud800")
    assert not list(tmp_path.iterdir())


def test_only_leftovers_of_killed_writes_are_removed(tmp_path: Path) -> None:
    keep = {"file", ".hidden", ".other.tmp"}
    for name in (*keep, ".file.0123456789ab.tmp"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert {item.name for item in tmp_path.iterdir()} == keep


def test_the_second_writer_of_a_folder_is_told_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    with (
        WriterLock(path, activity="search"),
        pytest.raises(InputError, match=r"new is being written by another search\n  got     process \d+ on .* since"),
    ):
        WriterLock(path, activity="search")
    WriterLock(path, activity="search").close()


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from hwnas.files import WriterLock; "
        "lock = WriterLock(pathlib.Path(sys.argv[1]), activity='x'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")]).returncode == -9
    WriterLock(tmp_path / ".lock", activity="search").close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, time, pathlib; from hwnas.files import WriterLock; "
        "lock = WriterLock(pathlib.Path(sys.argv[1]), activity='x'); child = os.fork(); "
        "(os.close(1), time.sleep(30), os._exit(0)) if child == 0 else (print(child, flush=True), time.sleep(0.2)); "
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True)
    try:
        lock = WriterLock(tmp_path / ".lock", activity="search")  # raises while another process holds it
        assert (tmp_path / ".lock").is_file()
        lock.close()
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    WriterLock(tmp_path / ".lock", activity="search").close()
    assert "do not write to it from two processes" in caplog.text


@pytest.mark.parametrize("name", ["", "file"])
def test_a_brief_lock_of_a_folder_or_file_waits_for_the_one_before(tmp_path: Path, name: str) -> None:
    with brief_lock(tmp_path / name, timeout_s=0) as first, brief_lock(tmp_path / name, timeout_s=0.1) as second:
        assert (first, second) == (True, False)
    with brief_lock(tmp_path / name, timeout_s=0) as third:
        assert third


def test_a_folder_that_cannot_be_locked_is_written_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:  # as NFS answers for a folder, which cannot be opened for writing
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refused)
    with brief_lock(tmp_path, timeout_s=0) as is_locked:
        assert is_locked
    assert f"{tmp_path} cannot be locked" in caplog.text


def test_a_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".lock").symlink_to("mine")
    with pytest.raises(InputError, match="cannot be locked"):
        WriterLock(tmp_path / ".lock", activity="search")
    assert (tmp_path / "mine").read_text() == "precious"


# ------------------------------------------------------------------------------------- write_atomic


@pytest.mark.parametrize("content", ["größer\n", b"\x00\xff"])
def test_write_atomic_writes_exactly_the_content(tmp_path: Path, content: str | bytes) -> None:
    write_atomic(tmp_path / "file", content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "file").read_bytes() == expected
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_write_atomic_makes_files_that_others_may_read(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "file", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_a_failure_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"file cannot be written\n  got     No space left on device"):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", "old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_process_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    code = (
        "import os, sys, pathlib; from hwnas.files import write_atomic; os.fsync = lambda d: os._exit(9); "
        "write_atomic(pathlib.Path(sys.argv[1]), 'new' * 100000)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")]).returncode == 9
    assert (tmp_path / "file").read_text() == "old"


def test_writing_into_a_missing_folder_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/file cannot be written") as caught:
        write_atomic(tmp_path / "nowhere" / "file", "text")
    assert caught.value.got == "No such file or directory"


def test_a_pipe_a_device_and_a_link_to_one_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "null", "folder"):
        with pytest.raises(InputError, match="must be an ordinary file, or a new one"):
            write_atomic(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_symlink()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["folder", "null", "pipe"]


def test_the_nearest_path_is_spelled_alike(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train.parquet").touch()
    (tmp_path / "photo").touch()
    found = tmp_path / "photos" / "train.parquet"
    assert nearest_path(tmp_path / "photos" / "tran.parquet") == found
    assert nearest_path(tmp_path / "fotos" / "train.parquet") == found
    assert nearest_path(tmp_path / "photoss", accept=Path.is_file) == tmp_path / "photo"
    assert nearest_path(tmp_path / "photos" / "xyz") is None
    assert nearest_path(tmp_path / "elsewhere" / "train.parquet") is None
    assert nearest_path(tmp_path / "nul\0") is None
