"""Manifests of profiles: what was measured, on which machine, with which software, and by which commands."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwnas.config import FileName, UtcTime, from_mapping, load_json, require_schema, shown, to_mapping
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.records.measurement import MEASURE_AGAIN, Setting, Subject

SCHEMA = "hwnas.profile/2"
"""Schema that this version writes and reads."""

MANIFEST = "manifest.json"
"""The file that marks a folder as a profile."""

_ID_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class CampaignSession:
    """One command that added measurements to a profile."""

    started_utc: UtcTime
    command: tuple[str, ...]
    commit: str | None = None
    """Git commit of hwnas, if it is a checkout."""
    modified: bool | None = None
    """The checkout had uncommitted changes."""
    planned: int | None = None
    """Measurements that the plan had when the command began, with those of earlier sessions."""


@dataclass(frozen=True, kw_only=True)
class ProfileManifest:
    """The properties that all rows of a profile share."""

    schema: str = SCHEMA
    space: FileName | None
    """Space of the networks; None for timm models alone."""
    created_utc: UtcTime
    setting: Setting
    """Setting of every row; the exporter is that of the space's networks."""
    sessions: tuple[CampaignSession, ...] = ()
    reference: Subject
    """The network that alternates with every measured one."""
    environment: Mapping[str, str]
    """Everything but the network that affects its speed: device, driver, versions."""
    device: Mapping[str, object]
    """Known properties of the device: peak rates, bandwidth, memory."""

    @property
    def environment_id(self) -> str:
        """Digest of the environment, stated in every row."""
        return environment_id(self.environment)


def environment_id(environment: Mapping[str, str]) -> str:
    """Return a digest of the facts of an environment."""
    text = json.dumps(dict(environment), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def torch_version(environment: Mapping[str, str]) -> tuple[int, ...]:
    """Return the numbers of the torch of an environment, whose order is that of the versions; empty without torch."""
    release = re.match(r"\d+(\.\d+)*", environment.get("torch", ""), re.ASCII)
    return tuple(int(number) for number in release[0].split(".")) if release else ()


def read_manifest(folder: Path) -> ProfileManifest:
    """Read the manifest of a profile.

    Raises:
        InputError: The folder holds no profile of this schema.
    """
    path = folder / MANIFEST
    data = load_json(path)
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{path} is not the manifest of a profile", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=str(path), hint=MEASURE_AGAIN)
    return from_mapping(ProfileManifest, data, where=f"{path}: manifest")


def write_manifest(folder: Path, manifest: ProfileManifest) -> None:
    """Write the manifest of a profile atomically."""
    text = json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / MANIFEST, text + "\n")
