"""`hwnas describe`: what one network is, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.lookup import adapted, find_arch
from hwnas.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Description:
    """One network of a space, and its costs for one image; `official_*` is None where no published code counts."""

    space: str
    family: str
    arch: Arch
    arch_id: str
    network_id: str
    image_size: int
    channels: int
    num_classes: int
    params: int
    macs: int
    macs_relative: int
    official_params: int | None
    official_macs: int | None
    workload: Workload

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "arch": self.arch.to_mapping(), "workload": self.workload.rows()}


def describe(
    space: str,
    arch: str | Path | Mapping[str, object] | Arch,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Description:
    """Describe a network of the space of that name, at its own image size and number of classes or at others.

    `arch` is a published name, `min`, `max`, `random:SEED`, inline JSON, the path of a JSON file, or plain values; a
    description as plain values will do, too.
    """
    chosen = adapted(SPACES.get(space), image_size=image_size, num_classes=num_classes)
    candidate = chosen.candidate(find_arch(chosen, arch))
    official = chosen.official([candidate.genome])
    workload = chosen.workload(candidate.arch)
    return Description(
        space=chosen.name,
        family=chosen.family,
        arch=candidate.arch,
        arch_id=candidate.arch_id,
        network_id=candidate.network_id,
        image_size=chosen.config.image_size,
        channels=chosen.config.channels,
        num_classes=chosen.config.num_classes,
        params=workload.params,
        macs=workload.macs,
        macs_relative=workload.macs_relative,
        official_params=None if official is None else int(official.params[0]),
        official_macs=None if official is None else int(official.macs[0]),
        workload=workload,
    )
