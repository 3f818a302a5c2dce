"""What a profile says about itself: what was measured, where, with which software, and by which commands."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hwnas.config import from_mapping, load_json, shown, to_mapping
from hwnas.errors import InputError
from hwnas.records.measurement import MEASURE_AGAIN, Setting, Subject, parse_subject, require_schema
from hwnas.runs import write_atomic

SCHEMA = "hwnas.profile/2"
"""The form of the manifest that this version writes and reads."""

MANIFEST = "manifest.json"
"""The file that makes a folder a profile."""

_ID_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class CampaignSession:
    """One command that added measurements."""

    started_utc: str
    command: tuple[str, ...]
    commit: str | None = None
    """The git commit of hwnas, where it is a checkout."""
    modified: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _Core:
    schema: str = SCHEMA
    space: str | None
    """The space of the networks; None: models of timm alone."""
    created_utc: str
    setting: Setting
    """Of every row; the exporter is that of the space's networks."""
    sessions: tuple[CampaignSession, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProfileManifest(_Core):
    """What every row of a profile has in common."""

    reference: Subject
    """The network that is timed in strict pairs with every other."""
    environment: Mapping[str, str]
    """What decides how fast a network runs here, apart from the network: device, driver, versions."""
    device: Mapping[str, object]
    """What is known of the device: peak rates, bandwidth, memory."""

    @property
    def environment_id(self) -> str:
        """The digest that every row carries."""
        return environment_id(self.environment)


def environment_id(environment: Mapping[str, str]) -> str:
    """A digest of the facts of an environment."""
    text = json.dumps(dict(environment), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def read_manifest(folder: Path) -> ProfileManifest:
    """The manifest of the profile that stands in a folder."""
    path = folder / MANIFEST
    data = load_json(path)
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{path} is not the manifest of a profile", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=str(path), hint=MEASURE_AGAIN)
    tables = {name: data.pop(name, None) for name in ("reference", "environment", "device")}
    core = from_mapping(_Core, data, where=str(path))
    return ProfileManifest(
        **{name: getattr(core, name) for name in _Core.__dataclass_fields__},
        reference=parse_subject(tables["reference"], where=f"{path}: reference"),
        environment=_texts(tables["environment"], where=f"{path}: environment"),
        device=_table(tables["device"], where=f"{path}: device"),
    )


def write_manifest(folder: Path, manifest: ProfileManifest) -> None:
    """Write the manifest of a profile, all or nothing."""
    text = json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / MANIFEST, text + "\n")


def with_session(manifest: ProfileManifest, session: CampaignSession) -> ProfileManifest:
    """The manifest with one more command in it."""
    return replace(manifest, sessions=(*manifest.sessions, session))


def _table(values: object, *, where: str) -> dict[str, object]:
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a table of named values", got=shown(values))
    return values


def _texts(values: object, *, where: str) -> dict[str, str]:
    table = _table(values, where=where)
    wrong = {name: value for name, value in table.items() if not isinstance(value, str)}
    if wrong:
        raise InputError(f"{where}: every fact must be a text", got=shown(wrong))
    return {name: str(value) for name, value in table.items()}
