"""Read a profile: its manifest and its measurements, without a lock and without changing anything."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.files import file_errors, read_bytes
from hwnas.records.manifest import MANIFEST, ProfileManifest, read_manifest
from hwnas.records.measurement import Measurement, from_line

MEASUREMENTS = "measurements.jsonl"
"""The file of measurements, one per line."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Profile:
    """Manifest and measurements of a profile."""

    path: Path
    manifest: ProfileManifest
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()
    """Damage that was ignored or repaired."""

    @cached_property
    def measured(self) -> tuple[Measurement, ...]:
        """The rows that have samples."""
        return tuple(row for row in self.measurements if row.failure is None)

    @cached_property
    def failures(self) -> tuple[Measurement, ...]:
        """The last row of each network that was never measured successfully."""
        succeeded = {row.subject.network_id for row in self.measured}
        last = {row.subject.network_id: row for row in self.measurements if row.failure is not None}
        return tuple(row for network_id, row in last.items() if network_id not in succeeded)

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of successful measurements by network_id."""
        return Counter(row.subject.network_id for row in self.measured)


def is_profile(folder: Path) -> bool:
    """Return True if a folder holds a profile."""
    with file_errors(folder / MANIFEST):
        return (folder / MANIFEST).is_file()


def load_profile(folder: Path) -> Profile:
    """Read a profile.

    Returns:
        The profile. An incomplete last line, which a killed campaign leaves, is ignored and noted.

    Raises:
        InputError: The folder holds no profile, its schema is not supported, or a line is invalid.
    """
    if not is_profile(folder):
        problem = f"has no {MANIFEST}" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder} must be the folder of a profile", got=f"it {problem}", hint="hwnas profiles")
    manifest = read_manifest(folder)
    path = folder / MEASUREMENTS
    lines, rest = read_lines(path)
    rows = parse_lines(lines, path=path, manifest=manifest)
    notes = (_incomplete_note(path),) if rest else ()
    _log.debug("read %s, %d rows", folder, len(rows))
    return Profile(folder, manifest, rows, notes)


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """Read the complete lines of a file, and what follows the last line break; nothing if there is no file."""
    with file_errors(path):
        exists = path.exists()
    *lines, rest = read_bytes(path).split(b"\n") if exists else [b""]
    return lines, rest


def parse_lines(lines: list[bytes], *, path: Path, manifest: ProfileManifest) -> tuple[Measurement, ...]:
    """Parse complete lines, and require that all have the environment and the deployment of the manifest."""
    environment_id = manifest.environment_id
    return tuple(
        _parse_line(line, f"{path}, line {number}", environment_id, manifest)
        for number, line in enumerate(lines, start=1)
    )


def stream_measurements(
    lines: Iterable[bytes], *, path: Path, manifest: ProfileManifest, notes: list[str]
) -> Iterator[Measurement]:
    """Yield the measurements in the lines of a file, of which only one at a time is in memory.

    Args:
        lines: The lines.
        path: Path of the file, for messages.
        manifest: Manifest of the profile.
        notes: Gets a note if the last line is incomplete, which is then ignored.

    Raises:
        InputError: A line is invalid, or of another environment or deployment than the manifest.
    """
    environment_id = manifest.environment_id
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            notes.append(_incomplete_note(path))
            return
        yield _parse_line(line, f"{path}, line {number}", environment_id, manifest)


def _incomplete_note(path: Path) -> str:
    return f"the last line of {path} is incomplete and was ignored"


def _parse_line(line: bytes, source: str, environment_id: str, manifest: ProfileManifest) -> Measurement:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not text", got=shown(line[:40].hex())) from error
    row, deployment = from_line(text, source=source), manifest.setting.deployment
    if row.environment_id != environment_id:
        message = f"{source} must be of the environment in {MANIFEST}"
        raise InputError(message, got=row.environment_id, known=[environment_id])
    if row.setting.deployment != deployment:
        message = f"{source} must be of the deployment in {MANIFEST}"
        raise InputError(message, got=row.setting.deployment, known=[str(deployment)])
    return row
