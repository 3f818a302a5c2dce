"""Reading a profile: its manifest and its measurements, without a lock and without changing anything."""

import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.metrics import Deployment
from hwnas.records.manifest import MANIFEST, ProfileManifest, read_manifest
from hwnas.records.measurement import Measurement, from_line

_log = logging.getLogger(__name__)

MEASUREMENTS = "measurements.jsonl"
"""The lines of a profile."""


@dataclass(frozen=True)
class Profile:
    """A profile as it was read."""

    path: Path
    manifest: ProfileManifest
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()
    """What was wrong with it and could be left out."""

    @cached_property
    def measured(self) -> tuple[Measurement, ...]:
        """The rows that have samples."""
        return tuple(row for row in self.measurements if row.failure is None)

    @cached_property
    def failures(self) -> tuple[Measurement, ...]:
        """The rows of networks that could not be measured, one each, and in no later try either."""
        good = {row.subject.network_id for row in self.measured}
        last = {row.subject.network_id: row for row in self.measurements if row.failure is not None}
        return tuple(row for network_id, row in last.items() if network_id not in good)

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each network was measured, by its network_id."""
        return Counter(row.subject.network_id for row in self.measured)


def is_profile(folder: Path) -> bool:
    """Whether a folder holds a profile."""
    return (folder / MANIFEST).is_file()


def load_profile(folder: Path) -> Profile:
    """Read a profile; a line that is cut off at the end is left out and noted, any other bad line is an error."""
    if not is_profile(folder):
        what = "has no " + MANIFEST if folder.is_dir() else "is not there"
        raise InputError(f"{folder} must be the folder of a profile", got=f"it {what}", hint="hwnas profiles")
    manifest = read_manifest(folder)
    path = folder / MEASUREMENTS
    lines, rest = split_lines(read_lines(path))
    rows = parse_lines(lines, path=path, manifest=manifest)
    notes = (f"the last line of {path} is cut off and was left out",) if rest else ()
    _log.debug("read %s, %d rows", folder, len(rows))
    return Profile(folder, manifest, rows, notes)


def read_lines(path: Path) -> bytes:
    """The bytes of the file of measurements."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path} cannot be read", got=error.strerror or str(error)) from error


def split_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines, and what stands after the last line break."""
    *lines, rest = data.split(b"\n")
    return lines, rest


def parse_lines(lines: list[bytes], *, path: Path, manifest: ProfileManifest) -> tuple[Measurement, ...]:
    """The measurements in complete lines; all must be of the manifest's environment and deployment."""
    expected, deployment = manifest.environment_id, manifest.setting.deployment
    numbered = enumerate(lines, start=1)
    return tuple(
        _parsed(line, source=f"{path}, line {number}", expected=expected, deployment=deployment)
        for number, line in numbered
    )


def _parsed(line: bytes, *, source: str, expected: str, deployment: Deployment) -> Measurement:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not text", got=shown(line[:40].hex())) from error
    row = from_line(text, source=source)
    if row.environment_id != expected:
        message = f"{source} must be of the environment in {MANIFEST}"
        raise InputError(message, got=row.environment_id, known=[expected])
    if row.setting.deployment != deployment:
        message = f"{source} must be of the deployment in {MANIFEST}"
        raise InputError(message, got=row.setting.deployment, known=[str(deployment)])
    return row
