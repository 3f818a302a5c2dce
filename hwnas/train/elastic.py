"""Preparation of a pretrained model as a supernet: a classifier for the data, and the order of heads and units.

Narrow networks take the first heads and hidden units of each block, so these must be the ones that matter most. Three
ways to score them are compared by what they are for: the divergence of three narrow networks from the model, on images
that the scores were not computed from. The best order is kept.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space.elastic import ElasticArch, uniform_cut
from hwnas.supernet.elastic import ElasticSupernet, ElasticTransformerBlock, detailed_outputs
from hwnas.supernet.network import Network
from hwnas.supernet.sorting import importance, sort_units
from hwnas.train.data.loader import Batch
from hwnas.train.losses import kl_divergence

_log = logging.getLogger(__name__)

Score = Literal["activation", "taylor", "l1"]
"""The score of units: by their activations and outgoing weights, by the first-order change of the loss without them
(Molchanov et al. 2019), or by the norm of their weights."""

CUTS = (0.15, 0.35, 0.55)
"""Shares of the MACs that the networks which orders are compared by lack."""

MIN_IMAGES = 16
CLUSTERS = 64
"""Classes of a model without a classifier, on images without classes: so many clusters of its features."""
_PROBE_STEPS = 200
_PROBE_DECAY = 1e-4


@dataclass(frozen=True, kw_only=True)
class UnitOrder:
    """The order of a supernet's units and how it was chosen."""

    score: Score
    """The score whose order was kept."""
    divergences: dict[str, tuple[float, ...]]
    """Mean KL divergence from the model by score and cut; `unsorted` is the order of the model."""
    cuts: tuple[float, ...]
    """Shares of the MACs that the compared networks really lack."""
    num_images: int
    """Images that the scores were computed from; as many others were compared on."""
    scores: dict[str, tuple[tuple[float, ...], ...]]
    """The importance of the units of each group, by score, in the order of the model."""


def order_units(supernet: ElasticSupernet, images: Tensor) -> UnitOrder:
    """Sort heads and hidden units of each block by importance, in place; what the model computes does not change.

    Args:
        supernet: The supernet of a model, with a classifier that fits.
        images: Training images; labels are not needed. The first half gives the scores, the second compares the orders.

    Returns:
        The order and how the others compare.

    Raises:
        InputError: There are too few images.
    """
    if len(images) < MIN_IMAGES:
        raise InputError(f"at least {MIN_IMAGES} images are needed to order the units of a model", got=len(images))
    first, second = images.chunk(2)
    network = supernet.subnet(supernet.space.largest()).eval()
    batches = [batch.to(_device(network)) for batch in torch.split(first, _BATCH)]
    scores: dict[Score, list[Tensor]] = {
        "activation": activation_scores(supernet, network, batches),
        "taylor": taylor_scores(supernet, network, batches),
        "l1": [importance(dict(supernet.shared.named_parameters()), group) for group in supernet.sortable()],
    }
    held = [batch.to(_device(network)) for batch in torch.split(second, _BATCH)]
    archs = [uniform_cut(supernet.space, cut) for cut in CUTS]
    divergences = {"unsorted": _divergences(supernet, network, archs, held)}
    before = {name: value.clone() for name, value in supernet.shared.state_dict().items()}
    for score in get_args(Score):
        sort_units(supernet.shared, supernet.sortable(), scores=scores[score])
        divergences[score] = _divergences(supernet, network, archs, held)
        supernet.shared.load_state_dict(before)
    best: Score = min(get_args(Score), key=lambda score: sum(divergences[score]))
    sort_units(supernet.shared, supernet.sortable(), scores=scores[best])
    _log.info("units ordered by %s: %s", best, divergences)
    space = supernet.space
    macs = space.costs(space.encode([space.largest(), *archs])).macs
    return UnitOrder(
        score=best,
        divergences=divergences,
        cuts=tuple((1 - macs[1:] / macs[0]).tolist()),
        num_images=len(first),
        scores={name: tuple(tuple(group.tolist()) for group in groups) for name, groups in scores.items()},
    )


@torch.no_grad()
def activation_scores(supernet: ElasticSupernet, network: Network, batches: Sequence[Tensor]) -> list[Tensor]:
    """Score units by their activations and outgoing weights, from forward passes alone.

    The score is the root of the sum over images of (mean absolute activation over the tokens)², times the norm of the
    outgoing weights. The activations are those behind a norm inside attention or MLP, if there is one.

    Args:
        supernet: The supernet.
        network: Its largest network.
        batches: Images.
    """
    head_dim = supernet.space.config.head_dim
    sums: dict[str, Tensor] = {}
    with _inputs_recorded(network, sums):
        for batch in batches:
            network(batch)
    scores = []
    for slot in range(supernet.space.config.depth):
        block: Any = network.get_submodule(f"blocks.{slot}")
        for name, layer, units in (("proj", block.attention.proj, head_dim), ("fc2", block.mlp.fc2, 1)):
            by_unit = sums[f"{slot}.{name}"].reshape(-1, units).sum(dim=1).sqrt()
            outgoing = layer.weight.T.reshape(len(by_unit), -1).norm(dim=1)
            scores.append((by_unit * outgoing).cpu())
    return scores


def taylor_scores(supernet: ElasticSupernet, network: Network, batches: Sequence[Tensor]) -> list[Tensor]:
    """Score units by the sum of |weight times gradient| over their weights, of the loss on the model's own answers.

    Args:
        supernet: The supernet.
        network: Its largest network.
        batches: Images.
    """
    groups = supernet.sortable()
    parameters = dict(network.named_parameters())
    totals = [torch.zeros(()) for _ in groups]
    for batch in batches:
        network.zero_grad(set_to_none=True)
        with torch.enable_grad():
            logits = network(batch)
            F.cross_entropy(logits, logits.detach().argmax(dim=1)).backward()  # type: ignore[no-untyped-call]
        products = {
            name: (parameter * parameter.grad).detach()
            for name, parameter in parameters.items()
            if parameter.grad is not None
        }
        totals = [total + importance(products, group).cpu() for total, group in zip(totals, groups, strict=True)]
    network.zero_grad(set_to_none=True)
    return totals


def fit_classifier(supernet: ElasticSupernet, batches: Iterable[Batch]) -> float:
    """Fit the classifier by multinomial logistic regression on the model's features (a linear probe), in place.

    Args:
        supernet: The supernet of a model.
        batches: Training images with their labels.

    Returns:
        The share of these images that are then classified correctly.
    """
    features, labels = _features(supernet, batches)
    mean, deviation = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    normalised = (features - mean) / deviation
    probe = nn.Linear(features.shape[1], supernet.space.config.num_classes, device=features.device)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=_PROBE_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(normalised), labels) + _PROBE_DECAY * probe.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    _set_classifier(supernet, probe.weight, probe.bias, mean=mean, deviation=deviation)
    with torch.no_grad():
        return float((probe(normalised).argmax(dim=1) == labels).float().mean())


def fit_clusters(supernet: ElasticSupernet, batches: Iterable[Batch]) -> None:
    """Make clusters of a model's features the classes of its classifier, in place; labels are not needed.

    The classes of an image are then the similarities of its features to the centres of k-means clusters: the
    probabilities of a mixture of equal Gaussians, whose variance is the mean squared distance from the nearest centre.

    Args:
        supernet: The supernet of a model without a classifier.
        batches: Training images.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    features, _ = _features(supernet, batches)
    mean, deviation = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    normalised = (features - mean) / deviation
    count = supernet.space.config.num_classes
    if len(features) < count:
        raise InputError(f"at least {count} images are needed for so many clusters", got=len(features))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # equal images, fewer of which differ than there are clusters
        found = KMeans(count, n_init=1, random_state=0).fit(normalised.double().cpu().numpy())
    centres = torch.from_numpy(found.cluster_centers_).to(normalised)
    variance = max(found.inertia_ / len(features), 1e-6)
    _set_classifier(
        supernet, centres / variance, -centres.square().sum(dim=1) / (2 * variance), mean=mean, deviation=deviation
    )


@torch.no_grad()
def _features(supernet: ElasticSupernet, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Return the model's features of images, and their labels."""
    network = supernet.subnet(supernet.space.largest()).eval()
    device = _device(network)
    pairs = [(detailed_outputs(network, batch.to(device).images).features, batch.labels) for batch in batches]
    return torch.cat([found for found, _ in pairs]), torch.cat([classes for _, classes in pairs]).to(device)


@torch.no_grad()
def _set_classifier(
    supernet: ElasticSupernet, weight: Tensor, bias: Tensor, *, mean: Tensor, deviation: Tensor
) -> None:
    """Copy a linear layer behind normalised features, into which the normalisation is folded."""
    folded = weight / deviation
    for name in ("classifier", "distilled"):
        layer = getattr(supernet.shared.get_submodule("head"), name)
        if layer is not None:
            layer.weight.copy_(folded)
            layer.bias.copy_(bias - folded @ mean)


_BATCH = 64


def _device(network: Network) -> torch.device:
    return next(network.parameters()).device


@torch.no_grad()
def _divergences(
    supernet: ElasticSupernet, network: Network, archs: Sequence[ElasticArch], batches: Sequence[Tensor]
) -> tuple[float, ...]:
    """Return the mean KL divergence of the answers of networks from those of the model."""
    supernet.eval()
    targets = [network(batch) for batch in batches]
    found = []
    for arch in archs:
        narrow = supernet.subnet(arch).eval()
        sums = [
            float(kl_divergence(narrow(batch), target, temperature=1.0)) * len(batch)
            for batch, target in zip(batches, targets, strict=True)
        ]
        found.append(sum(sums) / sum(map(len, batches)))
    return tuple(found)


@contextmanager
def _inputs_recorded(network: Network, sums: dict[str, Tensor]) -> Iterator[None]:
    """Sum over images the squares of the mean absolute inputs of the last layers of attention and MLP."""

    def record(key: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].float().abs().mean(dim=1).square().sum(dim=0)
            sums[key] = sums[key] + squares if key in sums else squares

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, ElasticTransformerBlock):
            slot = name.rpartition(".")[2]
            for key, layer in (("proj", module.attention.proj), ("fc2", module.mlp.fc2)):
                handles.append(layer.register_forward_pre_hook(record(f"{slot}.{key}")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
