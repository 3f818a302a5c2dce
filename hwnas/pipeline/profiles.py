"""`hwnas profiles`: what was measured, here or by others, and how good it is."""

from dataclasses import dataclass
from pathlib import Path

from hwnas.profile.library import Entry, Origin, entries, find_entry, load_entry, search_path
from hwnas.profile.summary import Figures, Quality, assess, figures
from hwnas.records import ProfileManifest


@dataclass(frozen=True, kw_only=True)
class ProfileSummary:
    """One profile in a list."""

    name: str
    path: Path
    origin: Origin
    device: str
    space: str | None
    runtime: str
    precision: str
    batch: int
    threads: int
    created_utc: str
    num_networks: int
    num_failed: int
    noise_floor: float | None
    """A share, 0.01 is one percent; None where too few networks were measured twice."""


@dataclass(frozen=True, kw_only=True)
class ProfileDetails:
    """One profile in full."""

    name: str
    path: Path
    origin: Origin
    manifest: ProfileManifest
    quality: Quality
    figures: tuple[Figures, ...]
    notes: tuple[str, ...]


def list_profiles(profiles: Path | None = None) -> tuple[ProfileSummary, ...]:
    """All profiles that are found: own ones first, shipped ones last; `profiles` is a folder to look in instead."""
    return tuple(_summary(entry) for entry in entries(search_path(profiles)))


def show_profile(name: str, *, profiles: Path | None = None) -> ProfileDetails:
    """One profile by its name, DEVICE/FOLDER or FOLDER alone, or by its path."""
    entry = find_entry(name, search_path(profiles))
    profile = load_entry(entry)
    return ProfileDetails(
        name=entry.name,
        path=entry.path,
        origin=entry.origin,
        manifest=profile.manifest,
        quality=assess(profile),
        figures=figures(profile),
        notes=profile.notes,
    )


def _summary(entry: Entry) -> ProfileSummary:
    setting, quality = entry.manifest.setting, assess(load_entry(entry))
    return ProfileSummary(
        name=entry.name,
        path=entry.path,
        origin=entry.origin,
        device=setting.device,
        space=entry.manifest.space,
        runtime=setting.runtime,
        precision=setting.precision,
        batch=setting.batch,
        threads=setting.threads,
        created_utc=entry.manifest.created_utc,
        num_networks=quality.num_networks,
        num_failed=sum(failure.count for failure in quality.failures),
        noise_floor=None if quality.noise_floor is None else quality.noise_floor.mean_error,
    )
