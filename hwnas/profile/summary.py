"""Quality of a profile without reading all of its rows again: a summary is kept next to a large file of measurements.

    PROFILE/.summary.json    quality of the rows, and the state of the file of measurements that it was made from

The summary is never required. It is trusted only while the file is, by its size, times and inode, the very one that it
was made from; a copy of a profile is read again.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from hwnas.config import from_mapping, load_json, to_mapping
from hwnas.errors import InputError
from hwnas.files import file_errors, read_bytes, require_regular, write_atomic
from hwnas.profile.results import ProfileQuality, assess_measurements
from hwnas.records import ProfileManifest
from hwnas.records.manifest import MANIFEST
from hwnas.records.profile import MEASUREMENTS, stream_measurements
from hwnas.runs import hwnas_version

SCHEMA = "hwnas.profile-summary/2"
"""To be raised whenever `assess_measurements` gives other figures for the same rows."""

SUMMARY = ".summary.json"

MIN_BYTES = 4 << 20
"""Smallest file of measurements with a summary; a smaller one is read in less than a second."""

_MAX_SUMMARY_BYTES = 1 << 20
_END_BYTES = 1 << 16

_SETTLED_NS = 2_000_000_000
"""Age of a file above which any change gives it another time: file systems count time in steps of up to two seconds."""


@dataclass(frozen=True, kw_only=True)
class AssessedProfile:
    """Quality of a profile, and notes on damage that was ignored."""

    quality: ProfileQuality
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _FileState:
    """State of a file of measurements and its manifest. Only the owner of the machine can forge the time of change."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    ends: str
    """Digest of its first and last bytes."""
    manifest: str
    """Digest of the manifest."""


@dataclass(frozen=True, kw_only=True)
class _Summary:
    schema: str = SCHEMA
    hwnas: str
    file: _FileState
    quality: ProfileQuality
    notes: tuple[str, ...]


def read_quality(folder: Path, manifest: ProfileManifest) -> AssessedProfile:
    """Return the quality of a profile, from its summary if it has one that is up to date.

    Args:
        folder: Folder of the profile.
        manifest: Its manifest.

    Raises:
        InputError: A row is invalid, or the file of measurements cannot be read.
    """
    path = folder / MEASUREMENTS
    with file_errors(path):
        if not path.exists():
            return AssessedProfile(quality=assess_measurements(()))
    require_regular(path)
    with file_errors(path), path.open("rb") as file:
        state = _file_state(file, folder)
        summary = _read_summary(folder, state) if state.size >= MIN_BYTES else None
        if summary is not None:
            return AssessedProfile(quality=summary.quality, notes=summary.notes)
        notes: list[str] = []
        digest = hashlib.sha256()
        lines = _hashed(file, digest)
        quality = assess_measurements(stream_measurements(lines, path=path, manifest=manifest, notes=notes))
        # While a campaign adds rows there is no summary: it would be of a file that is no more. A file that was changed
        # just before it was read must still have the same bytes now that its times have settled.
        settled = state.size >= MIN_BYTES and _is_settled(state)
        if settled and _sha256(file) == digest.hexdigest() and _file_state(file, folder) == state:
            _write_summary(folder, _Summary(hwnas=hwnas_version(), file=state, quality=quality, notes=tuple(notes)))
    return AssessedProfile(quality=quality, notes=tuple(notes))


def _read_summary(folder: Path, state: _FileState) -> _Summary | None:
    """The summary of a folder; None if there is none, it is damaged, or it is that of another file or version."""
    path = folder / SUMMARY
    try:
        with file_errors(path):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_SUMMARY_BYTES:
                return None
        summary = from_mapping(_Summary, load_json(path))
    except InputError:
        return None
    valid = (summary.schema, summary.hwnas, summary.file) == (SCHEMA, hwnas_version(), state)
    return summary if valid else None


def _write_summary(folder: Path, summary: _Summary) -> None:
    # A folder that cannot be written, or figures that are no numbers of JSON: then there is none.
    with suppress(InputError, ValueError):
        write_atomic(folder / SUMMARY, json.dumps(to_mapping(summary), allow_nan=False) + "\n")


def _hashed(lines: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for line in lines:
        digest.update(line)
        yield line


def _sha256(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _is_settled(state: _FileState) -> bool:
    return max(state.mtime_ns, state.ctime_ns) < time.time_ns() - _SETTLED_NS


def _file_state(file: BufferedReader, folder: Path) -> _FileState:
    status = os.fstat(file.fileno())
    first = os.pread(file.fileno(), _END_BYTES, 0)
    last = os.pread(file.fileno(), _END_BYTES, max(0, status.st_size - _END_BYTES))
    return _FileState(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        ends=hashlib.sha256(first + last).hexdigest(),
        manifest=hashlib.sha256(read_bytes(folder / MANIFEST)).hexdigest(),
    )
