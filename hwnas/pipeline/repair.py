"""Repair of a network that was cut from a model: by images of its run, and kept if it helps on held-out images."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from hwnas.errors import InputError, UsageError
from hwnas.export.calibration import LabeledImages
from hwnas.pipeline.quantisation import QuantisationOptions, open_quantisation_images
from hwnas.search.record import RECORD_FILE, Repair, read_record
from hwnas.space.elastic import ElasticArch
from hwnas.space.space import AnySpace
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.loading import WeightedNetwork
from hwnas.supernet.matmul import fast_matmul
from hwnas.supernet.network import Network
from hwnas.supernet.store import load_supernet
from hwnas.train.losses import kl_divergence
from hwnas.train.machine import torch_device
from hwnas.train.repair import Damping, repair_network
from hwnas.train.session import ORIGINAL

_SOURCE = "hwnas export RUN --arch ID --repair, with the run of hwnas train --elastic or of a search in it"

_DIVERGED = 1e9
"""The divergence of a network whose logits are not numbers."""


@dataclass(frozen=True, kw_only=True)
class RepairedNetwork:
    """A network after its repair."""

    module: Network
    """With the weights from before if the repair did not help."""
    repair: Repair | None
    """None: nothing was cut, so that there is nothing to repair."""


def require_repairable(space: AnySpace, run: Path | None) -> Path:
    """Return the file of the model that the networks of a run were cut from.

    Args:
        space: The space of the networks.
        run: The run of a training, or of a search in the supernet of one.

    Raises:
        InputError: The networks are not parts of one model, or the run does not hold the model.
        UsageError: There is no run.
    """
    if space.family != "elastic":
        message = "only networks that are cut from a pretrained model can be repaired"
        raise InputError(message, got=space.name, hint="leave --repair out, or hwnas train --elastic timm:NAME")
    if run is None:
        raise UsageError("a repair needs the run with the model that a network was cut from", got="none", hint=_SOURCE)
    training = run
    if (run / RECORD_FILE).is_file():
        supernet = read_record(run).spec.supernet
        if supernet is None:
            message = f"{run} must be a search with accuracy"
            raise InputError(message, got="networks without trained weights", hint=_SOURCE)
        training = supernet.path
    if not (training / ORIGINAL).is_file():
        message = f"{training} must hold the model that its networks were cut from"
        raise InputError(message, got=f"no file {ORIGINAL}", hint=_SOURCE)
    return training / ORIGINAL


def repair_from_run(source: WeightedNetwork, *, run: Path | None, options: QuantisationOptions) -> RepairedNetwork:
    """Repair a network with the model and the images of its run, unless that makes it worse.

    The network is worse if it classifies fewer of the held-out images correctly, or as many with a larger divergence
    from the model; on images without the model's classes, if its divergence is larger. The repair is then tried with a
    larger penalty, and if that does not help either, not kept.

    Args:
        source: The network, which is not changed.
        run: The run of a training, or of a search in the supernet of one; that of the options takes precedence.
        options: The images.

    Raises:
        InputError: The network cannot be repaired, or the images cannot be opened.
        UsageError: There is no run.
    """
    space, arch = source.space, source.arch
    model = load_supernet(require_repairable(space, options.run or run))
    if not isinstance(model, ElasticSupernet) or model.space.config != space.config:
        message = f"{options.run or run} must hold the model that the network was cut from"
        raise InputError(message, got=f"another model, or one of other images: {model.space.name}", hint=_SOURCE)
    assert isinstance(arch, ElasticArch)
    if arch.blocks == model.space.largest().blocks:
        return RepairedNetwork(module=source.module, repair=None)
    images = open_quantisation_images(options, run=run, config=space.config, batch=None, labelled=False)
    device = torch_device("auto")
    with fast_matmul():
        return _repaired(source.module, arch, model, images, device=device)


def _repaired(
    network: Network, arch: ElasticArch, model: ElasticSupernet, images: Any, *, device: torch.device
) -> RepairedNetwork:
    """Try the penalties in turn, until the network is better than before."""
    original = model.space.largest()
    model = model.to(device).eval()
    # Its tokens are compared with those of the model for images and patches of the same size.
    at_its_size = model.subnet(replace(arch, blocks=original.blocks))
    network, largest, before = deepcopy(network).to(device).eval(), model.subnet(original), None
    labelled = images.num_classes == model.space.config.num_classes
    for damping in get_args(Damping):
        candidate = deepcopy(network)
        batches = (torch.from_numpy(batch).to(device) for batch in images.calibration.batches)
        count = repair_network(candidate, at_its_size, batches, damping=damping)
        compared = [largest, candidate, *([network] if before is None else [])]
        scores = _scores(compared, images.accuracy.images, labelled=labelled)
        before = before or scores[2]
        repair = Repair(
            data=images.calibration.recipe.data,
            images=count,
            heldout_images=scores[0].images,
            kept=scores[1].rank > before.rank,
            model_accuracy=scores[0].accuracy,
            accuracy_before=before.accuracy,
            accuracy=scores[1].accuracy,
            agreement_before=before.agreement,
            agreement=scores[1].agreement,
            divergence_before=before.divergence,
            divergence=scores[1].divergence,
        )
        if repair.kept:
            break
    return RepairedNetwork(module=(candidate if repair.kept else network).cpu(), repair=repair)


@dataclass(frozen=True, kw_only=True)
class _Score:
    """Figures of a network on labelled images, next to those of the model."""

    images: int
    accuracy: float | None
    agreement: float
    divergence: float

    @property
    def rank(self) -> tuple[float, float]:
        """The larger, the better."""
        return self.accuracy or 0.0, -self.divergence


@torch.inference_mode()
def _scores(networks: Sequence[Network], images: LabeledImages, *, labelled: bool) -> list[_Score]:
    """Compare networks with the first of them, and with the labels if these are of the same classes."""
    count, sums = 0, torch.zeros(len(networks), 3, dtype=torch.float64)
    device = next(networks[0].parameters()).device
    for batch, labels in images.batches:
        inputs, known = torch.from_numpy(batch).to(device), torch.from_numpy(labels).to(device)
        logits = [_logits(network, inputs) for network in networks]
        for index, found in enumerate(logits):
            first = found.argmax(dim=1)
            divergence = len(known) * kl_divergence(found, logits[0], temperature=1.0).nan_to_num(nan=_DIVERGED)
            sums[index] += torch.stack(
                [(first == known).sum(), (first == logits[0].argmax(dim=1)).sum(), divergence]
            ).to(sums)
        count += len(known)
    if count == 0:
        raise InputError("accuracy needs held-out images", got=f"none in {images.name}", hint="--data DIR")
    shares = (sums / count).tolist()
    return [
        _Score(images=count, accuracy=own[0] if labelled else None, agreement=own[1], divergence=own[2])
        for own in shares
    ]


def _logits(network: Network, images: torch.Tensor) -> torch.Tensor:
    """Run a network on images of the supernet's size, which its stem resizes."""
    x = images
    for segment in network.segments().values():
        x = segment(x)
    return x
