"""Writing a profile: one writer at a time, every line on the disk before the next network is measured."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from hwnas.config import load_json, to_mapping
from hwnas.errors import HwnasError, InputError
from hwnas.metrics import Deployment
from hwnas.records.manifest import (
    MANIFEST,
    CampaignSession,
    ProfileManifest,
    read_manifest,
    with_session,
    write_manifest,
)
from hwnas.records.measurement import Measurement, from_line, to_line
from hwnas.records.profile import MEASUREMENTS, Profile, parse_lines, read_lines, split_lines

HOLDER = ".writer.json"
"""Who writes into a profile, while somebody does."""


class Store:
    """An open profile: what it holds, and the only way to add to it.

    `profile` is what stood there when it was opened; `notes` say what was repaired. The command is written into the
    manifest with the first measurement that it adds.
    """

    def __init__(self, path: Path, *, manifest: ProfileManifest, session: CampaignSession) -> None:
        """Open the profile in a folder, or make it; `manifest` says what is going to be measured.

        A profile of another setting or another environment is refused, and so is one that another process writes to.
        """
        self.path = path
        self._session: CampaignSession | None = session
        self._file = _locked(path, session)
        try:
            self.profile = self._opened(manifest)
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired when it was opened."""
        return self.profile.notes

    def append(self, measurement: Measurement) -> None:
        """Add one measurement; when this returns, it is on the disk."""
        if measurement.environment_id != self.profile.manifest.environment_id:
            raise ValueError(f"a row of environment {measurement.environment_id} in {self.path}")
        if measurement.setting.deployment != self.profile.manifest.setting.deployment:
            raise ValueError(f"a row of another deployment in {self.path}: {measurement.setting.deployment}")
        if self._session is not None:
            write_manifest(self.path, with_session(self.profile.manifest, self._session))
            self._session = None
        self._write(to_line(measurement).encode("utf-8") + b"\n")

    def close(self) -> None:
        """Let others write."""
        if self._file < 0:
            return
        (self.path / HOLDER).unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self, wanted: ProfileManifest) -> Profile:
        lines, rest = split_lines(read_lines(self.path / MEASUREMENTS))
        if not (self.path / MANIFEST).exists():
            _require_empty(self.path, lines)
            current = wanted
            write_manifest(self.path, current)
        else:
            current = read_manifest(self.path)
            _require_same(self.path, current, wanted)
        lines, notes = self._repaired(lines, rest)
        rows = parse_lines(lines, path=self.path / MEASUREMENTS, manifest=current)
        return Profile(self.path, current, rows, notes)

    def _repaired(self, lines: list[bytes], rest: bytes) -> tuple[list[bytes], tuple[str, ...]]:
        """Complete a last line that lacks only its line break, cut off any other that is torn."""
        if not rest:
            return lines, ()
        if _is_whole(rest):
            self._write(b"\n")
            return [*lines, rest], ()
        size = os.fstat(self._file).st_size - len(rest)
        os.ftruncate(self._file, size)
        os.fsync(self._file)
        cut = f"{self.path / MEASUREMENTS}: the last line was torn, and its {len(rest)} bytes were cut off"
        return lines, (cut,)

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)  # no half line stays behind
            raise _cannot_write(self.path, error) from error


def _locked(path: Path, session: CampaignSession) -> int:
    """The open and locked file of measurements; the lock goes with the process, however that ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = os.open(path / MEASUREMENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise _cannot_write(path, error) from error
    import fcntl  # reading a profile works on systems that lack it

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_holder(path, session)
    except BlockingIOError as error:
        os.close(file)
        hint = "wait for it, or measure into another folder with --out"
        raise InputError(f"{path} is being written by another campaign", got=_holder(path), hint=hint) from error
    except OSError as error:
        os.close(file)
        raise _cannot_write(path, error) from error
    return file


def _write_holder(path: Path, session: CampaignSession) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), **to_mapping(session)}
    (path / HOLDER).write_text(json.dumps(holder) + "\n", encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        holder = load_json(path / HOLDER)
    except HwnasError:  # it was just opened, or it has no such file: the lock alone decides
        return "a process that did not say who it is"
    if not isinstance(holder, dict):
        return "a process that did not say who it is"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('started_utc')}"


def _require_empty(path: Path, lines: list[bytes]) -> None:
    if lines:
        raise InputError(f"{path} must hold a {MANIFEST} beside its {MEASUREMENTS}", got=f"{len(lines)} lines alone")


def manifest_differences(current: ProfileManifest, wanted: ProfileManifest) -> dict[str, tuple[str, str]]:
    """What keeps rows of two manifests apart, by name: the value there, the value here; empty where nothing does."""
    return {
        **_unequal(_texts(current.setting.deployment), _texts(wanted.setting.deployment)),
        **_unequal({"space": current.space}, {"space": wanted.space}),
        **_unequal({"reference": current.reference.network_id}, {"reference": wanted.reference.network_id}),
        **_unequal(current.environment, wanted.environment),
    }


def _require_same(path: Path, current: ProfileManifest, wanted: ProfileManifest) -> None:
    """Rows of different settings or environments never stand in one profile."""
    pairs = manifest_differences(current, wanted)
    if pairs:
        shown = "; ".join(f"{name}: there {there}, here {here}" for name, (there, here) in pairs.items())
        hint = "--new for a profile of its own beside it, or --out for another folder"
        raise InputError(f"{path} was measured in another environment, and rows are not mixed", got=shown, hint=hint)


def _texts(deployment: Deployment) -> dict[str, str]:
    return {name: str(value) for name, value in to_mapping(deployment).items()}


def _unequal(there: Mapping[str, str | None], here: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    names = [*there, *(name for name in here if name not in there)]
    pairs = {name: (there.get(name) or "nothing", here.get(name) or "nothing") for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _is_whole(rest: bytes) -> bool:
    try:
        from_line(rest.decode("utf-8"), source="the last line")
    except (HwnasError, UnicodeDecodeError):
        return False
    return True


def _cannot_write(path: Path, error: OSError) -> InputError:
    hint = "what is measured is kept: once it can be written, the same command goes on"
    return InputError(f"{path} cannot be written", got=error.strerror or str(error), hint=hint)
