"""The networks of a space in each of several deployments: a candidate is a network and what it runs in.

The deployment is one more gene, the last one, so that all that works on genomes works on such a space as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.arguments import conform
from hwnas.errors import InputError
from hwnas.metrics import QUANTISED, Deployment
from hwnas.space.arch import Arch
from hwnas.space.dimension import Dimension
from hwnas.space.space import AnySpace, Candidate, Costs, GenomeReader, Genomes, GenomeWriter, Mask, Space
from hwnas.space.task_head import MapSizes
from hwnas.workload import Segment

DEPLOYMENT = "deployment"
"""The name of the dimension; its choices are rows of `DeployedSpace.deployments`."""


@dataclass(frozen=True, kw_only=True)
class DeployedSpace(Space[Any, Any]):
    """A space whose candidates are networks of another space, each in one of several deployments.

    Attributes:
        networks: The space of the networks.
        deployments: Runtime, precision or both; what they leave open is decided elsewhere.
    """

    networks: AnySpace
    deployments: tuple[Deployment, ...]

    def __post_init__(self) -> None:
        texts = [str(deployment) for deployment in self.deployments]
        if not texts or "" in texts or len(set(texts)) < len(texts):
            raise InputError("a space must have distinct deployments, at least one", got=", ".join(texts) or "none")
        if any((item.device, item.batch, item.threads) != (None, None, None) for item in self.deployments):
            message = "a deployment that is searched names a runtime, a precision or both"
            raise InputError(message, got=", ".join(texts), hint="onnxruntime/fp32")

    @classmethod
    def of(cls, networks: AnySpace, deployments: Sequence[Deployment]) -> Self:
        """Return the candidates of a space's networks in some deployments."""
        return cls(
            name=networks.name,
            config=networks.config,
            published=networks.published,
            networks=networks,
            deployments=tuple(conform(Deployment, item, where="deployments") for item in deployments),
        )

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions of the networks, then the deployment."""
        choices = tuple(range(len(self.deployments)))
        return (*self.networks.dimensions, Dimension(name=DEPLOYMENT, kind="categorical", choices=choices))

    @property
    def size(self) -> int:
        """Number of canonical genomes."""
        return self.networks.size * len(self.deployments)

    def official(self, genomes: ArrayLike) -> Costs | None:
        """Return the costs of the networks as the published code of the family counts them, if it does."""
        return self.networks.official(self._checked(genomes)[:, :-1])

    def candidates(self, genomes: ArrayLike) -> tuple[Candidate, ...]:
        """Return the networks of genomes with their ids and deployments, one for each row."""
        rows = self.canonical(genomes)
        networks = self.networks.candidates(rows[:, :-1])
        return tuple(
            replace(network, genome=row, deployment=self.deployments[row[-1]])
            for row, network in zip(rows, networks, strict=True)
        )

    def encode(self, archs: Sequence[Arch]) -> Genomes:
        """Return the canonical genomes of networks in the first deployment."""
        genomes = self.networks.encode(archs)
        return np.column_stack([genomes, np.zeros(len(genomes), dtype=np.int16)])

    def parse(self, values: object) -> Arch:
        """Build a network from plain values, as read from a JSON file."""
        arch: Arch = self.networks.parse(values)
        return arch

    def image_size_of(self, arch: Arch) -> int:
        """Return the side of the images that a network takes."""
        return self.networks.image_size_of(arch)

    def smallest(self) -> Arch:
        """Return the smallest network."""
        arch: Arch = self.networks.smallest()
        return arch

    def largest(self) -> Arch:
        """Return the largest network."""
        arch: Arch = self.networks.largest()
        return arch

    def adapted(
        self, *, image_size: int | None = None, channels: int | None = None, num_classes: int | None = None
    ) -> Self:
        """Return the same space for other images or classes."""
        networks = self.networks.adapted(image_size=image_size, channels=channels, num_classes=num_classes)
        return self.of(networks, self.deployments)

    def in_deployment(self, genomes: Genomes, deployment: Deployment) -> Mask:
        """Return the rows that are in a deployment of the space."""
        mask: Mask = genomes[:, -1] == self.deployments.index(deployment)
        return mask

    def accuracy_representatives(self, genomes: Genomes) -> Genomes:
        """Replace each deployment by the first one in which its networks have the same accuracy."""
        rows = genomes.copy()
        rows[:, -1] = self._first_alike[genomes[:, -1]]
        return rows

    def accuracy_siblings(self, genomes: Genomes) -> Genomes:
        """Return the same networks in the other deployments in which they have the same accuracy, each once."""
        first = self._first_alike
        siblings = [
            np.column_stack([rows[:, :-1], np.full(len(rows), column, dtype=np.int16)])
            for column in range(len(first))
            if len(rows := genomes[(first[genomes[:, -1]] == first[column]) & (genomes[:, -1] != column)])
        ]
        return np.unique(np.concatenate([genomes[:0], *siblings]), axis=0)

    @cached_property
    def _first_alike(self) -> NDArray[np.int16]:
        """For each deployment, the first one in which networks have the same accuracy."""
        kinds = [item.precision if item.precision in QUANTISED else None for item in self.deployments]
        return np.array([kinds.index(kind) for kind in kinds], dtype=np.int16)

    # The networks decide everything but the last gene, which is always used.

    def _used(self, genomes: Genomes) -> Mask:
        return np.column_stack([self.networks._used(genomes[:, :-1]), np.ones(len(genomes), dtype=np.bool_)])

    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        return self.networks._segments(genomes[:, :-1])

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        return self.networks._feature_maps(genomes[:, :-1])

    def _decode(self, reader: GenomeReader) -> Arch:
        arch: Arch = self.networks._decode(GenomeReader(self.networks, reader.genome[:-1], reader.used[:-1]))
        return arch

    def _encode(self, arch: Arch, writer: GenomeWriter) -> None:
        self.networks._encode(arch, GenomeWriter(self.networks, writer.row[:-1]))

    def _structure(self, arch: Arch) -> dict[str, Any]:
        return self.networks._structure(arch)

    def _has_block(self, genomes: Genomes) -> Mask:
        return self.networks._has_block(genomes[:, :-1])

    def _give_block(self, genomes: Genomes) -> Genomes:
        return np.column_stack([self.networks._give_block(genomes[:, :-1]), genomes[:, -1]])


def networks_of(space: AnySpace) -> AnySpace:
    """Return the space of the networks of a space, which is the space itself where it has no deployments."""
    return space.networks if isinstance(space, DeployedSpace) else space


def count_evaluations(space: AnySpace, genomes: Genomes, evaluated: Mask) -> NDArray[np.intp]:
    """Return after each row the number of evaluations so far, where deployments of equal accuracy share one.

    Args:
        space: The space of the genomes.
        genomes: Candidates in the order of their evaluation.
        evaluated: Rows with a value.
    """
    counted = evaluated.copy()
    if isinstance(space, DeployedSpace):
        rows = np.flatnonzero(evaluated)
        _, first = np.unique(space.accuracy_representatives(genomes[rows]), axis=0, return_index=True)
        counted[:] = False
        counted[rows[first]] = True
    return np.cumsum(counted)
