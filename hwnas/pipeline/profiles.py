"""List and load profiles: what was measured, and its quality (`hwnas profiles`)."""

from dataclasses import dataclass, replace
from pathlib import Path

from hwnas.arguments import checked_arguments
from hwnas.data_paths import PROFILES, Origin, data_search_path
from hwnas.errors import HwnasError, InputError
from hwnas.frames import Columns, TabularResult, html_table
from hwnas.metrics import UNSPECIFIED, Deployment
from hwnas.profile.lookup import (
    ProfileEntry,
    TableEntry,
    UnreadableProfile,
    find_profile,
    scan_profiles,
    scan_tables,
)
from hwnas.profile.results import (
    MeasurementSummary,
    ProfileQuality,
    assess_profile,
    summarize_measurements,
    summary_columns,
)
from hwnas.profile.summary import read_quality
from hwnas.records import ProfileManifest
from hwnas.records.profile import load_profile as read_profile
from hwnas.records.table import read_table


@dataclass(frozen=True, kw_only=True)
class ProfileSummary:
    """One profile in a list. If its manifest cannot be read, only name, path, origin and device are known."""

    name: str
    path: Path
    origin: Origin
    deployment: Deployment
    space: str | None = None
    created_utc: str = ""
    num_networks: int = 0
    num_failed: int = 0
    noise_floor: float | None = None
    """Noise floor as a fraction (0.01 is one percent); None if too few networks were measured twice."""
    problem: str | None = None
    """Reason why it cannot be read; None if it can."""


@dataclass(frozen=True, kw_only=True)
class ProfileOverview:
    """One profile with its manifest and quality, without its measurements."""

    name: str
    path: Path
    origin: Origin
    manifest: ProfileManifest
    quality: ProfileQuality
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ProfileDetails(TabularResult):
    """One profile with its manifest, quality and results, one per measurement."""

    name: str
    path: Path
    origin: Origin
    manifest: ProfileManifest
    quality: ProfileQuality
    measurements: tuple[MeasurementSummary, ...]
    """In the order of measurement."""
    notes: tuple[str, ...]

    def _columns(self) -> Columns:
        return summary_columns(self.measurements)

    def __repr__(self) -> str:
        size = f"{len(self.measurements)} measurements of {self.quality.num_networks} networks"
        return f"ProfileDetails({self.name}: {size})"

    def _repr_html_(self) -> str:
        return html_table(self._columns(), title=repr(self))


@checked_arguments
def list_profiles(profiles: Path | None = None) -> tuple[ProfileSummary, ...]:
    """List all profiles: the user's own first, then those that ship with hwnas, then published tables.

    Args:
        profiles: Folder to search instead of the default search path.

    Returns:
        A summary of each profile. One that cannot be read is listed with its problem.
    """
    if profiles is not None and not profiles.is_dir():
        raise InputError(f"there is no folder {profiles}", hint="the folder that holds the folders of devices")
    paths = data_search_path(PROFILES, profiles)
    return (*map(_row, scan_profiles(paths)), *map(_table, scan_tables(paths)))


@checked_arguments
def load_profile(name: str | Path, *, profiles: Path | None = None) -> ProfileDetails:
    """Load one profile by name or path.

    Args:
        name: DEVICE/FOLDER, FOLDER alone if it is unambiguous, or the path of the profile.
        profiles: Folder to search instead of the default search path.

    Returns:
        Its manifest, quality and measurements; `to_frame()` has one row per measurement.

    Raises:
        UnknownNameError: There is no such profile.
        InputError: It cannot be read, its name is ambiguous, or it is a published table, which has no samples.
    """
    entry = _find(str(name), profiles)
    profile = read_profile(entry.path)
    return ProfileDetails(
        name=entry.name,
        path=entry.path,
        origin=entry.origin,
        manifest=profile.manifest,
        quality=assess_profile(profile),
        measurements=summarize_measurements(profile),
        notes=profile.notes,
    )


def describe_profile(name: str | Path, *, profiles: Path | None = None) -> ProfileOverview:
    """Describe one profile without loading its measurements; arguments and errors are those of `load_profile`."""
    entry = _find(str(name), profiles)
    assessed = read_quality(entry.path, entry.manifest)
    return ProfileOverview(
        name=entry.name,
        path=entry.path,
        origin=entry.origin,
        manifest=entry.manifest,
        quality=assessed.quality,
        notes=assessed.notes,
    )


def _find(name: str, profiles: Path | None) -> ProfileEntry:
    paths = data_search_path(PROFILES, profiles)
    for table in scan_tables(paths):
        if name in (table.name, table.path.name):
            if isinstance(table, UnreadableProfile):
                raise table.error
            message = f"{table.name} holds figures that others published, and no samples to assess"
            raise InputError(message, got=table.manifest.source, hint=f"{table.path}/table.json")
    return find_profile(name, paths)


def _row(entry: ProfileEntry | UnreadableProfile) -> ProfileSummary:
    if isinstance(entry, UnreadableProfile):
        return _unreadable(entry)
    try:
        return _summary(entry, read_quality(entry.path, entry.manifest).quality)
    except HwnasError as error:
        return _summary(entry, None, problem=_shown(error))


def _unreadable(entry: UnreadableProfile) -> ProfileSummary:
    try:
        deployment = Deployment(device=entry.path.parent.name)
    except InputError:  # a folder whose name no device can have
        deployment = UNSPECIFIED
    return ProfileSummary(
        name=entry.name, path=entry.path, origin=entry.origin, deployment=deployment, problem=_shown(entry.error)
    )


def _table(entry: TableEntry | UnreadableProfile) -> ProfileSummary:
    if isinstance(entry, UnreadableProfile):
        return _unreadable(entry)
    manifest = entry.manifest
    summary = ProfileSummary(
        name=entry.name,
        path=entry.path,
        origin=entry.origin,
        deployment=manifest.deployment,
        created_utc=manifest.created_utc,
    )
    try:
        _, rows = read_table(entry.path)
    except HwnasError as error:
        return replace(summary, problem=_shown(error))
    return replace(summary, num_networks=len(rows))


def _shown(error: HwnasError) -> str:
    return error.message if error.got is None else f"{error.message}, got {error.got}"


def _summary(entry: ProfileEntry, quality: ProfileQuality | None, *, problem: str | None = None) -> ProfileSummary:
    floor = quality.noise_floor if quality else None
    return ProfileSummary(
        name=entry.name,
        path=entry.path,
        origin=entry.origin,
        deployment=entry.manifest.setting.deployment,
        space=entry.manifest.space,
        created_utc=entry.manifest.created_utc,
        num_networks=quality.num_networks if quality else 0,
        num_failed=sum(failure.count for failure in quality.failures) if quality else 0,
        noise_floor=floor.mean_error if floor else None,
        problem=problem,
    )
