"""Quality of networks inside a pretrained model that need no classifier: divergence from the model, and nearest images.

The divergence of a network is the mean KL divergence of its classes from those of the model itself. Nearest images
evaluate features alone (Caron et al. 2021, arXiv 2104.14294): the class of an image is voted for by the most similar
of a gallery of training images, both described by the features of the network.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.errors import InputError
from hwnas.supernet.elastic import ElasticOutputs, ElasticSupernet, detailed_outputs
from hwnas.supernet.network import Network
from hwnas.train.data.loader import Batch
from hwnas.train.executor import Executor, Measure, Row
from hwnas.train.losses import kl_divergence

NEAREST = 20
"""Images of the gallery that vote."""

TEMPERATURE = 0.07
"""Votes are weighted by the exponential of the cosine similarity over it."""

GALLERY_IMAGES = 4096
"""Largest gallery: about as many images as are usually held out, as each network is run on all of them."""


class QualityEvaluator:
    """Evaluates networks of an elastic supernet, each once.

    Args:
        supernet: Supernet with the weights.
        heldout: Images to evaluate on; they are iterated over for each network.
        device: Device that networks run on.
        model: The model that networks diverge from; None: the quality is the accuracy of nearest images.
        gallery: Training images that vote, where there is no model.
        executor: Evaluates networks; None: this process does.
    """

    def __init__(
        self,
        supernet: ElasticSupernet,
        heldout: Iterable[Batch],
        *,
        device: torch.device | str,
        model: Network | None = None,
        gallery: Iterable[Batch] = (),
        executor: Executor | None = None,
    ) -> None:
        self.supernet, self.batches, self.device = supernet, heldout, torch.device(device)
        self._model, self._gallery, self._executor = model, gallery, executor
        self._targets: list[Tensor] = []
        self._known: dict[str, float] = {}

    def evaluate(self, archs: Sequence[Any]) -> list[float]:
        """Return the divergence or the accuracy of networks.

        Raises:
            InputError: The outputs of a network are not finite, or there are no images.
        """
        return list(self.stream(archs))

    def stream(self, archs: Sequence[Any]) -> Iterator[float]:
        """Yield what `evaluate` returns, each value as soon as it is known."""
        space = self.supernet.space
        ids = [candidate.arch_id for candidate in space.candidates(space.encode(archs))]
        rows = self._rows(
            {arch_id: arch for arch_id, arch in zip(ids, archs, strict=True) if arch_id not in self._known}
        )
        for arch_id in ids:
            while arch_id not in self._known:
                found, row = next(rows)
                self._known[found] = row["value"]
            yield self._known[arch_id]

    @property
    def measure(self) -> Measure:
        """The quality that networks are evaluated for."""
        return Measure(name="knn_accuracy" if self._model is None else "divergence")

    def _rows(self, archs: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
        if self._executor is not None:
            return self._executor.evaluate(archs, self.measure)
        return ((arch_id, {"value": self._evaluate_here(arch, arch_id)}) for arch_id, arch in archs.items())

    def _evaluate_here(self, arch: Any, name: str) -> float:
        return self._evaluate(self.supernet.subnet(arch).to(self.device).eval(), name)

    @torch.inference_mode()
    def _evaluate(self, network: Network, name: str) -> float:
        if self._model is None:
            return self._nearest_accuracy(network, name)
        if not self._targets:
            model = self._model.to(self.device).eval()
            self._targets = [outputs.logits for outputs, _ in self._outputs(model, self.batches, name="the model")]
        total, count = 0.0, 0
        outputs = self._outputs(network, self.batches, name=name)
        for (found, labels), target in zip(outputs, self._targets, strict=True):
            total += float(kl_divergence(found.logits, target, temperature=1.0)) * len(labels)
            count += len(labels)
        return max(total / count, 0.0)  # rounding may leave a little less than none

    def _nearest_accuracy(self, network: Network, name: str) -> float:
        pairs = [(_directions(found), labels) for found, labels in self._outputs(network, self._gallery, name=name)]
        gallery, classes = (torch.cat(part) for part in zip(*pairs, strict=True))
        num_classes = int(classes.max()) + 1
        right, count = 0, 0
        for found, labels in self._outputs(network, self.batches, name=name):
            votes = nearest_votes(_directions(found), gallery, classes, num_classes=num_classes)
            right += int((votes.argmax(dim=1) == labels).sum())
            count += len(labels)
        return right / count

    def _outputs(
        self, network: Network, batches: Iterable[Batch], *, name: str
    ) -> Iterator[tuple[ElasticOutputs, Tensor]]:
        is_empty = True
        for batch in batches:
            outputs = detailed_outputs(network, batch.to(self.device).images)
            if not torch.isfinite(outputs.features).all():
                raise InputError(f"the outputs of network {name} must be finite numbers", got="NaN or infinity")
            yield outputs, batch.labels.to(self.device)
            is_empty = False
        if is_empty:
            raise InputError("there must be at least one image to evaluate a network on", got="none")


def nearest_votes(features: Tensor, gallery: Tensor, classes: Tensor, *, num_classes: int) -> Tensor:
    """Return the votes for each class, of shape (images, classes).

    Args:
        features: Features of images, of length 1.
        gallery: The same of images whose classes are known.
        classes: Their classes.
        num_classes: Number of classes.
    """
    similarities, nearest = (features @ gallery.T).topk(min(NEAREST, len(gallery)), dim=1)
    weights = (similarities / TEMPERATURE).exp()
    votes = features.new_zeros(len(features), num_classes)
    return votes.scatter_add_(1, classes[nearest], weights)


def _directions(outputs: ElasticOutputs) -> Tensor:
    return F.normalize(outputs.features.float(), dim=1)
