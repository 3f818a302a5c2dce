"""Work of a measurement, by which the time that is left of a campaign is estimated."""

from contextlib import suppress

from hwnas.errors import InputError
from hwnas.profile.plan import PlannedTask
from hwnas.profile.subjects import space_network
from hwnas.records import Setting, Subject

_REFERENCE_MACS = 1_258_000_000
"""MACs of DeiT-Ti, which each network runs in turn with; a model of timm is counted as another one of it."""

_FIXED_MACS = 1_000_000_000
"""Cost of export and session of a network, in MACs of each of its runs: about as much as a run of DeiT-Ti."""


def task_effort(task: PlannedTask) -> float:
    """Return the work of a task in proportion to that of others: MACs x batch, and what does not depend on them."""
    return paired_macs(task.subject, task.setting) + _FIXED_MACS


def paired_macs(subject: Subject, setting: Setting) -> int:
    """Return the MACs of a run of a network and one of the reference network, with the batch of a setting."""
    macs = _REFERENCE_MACS
    if subject.source == "space":
        with suppress(InputError):  # it will be reported when it is measured
            space, arch = space_network(subject)
            macs = int(space.costs(space.encode([arch])).macs[0])
    return (macs + _REFERENCE_MACS) * setting.batch
