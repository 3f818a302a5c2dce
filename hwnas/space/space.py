"""Search spaces: what all families have in common.

A genome is a row of small integers, one index into the choices of each dimension; a population is a 2-D array of them.
All methods work on populations at once. Genes that a network does not use are 0 in its canonical genome.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.arguments import conform
from hwnas.config import from_mapping, shown, to_mapping
from hwnas.errors import InputError, unknown
from hwnas.metrics import Deployment
from hwnas.space.arch import Arch, digest
from hwnas.space.dimension import Dimension
from hwnas.space.task_head import MICRO_PIXELS, HeadKind, MapSizes, Task, TaskHead, default_head, head_segment
from hwnas.workload import Integers, Segment, Workload, Workloads

Genomes = NDArray[np.int16]
Mask = NDArray[np.bool_]
_MAX_BLOCKS, _MAX_CHOICES, _MAX_SIZE = 1000, 1000, 2**24
"""Largest number of blocks, of choices of a dimension, and of anything else in a config."""
MINI_SIZES = (64, 96, 128)
"""Sides of the images of the spaces `…-mini-SIZE`, which each family has for small sets of small images."""

_CHUNK = 1024
"""Networks whose costs are computed at once: few enough that the arrays stay in the CPU's cache."""


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Base of the configs of all families: the images, the classes, and the head if it is no classifier."""

    image_size: int = 224
    channels: int = 3
    num_classes: int = 1000
    task_head: TaskHead | None = None
    """Head for detection or segmentation in place of the classifier."""

    def __post_init__(self) -> None:
        require_sizes(self, "image_size", "channels", "num_classes")
        require_literals(self)
        if self.task_head is not None:
            coarsest = self.task_head.strides[-1]
            require_multiple("image_size", self.image_size, coarsest, f"the strides of {self.task_head.kind}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.channels, self.image_size, self.image_size

    @property
    def task(self) -> Task:
        """The task of the networks."""
        return "classification" if self.task_head is None else self.task_head.task


Config = TypeVar("Config", bound=SpaceConfig)
Network = TypeVar("Network", bound=Arch)


class Costs(NamedTuple):
    """Parameters and multiply-accumulates of each network of a population."""

    params: Integers
    macs: Integers


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One network of a space with its genome and ids, as `Space.candidates` makes it.

    Attributes:
        genome: Its canonical genome, one row.
        arch: The network as people read it.
        arch_id: Id of the sub-network of the space's supernet, slots included.
        network_id: Id of the extracted network, which several sub-networks and spaces may share.
        deployment: The deployment that it is searched in; None where the search has no choice of deployments.
    """

    genome: Genomes = field(compare=False, repr=False)
    arch: Arch
    arch_id: str
    network_id: str
    deployment: Deployment | None = None

    @property
    def id(self) -> str:
        """An id that is unique within a search: the arch id, then the deployment where there is a choice of them."""
        return self.arch_id if self.deployment is None else f"{self.arch_id}-{self.deployment.slug}"


class Neighbours(NamedTuple):
    """Networks one step away from others: `genomes[i]` is a neighbour of row `origins[i]`."""

    genomes: Genomes
    origins: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Space(ABC, Generic[Config, Network]):
    """A set of networks of one family.

    Attributes:
        name: Name of the space.
        config: The choices, and what all networks have in common.
        published: Networks of papers and their code that the space contains, by name.
    """

    name: str
    config: Config
    published: Mapping[str, Network] = field(default_factory=dict, compare=False)

    family: ClassVar[str]
    config_type: ClassVar[type[SpaceConfig]]
    arch_type: ClassVar[type[Arch]]

    # Defined by each family.

    @cached_property
    @abstractmethod
    def dimensions(self) -> tuple[Dimension, ...]:
        """One dimension per gene; dimensions of the same name are contiguous."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of canonical genomes."""

    @abstractmethod
    def _used(self, genomes: Genomes) -> Mask:
        """Return which genes the network of each row uses."""

    @abstractmethod
    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        """Return the operations of canonical genomes, with arrays as sizes."""

    @abstractmethod
    def _decode(self, reader: "GenomeReader") -> Network:
        """Return the network of one canonical genome."""

    @abstractmethod
    def _encode(self, arch: Network, writer: "GenomeWriter") -> None:
        """Write the genes of a network; those that it does not use stay 0."""

    @abstractmethod
    def _structure(self, arch: Network) -> dict[str, Any]:
        """Return everything that determines the extracted network, with the blocks that exist in order."""

    def official(self, genomes: ArrayLike) -> Costs | None:
        """Return the costs as the published code of the family counts them, or None if it does not count any."""
        return None

    def _feature_maps(self, genomes: Genomes) -> tuple[MapSizes, ...]:
        """Return the feature map at the end of each stage of canonical genomes, with arrays as sizes."""
        raise InputError(f"networks of {self.name} must have feature maps for detection and segmentation", got="none")

    def _has_block(self, genomes: Genomes) -> Mask:
        """Return True for rows whose network has a block, in each stage if stages cannot be empty."""
        return np.ones(len(genomes), dtype=np.bool_)

    def _give_block(self, genomes: Genomes) -> Genomes:
        """Change genomes in range so that each network has a block."""
        return genomes

    # Common to all families.

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """Draw canonical genomes, each gene uniformly from its choices.

        Args:
            rng: Generator to draw from.
            count: Number of genomes.

        Returns:
            One genome a row; the same network may occur twice.
        """
        rng, count = conform(np.random.Generator, rng, where="rng"), conform(int, count, where="count")
        if count < 0:
            raise InputError("the number of genomes must not be negative", got=count)
        # Uniform per gene, as in the original implementations; that is not uniform over networks, nor over their costs.
        return self.repair(rng.integers(0, self._counts, size=(count, len(self.dimensions)), dtype=np.int16))

    def contains(self, genomes: ArrayLike) -> Mask:
        """Return True for each row that is a network of this space, canonical or not."""
        rows = self._checked(genomes)
        in_range = ((rows >= 0) & (rows < self._counts)).all(axis=1)
        return in_range & self._has_block(self._clipped(rows))

    def canonical(self, genomes: ArrayLike) -> Genomes:
        """Return the canonical genomes of networks, in which unused genes are 0.

        Args:
            genomes: Networks of this space, one a row.

        Raises:
            InputError: A row is no network of this space.
        """
        rows = self._checked(genomes)
        if not (inside := self.contains(rows)).all():
            first = int(np.argmin(inside))
            raise InputError(f"row {first} must be a network of {self.name}", got=shown(rows[first].tolist()))
        return self._canonical(rows.astype(np.int16, copy=False))

    def used(self, genomes: ArrayLike) -> Mask:
        """Return which genes the network of each row uses; the others are 0 in its canonical genome."""
        return self._used(self.canonical(genomes))

    def repair(self, genomes: ArrayLike) -> Genomes:
        """Return the canonical genomes nearest to rows of integers, with values clipped to their ranges."""
        return self._canonical(self._give_block(self._clipped(self._checked(genomes))))

    def neighbours(self, genomes: ArrayLike) -> Neighbours:
        """List all networks one step away: an ordinal gene by one, or a categorical gene to any other choice.

        Args:
            genomes: Networks of this space, one a row.

        Returns:
            The distinct neighbours of each row, without the row itself.
        """
        rows = self.canonical(genomes)
        used = self._used(rows)
        moved, origins = [], []
        for column, value in self._moves(rows):
            # Genes that a network does not use have no neighbours.
            able = used[:, column] & (value >= 0) & (value < self._counts[column]) & (value != rows[:, column])
            copies = rows[able]
            copies[:, column] = value[able]
            moved.append(copies)
            origins.append(np.flatnonzero(able))
        return self._distinct(np.concatenate(moved), np.concatenate(origins), rows)

    def decode(self, genomes: ArrayLike) -> tuple[Network, ...]:
        """Return the networks of genomes.

        Args:
            genomes: Networks of this space, one a row, canonical or not.

        Raises:
            InputError: A row is no network of this space.
        """
        rows = self.canonical(genomes)
        used = self._used(rows)
        return tuple(self._decode(GenomeReader(self, rows[index], used[index])) for index in range(len(rows)))

    def encode(self, archs: Sequence[Network]) -> Genomes:
        """Return the canonical genomes of networks.

        Args:
            archs: Networks of this space.

        Raises:
            InputError: A network has another type, or a value that the space does not offer; the error names it.
        """
        archs = conform(Sequence[Any], archs, where="archs")
        rows = np.zeros((len(archs), len(self.dimensions)), dtype=np.int16)
        for row, arch in zip(rows, archs, strict=True):
            if not isinstance(arch, self.arch_type):
                raise InputError(
                    f"{self.name} takes networks of type {self.arch_type.__name__}", got=type(arch).__name__
                )
            self._encode(arch, GenomeWriter(self, row))
        return self.canonical(rows)

    def parse(self, values: object) -> Network:
        """Build a network from plain values, as read from a JSON file.

        Args:
            values: A mapping of the fields of the family's arch.

        Raises:
            InputError: The values are no network of this space; the error names the field.
        """
        arch: Any = from_mapping(self.arch_type, values)
        self.encode([arch])
        return arch  # type: ignore[no-any-return]

    def costs(self, genomes: ArrayLike) -> Costs:
        """Count parameters and multiply-accumulates in closed form, without building the networks.

        Args:
            genomes: Networks of this space, one a row, canonical or not.
        """
        rows = self.canonical(genomes)
        chunks = [self._workloads(rows[start : start + _CHUNK]) for start in range(0, len(rows), _CHUNK)]
        none = np.zeros(0, dtype=np.int64)
        return Costs(
            params=np.concatenate([none, *(chunk.params for chunk in chunks)]),
            macs=np.concatenate([none, *(chunk.macs for chunk in chunks)]),
        )

    def workloads(self, genomes: ArrayLike) -> Workloads:
        """Return the operations of a population, with sizes as arrays over its rows."""
        return self._workloads(self.canonical(genomes))

    def workload(self, arch: Network) -> Workload:
        """Return the operations of one network."""
        return self.workloads(self.encode([arch])).workload(0)

    def candidates(self, genomes: ArrayLike) -> tuple[Candidate, ...]:
        """Return the networks of genomes with their ids, decoding each once.

        Args:
            genomes: One network a row, canonical or not.

        Returns:
            One candidate a row, with its canonical genome.

        Raises:
            InputError: A row is no network of this space.
        """
        rows = self.canonical(genomes)
        config = to_mapping(self.config)
        shared = ("channels", "num_classes", "task_head")
        images = {name: value for name, value in config.items() if name in shared}
        return tuple(
            Candidate(
                genome=row,
                arch=arch,
                arch_id=digest({"space": self.name, "config": config, "arch": arch.to_mapping()}),
                network_id=digest(
                    {
                        "family": self.family,
                        "image_size": self.image_size_of(arch),
                        **images,
                        **self._structure(arch),
                    }
                ),
            )
            for row, arch in zip(rows, self.decode(rows), strict=True)
        )

    def candidate(self, arch: Network) -> Candidate:
        """Return one network with its genome and ids; use `candidates` for several."""
        (candidate,) = self.candidates(self.encode([arch]))
        return candidate

    def arch_id(self, arch: Network) -> str:
        """Return the id of a sub-network of this space's supernet, slots included."""
        return self.candidate(arch).arch_id

    def network_id(self, arch: Network) -> str:
        """Return the id of an extracted network, which several sub-networks and spaces may share."""
        return self.candidate(arch).network_id

    def image_size_of(self, arch: Network) -> int:
        """Return the side of the images that a network takes: that of the space, or its own where it is a choice."""
        return self.config.image_size

    def input_shape_of(self, arch: Network) -> tuple[int, int, int]:
        """Return channels, height and width of the images that a network takes."""
        size = self.image_size_of(arch)
        return self.config.channels, size, size

    def smallest(self) -> Network:
        """Return the network with the fewest MACs, then parameters, then the first genome."""
        return self._extreme(sign=1)

    def largest(self) -> Network:
        """Return the network with the most MACs, then parameters, then the last genome."""
        return self._extreme(sign=-1)

    def adapted(
        self, *, image_size: int | None = None, channels: int | None = None, num_classes: int | None = None
    ) -> Self:
        """Return the same space for other images or classes.

        Args:
            image_size: Height and width of the images; None: unchanged.
            channels: Channels of the images; None: unchanged.
            num_classes: Number of classes; None: unchanged.

        Raises:
            InputError: The networks of this space cannot take such images.
        """
        values = {"image_size": image_size, "channels": channels, "num_classes": num_classes}
        changes = {name: conform(int, value, where=name) for name, value in values.items() if value is not None}
        return replace(self, config=replace(self.config, **changes))

    def fitted(self, values: Mapping[str, object], *, image_size: int) -> Self:
        """Return this space for the images of a network.

        Args:
            values: The network, as plain values.
            image_size: Side of its images.

        Raises:
            InputError: The networks of this space cannot take such images.
        """
        return self.adapted(image_size=image_size)

    def with_task_head(self, kind: HeadKind) -> Self:
        """Return the space of the same networks with a head for detection or segmentation.

        Their images are those of the space, or the next larger ones that the strides of the head divide.

        Args:
            kind: Which head.

        Raises:
            InputError: The networks have such a head already, no feature maps, or images of several sizes.
        """
        config, largest = self.config, self.encode([self.largest()])
        if config.task_head is not None:
            raise InputError("networks have one head for detection or segmentation", got=f"{kind}-{self.name}")
        if len(getattr(config, "inputs", ())) > 1:
            message = "networks for detection and segmentation must take images and patches of one size"
            raise InputError(message, got=self.name, hint=f"{kind}-{self.name.removesuffix('-sizes')}")
        strides = [config.image_size / int(np.max(item.side)) for item in self._feature_maps(largest)]
        head = default_head(kind, strides, image_size=config.image_size)
        least = max(config.image_size, MICRO_PIXELS)
        for size in range(-(-least // head.strides[-1]) * head.strides[-1], 8 * least, head.strides[-1]):
            with suppress(InputError):
                changed = replace(config, image_size=size, task_head=head)
                return replace(self, name=f"{kind}-{self.name}", config=changed)
        raise InputError(f"images of {self.name} must be divisible by the strides of the head", got=head.strides)

    # Used by the families.

    def columns(self, name: str) -> slice:
        """Return the columns of the genes of a name."""
        return self._columns[name]

    def values(self, genomes: Genomes, name: str) -> NDArray[Any]:
        """Return the chosen values of the genes of a name, of shape (rows, genes of that name)."""
        columns, table = self._tables[name]
        offsets = np.arange(len(table)) * table.shape[1]  # one take from the flat table beats indexing by pairs
        choices: NDArray[Any] = table.ravel()[genomes[:, columns] + offsets]
        return choices

    @cached_property
    def _columns(self) -> dict[str, slice]:
        columns: dict[str, list[int]] = {}
        for column, dimension in enumerate(self.dimensions):
            columns.setdefault(dimension.name, []).append(column)
        return {name: slice(own[0], own[-1] + 1) for name, own in columns.items()}

    @cached_property
    def _tables(self) -> dict[str, tuple[slice, NDArray[Any]]]:
        """Return, by name, the columns of the genes and the choices of each, padded with zeros to one length."""
        tables = {}
        for name in dict.fromkeys(dimension.name for dimension in self.dimensions):
            choices = [dimension.choices for dimension in self.dimensions[self.columns(name)]]
            longest = max(map(len, choices))
            tables[name] = (self.columns(name), np.array([row + (0,) * (longest - len(row)) for row in choices]))
        return tables

    @cached_property
    def _counts(self) -> NDArray[np.int16]:
        return np.array([len(dimension.choices) for dimension in self.dimensions], dtype=np.int16)

    def _checked(self, genomes: ArrayLike) -> NDArray[Any]:
        try:
            rows = np.asarray(genomes)
        except ValueError as error:
            raise InputError("genomes must be rows of one length", got=shown(genomes)) from error
        if rows.dtype.kind not in "iu" and rows.size:
            raise InputError("genomes must be whole numbers", got=f"an array of {rows.dtype}")
        width = len(self.dimensions)
        if rows.ndim != 2 or rows.shape[1] != width:
            message = f"genomes of {self.name} must be rows of {width} whole numbers"
            raise InputError(message, got=f"an array of shape {rows.shape}")
        return rows

    def _clipped(self, rows: NDArray[Any]) -> Genomes:
        clipped: Genomes = np.clip(rows, 0, self._counts - 1).astype(np.int16)
        return clipped

    def _canonical(self, rows: Genomes) -> Genomes:
        return np.where(self._used(rows), rows, np.int16(0))

    def _workloads(self, rows: Genomes) -> Workloads:
        head, config = self.config.task_head, self.config
        segments = self._segments(rows)
        if head is not None:
            maps = self._feature_maps(rows)
            own = head_segment(head, maps, image_size=config.image_size, num_classes=config.num_classes)
            segments = (*segments[:-1], own)
        return Workloads(rows=len(rows), segments=segments)

    def _moves(self, rows: Genomes) -> Iterator[tuple[int, Genomes]]:
        for column, dimension in enumerate(self.dimensions):
            if dimension.kind == "ordinal":
                yield column, rows[:, column] - np.int16(1)
                yield column, rows[:, column] + np.int16(1)
            else:
                for value in range(len(dimension.choices)):
                    yield column, np.full(len(rows), value, dtype=np.int16)

    def _distinct(self, moved: Genomes, origins: NDArray[np.intp], rows: Genomes) -> Neighbours:
        # A step can leave the space (no block left), or change nothing that the network uses.
        inside = self._has_block(moved)
        canonical, origins = self._canonical(moved[inside]), origins[inside]
        other = (canonical != rows[origins]).any(axis=1)
        keyed = np.unique(np.column_stack([origins[other], canonical[other]]), axis=0)
        return Neighbours(genomes=keyed[:, 1:].astype(np.int16), origins=keyed[:, 0])

    def _extreme(self, *, sign: int) -> Network:
        """Improve one part of the network at a time, over all its choices, until no part can be improved."""
        # This finds the extreme of the space because the best choice of a part (network, stage or block) does not
        # depend on the other parts. The last part goes first, so that ties end at the first genome (the last for -1).
        parts: dict[tuple[int | None, int | None], list[int]] = {}
        for column, dimension in enumerate(self.dimensions):
            parts.setdefault((dimension.stage, dimension.block), []).append(column)
        best = self.repair([np.where(sign > 0, 0, self._counts - 1)])
        while True:
            before = best
            for columns in reversed(parts.values()):
                variants = self._variants(best, columns)
                costs = self.costs(variants)
                keys = [*variants.T[::-1], costs.params, costs.macs]
                first = np.lexsort([sign * key.astype(np.int64) for key in keys])[0]
                best = variants[first : first + 1]
            if (best == before).all():
                return self.decode(best)[0]

    def _variants(self, genome: Genomes, columns: list[int]) -> Genomes:
        combinations = list(itertools.product(*(range(self._counts[column]) for column in columns)))
        variants = np.repeat(genome, len(combinations), axis=0)
        variants[:, columns] = combinations
        return self._canonical(variants[self._has_block(variants)])


AnySpace = Space[Any, Any]
"""A space of any family."""


class GenomeReader:
    """Reads one canonical genome by the names of the dimensions."""

    def __init__(self, space: Space[Any, Any], genome: Genomes, used: Mask) -> None:
        self.genome, self.used = genome, used
        self._space = space

    def value(self, name: str) -> Any:
        """Return the choice of the only dimension of a name."""
        return self.values(name)[0]

    def values(self, name: str) -> list[Any]:
        """Return the choices of all dimensions of a name; None for those that the network does not use."""
        columns = self._space.columns(name)
        triples = zip(self._space.dimensions[columns], self.genome[columns], self.used[columns], strict=True)
        return [dimension.choices[gene] if used else None for dimension, gene, used in triples]


class GenomeWriter:
    """Writes one genome by the names of the dimensions."""

    def __init__(self, space: Space[Any, Any], row: Genomes) -> None:
        self.row = row
        self._space = space

    def put(self, name: str, value: object, *, field: str, index: int = 0) -> None:
        """Set a gene.

        Args:
            name: Name of the dimension.
            value: The choice.
            field: Field of the arch that an error names.
            index: Index among the dimensions of the same name.

        Raises:
            InputError: The dimension does not offer the value.
        """
        column = self._space.columns(name).start + index
        choices = self._space.dimensions[column].choices
        if value not in choices:
            raise InputError(
                f"{field} of a network of {self._space.name} must be one of its choices",
                got=shown(value),
                known=choices,
            )
        self.row[column] = choices.index(value)


def require_positive(name: str, value: int) -> None:
    """Raise InputError unless a size is positive."""
    if value < 1:
        raise InputError(f"{name} must be at least 1", got=value)


def require_sizes(config: object, *names: str) -> None:
    """Raise InputError unless the named fields of a config are positive, and small enough to be built."""
    for name in names:
        require_positive(name, getattr(config, name))
        _require_buildable(name, getattr(config, name))


def require_choices(config: object, *names: str, ordered: bool = True) -> None:
    """Raise InputError unless the named fields hold distinct positive choices, in ascending order if `ordered`."""
    for name in names:
        choices = getattr(config, name)
        if not choices or len(set(choices)) < len(choices):
            raise InputError(f"{name} must have distinct choices, at least one", got=choices)
        if not all(0 < choice < float("inf") for choice in choices):
            raise InputError(f"{name} must have choices above 0", got=choices)
        if len(choices) > _MAX_CHOICES:
            raise InputError(f"{name} must have at most {_MAX_CHOICES} choices", got=len(choices))
        _require_buildable(name, max(choices))
        if ordered and tuple(sorted(choices)) != tuple(choices):
            raise InputError(f"{name} must have choices in ascending order", got=choices)


def _require_buildable(name: str, size: float) -> None:
    """Raise InputError for a size with which a network would take hours to build; a file may state any number."""
    largest = _MAX_BLOCKS if name in ("depth", "depths", "slots") else _MAX_SIZE
    if size > largest:
        raise InputError(f"{name} must be at most {largest}", got=shown(size))


def require_literals(config: object) -> None:
    """Raise InputError unless the fields of a config with named variants hold one of them."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise unknown(f"{name}:", str(getattr(config, name)), get_args(hint))


def require_patches(image_size: int, patch_size: int) -> None:
    """Raise InputError unless an image has at least one patch."""
    if image_size < patch_size:
        raise InputError(f"image_size must be at least {patch_size}, the size of a patch", got=image_size)


def require_multiple(name: str, value: int, divisor: int, reason: str) -> None:
    """Raise InputError unless a size is a multiple of a divisor."""
    if value % divisor:
        raise InputError(f"{name} must be a multiple of {divisor} ({reason})", got=value)


def require_head_widths(qkv_dims: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raise InputError unless every total width of q, k and v splits into equal heads for every number of heads."""
    for heads in num_heads:
        for width in qkv_dims:
            require_multiple("qkv_dim", width, 3 * heads, f"q, k and v of {heads} heads")


def require_length(field: str, got: int, known: Sequence[int]) -> None:
    """Raise InputError unless a list has one of the lengths that the space offers."""
    if got not in known:
        raise InputError(f"{field} must have one of the known numbers of entries", got=got, known=known)
