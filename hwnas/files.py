"""Files and folders as they are found in the world: names, reading, atomic writing, locks, errors of the system.

Data that comes from elsewhere names files, and files that come from elsewhere may be anything. This module is the only
place that turns a name from data into a path, and an exception of the system or of a library into an error with a
file name.
"""

import csv
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import sqlite3
import stat
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

from hwnas.errors import InputError, nearest

_log = logging.getLogger(__name__)

_MAX_BESIDE = 1000
"""Most paths beside a missing one that are compared with it."""

MAX_NAME = 100
"""Most characters in the name of a device, space, runtime or profile."""

_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}\Z")

_STREAM_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}

READ_ERRORS = (
    OSError,
    EOFError,
    UnicodeError,
    RecursionError,
    OverflowError,
    MemoryError,
    csv.Error,
    sqlite3.Error,
    struct.error,
    zlib.error,
)
"""Exceptions that reading or writing damaged files raises in the standard library."""

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

_REMEDIES = {
    errno.EACCES: "give yourself the permission, or name another folder",
    errno.EPERM: "give yourself the permission, or name another folder",
    errno.EROFS: "name a folder that can be written",
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), then run the same command again",
    errno.ENAMETOOLONG: "use a shorter name",
}


def require_file_name(name: str, *, what: str) -> str:
    """Return a name if it can be part of a path without leading out of its folder, and of a command line.

    Args:
        name: Name from a file or from the user.
        what: What it names, for the error message.

    Raises:
        InputError: The name has other characters than letters, digits and `-_.`, begins with a dot or a hyphen, or is
            too long.
    """
    if not _NAME.match(name):
        shown = ascii(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}...")
        message = f"{what} must have 1 to {MAX_NAME} letters, digits or -_. and no leading dot or hyphen"
        raise InputError(message, got=shown)
    return name


def path_within(root: Path, *parts: str | Path) -> Path:
    """Join parts from data to a folder.

    Raises:
        InputError: The path lies outside of the folder, also by a symbolic link.
    """
    path = root.joinpath(*parts)
    try:
        resolved, folder = absolute_path(path), absolute_path(root)
        inside = resolved != folder and resolved.is_relative_to(folder)
    except InputError:
        inside = False
    if not inside:
        linked = ".." not in path.parts and not any(Path(part).is_absolute() for part in parts)
        hint = "if a folder in it is a symbolic link, name the folder itself" if linked else None
        raise InputError(f"a path must stay within {root}", got=ascii("/".join(map(str, parts))), hint=hint)
    return path


def relative_path(path: Path) -> Path:
    """Return a path relative to the working folder, if it lies in it."""
    folder = Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def absolute_path(path: Path) -> Path:
    """Return the absolute path without symbolic links.

    Raises:
        InputError: Links lead in a circle, or the path is none.
    """
    with file_errors(path, "resolved", also=(RuntimeError, ValueError)):  # a circle of links, a NUL character
        return path.resolve()


def short_name(path: Path) -> str:
    """Return the name of a file with that of its folder, which is what files for others say of a path."""
    return "/".join(path.parts[-2:])


def nearest_path(path: Path, *, accept: Callable[[Path], bool] = Path.exists) -> Path | None:
    """Return the existing path that is spelled most like one that does not exist; None: none is similar.

    Args:
        path: The path; folders in it may be misspelled, too.
        accept: Returns True for a path that is looked for.
    """
    with suppress(OSError, ValueError):  # the path is that of an error already
        folder = path.parent if path.parent.is_dir() else nearest_path(path.parent, accept=Path.is_dir)
        if folder is None or folder == path:
            return None
        if accept(folder / path.name):
            return folder / path.name
        beside = islice(folder.iterdir(), _MAX_BESIDE)
        names = sorted(item.name for item in beside if not item.name.startswith(".") and accept(item))
        near = nearest(path.name, names)
        return None if near is None else folder / near
    return None


@contextmanager
def file_errors(path: Path | str, action: str = "read", *, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what the system and the standard library raise about a file into an error that names it.

    Args:
        path: The file or folder.
        action: What fails, as in "PATH cannot be ACTION".
        also: Exceptions of the library that is used on the file.

    Raises:
        InputError: In place of one of `READ_ERRORS` or `also`.
    """
    try:
        yield
    except READ_ERRORS + also as error:
        raise cannot(action, path, error) from error


def storage_failed(error: BaseException | None) -> bool:
    """Return True if an error, or what it was raised from, says that a disk is full or cannot be written.

    Such an error ends a command, where another one would be recorded as the failure of one network.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__
    return False


def cannot(action: str, path: Path | str, error: Exception) -> InputError:
    """Return the error that a file cannot be read, written or whatever `action` is."""
    number = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return InputError(f"{printable(path)} cannot be {action}", got=reason, hint=_REMEDIES.get(number or 0))


def printable(path: Path | str, *, limit: int = 300) -> str:
    """Return a path or line as text that every terminal and file can hold, also if its bytes are no valid text.

    Args:
        path: The path or line.
        limit: Most characters; of a longer text the middle is left out.
    """
    text = os.fspath(path)
    text = text if len(text) <= limit else f"{text[: limit - limit // 3]}...{text[-(limit // 5) :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def require_regular(path: Path) -> None:
    """Require that a path is an ordinary file, or a link to one. Opening a named pipe would wait for a writer.

    Raises:
        InputError: There is no such file, or it is a folder, pipe, socket or device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"there is no file {printable(path)}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise cannot("read", path, error) from error
    if not stat.S_ISREG(mode):
        kind = _STREAM_KINDS.get(stat.S_IFMT(mode), "something else")
        raise InputError(f"{printable(path)} must be an ordinary file", got=kind)


def read_bytes(path: Path, *, follow_links: bool = True) -> bytes:
    """Read an ordinary file.

    Args:
        path: The file.
        follow_links: False: a symbolic link is refused, as in a folder that came from elsewhere.

    Raises:
        InputError: It is missing, no ordinary file, or cannot be read.
    """
    if not follow_links:
        refuse_link(path)
    require_regular(path)
    with file_errors(path):
        return path.read_bytes()


def read_text(path: Path, *, follow_links: bool = True) -> str:
    """Read an ordinary file of UTF-8 text; see `read_bytes`."""
    _log.debug("reading %s", path)  # not of every image
    data = read_bytes(path, follow_links=follow_links)
    with file_errors(path):
        return data.decode("utf-8")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of an ordinary file in hexadecimal digits.

    Raises:
        InputError: It is missing, no ordinary file, or cannot be read.
    """
    require_regular(path)
    with file_errors(path), path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def refuse_link(path: Path) -> None:
    """Require that a path is no symbolic link: writing through one would change a file somewhere else.

    Raises:
        InputError: It is a link.
    """
    if path.is_symlink():
        hint = "remove the link, or copy the file that it points to in its place"
        raise InputError(f"{printable(path)} must not be a symbolic link", hint=hint)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file such that readers find either its old or its new content, even after a power failure.

    Raises:
        InputError: The file cannot be written, or a device, pipe or socket is in its place.
    """
    with file_errors(path, "written"):
        kind = _STREAM_KINDS.get(stat.S_IFMT(path.stat().st_mode)) if path.exists() else None
    if kind is not None:  # the rename below would put a file in its place, as root even in that of /dev/null
        raise InputError(f"{printable(path)} must be an ordinary file, or a new one", got=kind)
    # A rename within a folder is atomic; the two fsyncs order it after the content and make it durable.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        data = content.encode("utf-8") if isinstance(content, str) else content
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
        _log.debug("wrote %s, %d bytes", path, len(data))
    except (OSError, ValueError) as error:
        raise cannot("written", path, error) from error
    finally:
        # After a success it is gone; a folder that lost its permissions may refuse this too.
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the creation and renaming of files in a folder durable."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # network mounts may not have it for folders
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed calls of `write_atomic` left in a folder; the caller must be its only writer."""
    for leftover in folder.glob(".*.tmp"):
        if re.search(r"\.[0-9a-f]{12}\.tmp\Z", leftover.name):
            with suppress(OSError):
                leftover.unlink()


_LOCKS: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()
"""Locks of this process. A forked child must not keep one after its parent was killed."""


def _forget_locks() -> None:
    for lock in list(_LOCKS):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


class WriterLock:
    """The right to be the only writer of a folder, until it is closed or the process ends in any way.

    Args:
        path: Lock file, which stays and names its last holder.
        activity: What the holder does, for the error message: "campaign", "search", "training".
        message: The error message, if another process has the lock; None: the folder is being written.

    Raises:
        InputError: Another process holds the lock (it is named), or the file cannot be written.
    """

    def __init__(self, path: Path, *, activity: str, message: str | None = None) -> None:
        with file_errors(path, "locked", also=(ValueError,)):  # ValueError: a NUL character
            path.parent.mkdir(parents=True, exist_ok=True)
            # A link is not followed: a folder from elsewhere could point it at a file of the user.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        _LOCKS.add(self)
        try:
            self._lock(path, message or f"{printable(path.parent)} is being written by another {activity}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock."""
        if self._file >= 0:
            with suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_UN)  # forked processes may have the file open as well
            os.close(self._file)
        self._file = -1

    def forget(self) -> None:
        """Close the file in a forked child without releasing the lock of the parent."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> "WriterLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self, path: Path, message: str) -> None:
        if not _try_lock(self._file, path.parent):
            raise InputError(message, got=self._holder(), hint="wait until it has ended")
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with file_errors(path, "written"):
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, (json.dumps(holder) + "\n").encode())

    def _holder(self) -> str:
        try:
            holder = json.loads(os.pread(self._file, 1000, 0))
            return f"process {int(holder['pid'])} on {holder['host']!s:.100} since {holder['since']!s:.40}"
        except (OSError, ValueError, TypeError, KeyError):  # it has just locked the file and not written it yet
            return "a process that is not known"


def is_being_written(lock: Path) -> bool | None:
    """Return True if the process that last held a `WriterLock` is alive, without touching the lock.

    Returns:
        None where that is not known: the holder is on another host, or the file says nothing.
    """
    try:
        holder = json.loads(read_bytes(lock, follow_links=False)[:1000])
        number, host = int(holder["pid"]), holder["host"]
        if host != socket.gethostname() or number <= 0:
            return None
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    except (InputError, OSError, OverflowError, ValueError, TypeError, KeyError):
        return None
    return True


@contextmanager
def brief_lock(path: Path, *, timeout_s: float) -> Iterator[bool]:
    """Hold the lock of a file or folder while something small is written, after waiting for other processes.

    Args:
        path: A folder, or a file, which is made if there is none.
        timeout_s: Seconds to wait.

    Yields:
        False if another process still held the lock at the timeout.
    """
    # Neither a link is followed nor a named pipe waited for: the folder of the file may be shared.
    writable = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, os.O_RDONLY if path.is_dir() else writable, 0o644)
    try:
        deadline_s = time.monotonic() + timeout_s
        while not (is_locked := _try_lock(file, path)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        yield is_locked
    finally:
        os.close(file)


def _try_lock(file: int, path: Path) -> bool:
    """Lock an open file until it is closed; return False if another process holds the lock of it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some file systems of clusters have no locks, and NFS has none of folders
        _log.warning("%s cannot be locked (%s): do not write to it from two processes", path, error.strerror)
    return True
