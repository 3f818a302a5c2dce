"""Measurements with raw samples and their context, and the folders that store them.

A profile is a folder of one device, one runtime and one batch:

    PROFILE/manifest.json         what was measured, where, with which software, by which commands
    PROFILE/measurements.jsonl    one line a measurement, failures included, in the order in which they were made
"""

from hwnas.records.manifest import CampaignSession, ProfileManifest, environment_id
from hwnas.records.measurement import (
    DeviceState,
    Failure,
    Measurement,
    OutputParity,
    Reason,
    Samples,
    Setting,
    Subject,
    from_line,
    to_line,
)
from hwnas.records.profile import Profile, is_profile, load_profile
from hwnas.records.store import Store

__all__ = [
    "CampaignSession",
    "DeviceState",
    "Failure",
    "Measurement",
    "OutputParity",
    "Profile",
    "ProfileManifest",
    "Reason",
    "Samples",
    "Setting",
    "Store",
    "Subject",
    "environment_id",
    "from_line",
    "is_profile",
    "load_profile",
    "to_line",
]
