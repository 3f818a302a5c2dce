"""Write a profile: one writer at a time, and every line on the disk before the next network is measured."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from hwnas.config import shown, to_mapping
from hwnas.errors import HwnasError, InputError
from hwnas.files import WriterLock, file_errors, refuse_link, remove_temporaries, require_regular
from hwnas.records.manifest import MANIFEST, CampaignSession, ProfileManifest, read_manifest, write_manifest
from hwnas.records.measurement import Measurement, from_line, to_line
from hwnas.records.profile import MEASUREMENTS, Profile, parse_lines, read_lines

if TYPE_CHECKING:
    from typing import Self

_BEGINNING = b'{"schema":"hwnas.measurement/'

LOCK = ".writer.json"
"""The lock file of a profile, which names the process that writes to it."""


class Store:
    """A profile that is open for writing.

    Opening locks the profile and repairs its last line if a killed campaign left it incomplete. The session is written
    to the manifest along with the first measurement that it adds.

    Args:
        path: Folder of the profile. It is created if it does not exist.
        manifest: What is going to be measured.
        session: The command that measures.

    Raises:
        InputError: Another process writes to the profile, it was measured in another environment or deployment, or it
            cannot be read or written.
    """

    profile: Profile
    """The profile as it was when it was opened."""

    def __init__(self, path: Path, *, manifest: ProfileManifest, session: CampaignSession) -> None:
        self.path = path
        self._session: CampaignSession | None = session
        self._file = -1
        self._lock = WriterLock(path / LOCK, activity="campaign")
        try:
            remove_temporaries(path)
            self._file = _open_measurements(path / MEASUREMENTS)
            self.profile = self._load(manifest)
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """Repairs that were made when it was opened."""
        return self.profile.notes

    def append(self, measurement: Measurement) -> None:
        """Add one measurement. It is on the disk when this method returns.

        Raises:
            InputError: The profile cannot be written, or the measurement could not be read again, as with a clock that
                is years late. The profile then holds what it held before.
        """
        if measurement.environment_id != self.profile.manifest.environment_id:
            raise ValueError(f"a row of environment {measurement.environment_id} in {self.path}")
        if measurement.setting.deployment != self.profile.manifest.setting.deployment:
            raise ValueError(f"a row of another deployment in {self.path}: {measurement.setting.deployment}")
        line = to_line(measurement)
        from_line(line, source=f"a new line of {self.path / MEASUREMENTS}")
        # The manifest comes first: killed in between, it names a session without rows, which does no harm. In the other
        # order, there could be rows without the command that measured them.
        if self._session is not None:
            manifest = self.profile.manifest
            write_manifest(self.path, replace(manifest, sessions=(*manifest.sessions, self._session)))
            self._session = None
        self._write(line.encode("utf-8") + b"\n")

    def close(self) -> None:
        """Release the lock."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._lock.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, manifest: ProfileManifest) -> Profile:
        """Read the profile, or create it with a manifest; all checks come before anything is changed."""
        lines, rest = read_lines(self.path / MEASUREMENTS)
        if (self.path / MANIFEST).exists():
            recorded = read_manifest(self.path)
            differences = manifest_differences(recorded, manifest)
            if differences:
                message = f"{self.path} was measured in another environment, and rows are not mixed"
                hint = "--new for a new profile next to it, or --out for another folder"
                raise InputError(message, got="; ".join(differences), hint=hint)
        elif lines:
            message = f"{self.path} must hold a {MANIFEST} along with its {MEASUREMENTS}"
            raise InputError(message, got=f"{len(lines)} lines alone")
        else:
            recorded = manifest
            write_manifest(self.path, recorded)
        rows = parse_lines(lines, path=self.path / MEASUREMENTS, manifest=recorded)
        repaired, notes = self._repair(rest)
        return Profile(self.path, recorded, (*rows, *repaired), notes)

    def _repair(self, rest: bytes) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
        """Complete a last line that lacks only its line break, and cut off any other incomplete one."""
        path = self.path / MEASUREMENTS
        if not rest:
            return (), ()
        try:
            row = from_line(rest.decode("utf-8"), source=f"{path}, the last line")
        except (HwnasError, UnicodeDecodeError) as error:
            # A line that is no beginning of a row (nor zeros, which a power failure leaves) is not of our making.
            if rest.strip(b"\0") and rest[: len(_BEGINNING)] != _BEGINNING[: len(rest)]:
                raise InputError(f"{path} must end with a measurement", got=shown(rest[:40].hex(" "))) from error
            with file_errors(path, "repaired"):
                os.ftruncate(self._file, os.fstat(self._file).st_size - len(rest))
                os.fsync(self._file)
            return (), (f"{path}: the last line was incomplete, its {len(rest)} bytes were cut off",)
        self._write(b"\n")
        return (row,), ()

    def _write(self, data: bytes) -> None:
        before, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(data):  # a write may be partial
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except BaseException as error:  # also an interrupt between two partial writes: leave no partial line
            if isinstance(error, OSError) or written < len(data):
                with suppress(OSError):
                    os.ftruncate(self._file, before)
            if isinstance(error, OSError):
                raise _write_error(self.path, error) from error
            raise


def manifest_differences(recorded: ProfileManifest, current: ProfileManifest) -> tuple[str, ...]:
    """Return the differences that keep measurements out of a profile, such as "torch: 2.15.0 recorded, 2.16.0 now".

    The exporter does not count: a space's networks and timm models in one profile have different ones.

    Args:
        recorded: Manifest of the profile.
        current: Manifest of what is going to be measured.
    """
    pairs = ((_identity(recorded), _identity(current)), (recorded.environment, current.environment))
    return tuple(
        f"{name}: {before.get(name, 'nothing')} recorded, {now.get(name, 'nothing')} now"
        for before, now in pairs
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def _identity(manifest: ProfileManifest) -> Mapping[str, str]:
    values = {**to_mapping(manifest.setting.deployment), "space": manifest.space}
    values["reference"] = manifest.reference.network_id
    return {name: str(value) for name, value in values.items() if value is not None}


def _open_measurements(path: Path) -> int:
    """Open the file of measurements for appending; create it if there is none.

    A link is not followed: in a profile that came from elsewhere it could lead to any file of the user.
    """
    refuse_link(path)
    try:
        # Without blocking, because a named pipe would otherwise wait for its other end.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.open(path, flags, 0o644)
    except OSError as error:
        raise _write_error(path.parent, error) from error
    try:
        require_regular(path)
    except BaseException:
        os.close(file)
        raise
    return file


def _write_error(path: Path, error: OSError) -> InputError:
    hint = "all measurements so far are kept; once the folder can be written, the same command resumes"
    return InputError(f"{path} cannot be written", got=error.strerror or str(error), hint=hint)
