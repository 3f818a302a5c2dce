"""`hwnas describe`: the ids, shapes and costs of a network."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hwnas.arguments import checked_arguments
from hwnas.pipeline.named_network import find_network
from hwnas.space.arch import Arch
from hwnas.space.lookup import COMMAND, adapted
from hwnas.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Description:
    """A network of a space and its costs for one image; `official_*` is None if no published code counts them."""

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
        """Return plain values, as `--json` prints them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "arch": self.arch.to_mapping(), "workload": self.workload.rows()}


@checked_arguments
def describe(
    space: str,
    arch: str | Path | Mapping[str, object] | Arch,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Description:
    """Describe a network of a space.

    Args:
        space: Name of the space, or the folder of a run that holds the network.
        arch: Name of a published network, `min`, `max`, `random:SEED`, inline JSON, path of a JSON file, plain values
            (a description among them), or the network itself; of a run also the id of a network, or its first digits.
        image_size: Height and width of the images; None: those of the space or the run.
        num_classes: Number of classes; None: that of the space.

    Returns:
        The ids of the network, its parameters and multiply-accumulates, and its operations.

    Raises:
        UnknownNameError: The space or the network is not known.
        InputError: The values are no network of the space, or the space does not fit such images.
    """
    own, network = find_network(space, arch, command=COMMAND)
    chosen = adapted(own, image_size=image_size, num_classes=num_classes)
    candidate = chosen.candidate(network)
    official = chosen.official([candidate.genome])
    workload = chosen.workload(candidate.arch)
    return Description(
        space=chosen.name,
        family=chosen.family,
        arch=candidate.arch,
        arch_id=candidate.arch_id,
        network_id=candidate.network_id,
        image_size=chosen.image_size_of(candidate.arch),
        channels=chosen.config.channels,
        num_classes=chosen.config.num_classes,
        params=workload.params,
        macs=workload.macs,
        macs_relative=workload.macs_relative,
        official_params=None if official is None else int(official.params[0]),
        official_macs=None if official is None else int(official.macs[0]),
        workload=workload,
    )
