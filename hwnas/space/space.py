"""What every search space can do, whatever its family.

A genome is a row of small integers, one index per dimension; a population is a 2-D array of them, and everything
here works on whole populations. Genes that a path does not use have the value 0 in its canonical form.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.config import from_mapping, shown, to_mapping
from hwnas.errors import InputError, unknown
from hwnas.space.arch import Arch, digest
from hwnas.space.dimension import Dimension
from hwnas.workload import Integers, Segment, Workload, Workloads

Genomes = NDArray[np.int16]
Mask = NDArray[np.bool_]
_CHUNK = 1024
"""Rows that are costed at once: few enough that the arrays stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """What every family's config has: the images that come in and the classes that go out."""

    image_size: int = 224
    channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        require_sizes(self, "image_size", "channels", "num_classes")
        require_literals(self)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, self.image_size, self.image_size


Config = TypeVar("Config", bound=SpaceConfig)
Network = TypeVar("Network", bound=Arch)


class Costs(NamedTuple):
    """Parameters and multiply-accumulates of a population, one figure per row."""

    params: Integers
    macs: Integers


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One network of a space with everything that names it: `Space.candidates` makes them for a population at once."""

    genome: Genomes = field(compare=False, repr=False)
    """Its canonical genome, one row."""
    arch: Arch
    arch_id: str
    """Names the path through the space's supernet, slots included."""
    network_id: str
    """Names the extracted network: two paths, or two spaces, may share it."""


class Neighbours(NamedTuple):
    """Networks one move away from others: `genomes[i]` is a neighbour of row `origins[i]`."""

    genomes: Genomes
    origins: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Space(ABC, Generic[Config, Network]):
    """A set of networks of one family: a frozen value of the family's config, with a name."""

    name: str
    config: Config
    published: Mapping[str, Network] = field(default_factory=dict, compare=False)
    """Networks of papers and their code that this space contains, by name."""

    family: ClassVar[str]
    config_type: ClassVar[type[SpaceConfig]]
    arch_type: ClassVar[type[Arch]]

    # What a family says about itself.

    @cached_property
    @abstractmethod
    def dimensions(self) -> tuple[Dimension, ...]:
        """One dimension per gene; those of one name stand side by side."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of canonical genomes."""

    @abstractmethod
    def _used(self, genomes: Genomes) -> Mask:
        """Which genes the path of each row uses."""

    @abstractmethod
    def _segments(self, genomes: Genomes) -> tuple[Segment, ...]:
        """The operations of canonical genomes, sizes as arrays."""

    @abstractmethod
    def _decode(self, row: "Row") -> Network:
        """The network of one canonical genome."""

    @abstractmethod
    def _encode(self, arch: Network, genes: "Genes") -> None:
        """Set the genes of a network; the ones that it does not use stay 0."""

    @abstractmethod
    def _structure(self, arch: Network) -> dict[str, Any]:
        """The extracted network in full: everything that it takes to build it, its live blocks in order."""

    def official(self, genomes: ArrayLike) -> Costs | None:
        """Parameters and multiply-accumulates as the published code counts them, if it counts this family."""
        return None

    def _has_block(self, genomes: Genomes) -> Mask:
        """Whether the path of each row has at least one block, in each stage where stages cannot be empty."""
        return np.ones(len(genomes), dtype=np.bool_)

    def _give_block(self, genomes: Genomes) -> Genomes:
        """Genomes in range, each changed where needed so that its path has a block."""
        return genomes

    # What follows from it, the same for all families.

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """Draw canonical genomes, each gene uniform over its choices."""
        return self.repair(rng.integers(0, self._counts, size=(count, len(self.dimensions)), dtype=np.int16))

    def contains(self, genomes: ArrayLike) -> Mask:
        """Whether each row is a network of this space, canonical or not."""
        rows = self._checked(genomes)
        in_range = ((rows >= 0) & (rows < self._counts)).all(axis=1)
        return in_range & self._has_block(self._clipped(rows))

    def canonical(self, genomes: ArrayLike) -> Genomes:
        """The one form of each path: genes that it does not use are 0."""
        rows = self._checked(genomes)
        if not (inside := self.contains(rows)).all():
            first = int(np.argmin(inside))
            raise InputError(f"row {first} is no network of {self.name}", got=shown(rows[first].tolist()))
        return self._canonical(rows.astype(np.int16, copy=False))

    def used(self, genomes: ArrayLike) -> Mask:
        """Which genes the path of each row uses; the others are 0 in its canonical form."""
        return self._used(self.canonical(genomes))

    def repair(self, genomes: ArrayLike) -> Genomes:
        """The canonical genomes nearest to any rows of integers: values out of range are clipped."""
        return self._canonical(self._give_block(self._clipped(self._checked(genomes))))

    def neighbours(self, genomes: ArrayLike) -> Neighbours:
        """All networks one move away: ordinal genes by one step, categorical ones to any other choice."""
        rows = self.canonical(genomes)
        used = self._used(rows)
        moved, origins = [], []
        for column, value in self._moves(rows):
            able = used[:, column] & (value >= 0) & (value < self._counts[column]) & (value != rows[:, column])
            copies = rows[able]
            copies[:, column] = value[able]
            moved.append(copies)
            origins.append(np.flatnonzero(able))
        return self._distinct(np.concatenate(moved), np.concatenate(origins), rows)

    def decode(self, genomes: ArrayLike) -> tuple[Network, ...]:
        """The networks of genomes."""
        rows = self.canonical(genomes)
        used = self._used(rows)
        return tuple(self._decode(Row(self, rows[index], used[index])) for index in range(len(rows)))

    def encode(self, archs: Sequence[Network]) -> Genomes:
        """The canonical genomes of networks; a value that the space does not offer is an error that names it."""
        rows = np.zeros((len(archs), len(self.dimensions)), dtype=np.int16)
        for row, arch in zip(rows, archs, strict=True):
            if not isinstance(arch, self.arch_type):
                raise InputError(
                    f"{self.name} takes networks of type {self.arch_type.__name__}", got=type(arch).__name__
                )
            self._encode(arch, Genes(self, row))
        return self.canonical(rows)

    def parse(self, values: object) -> Network:
        """The network that plain values (of a JSON file, say) describe; every mistake names its field."""
        arch: Any = from_mapping(self.arch_type, values)
        self.encode([arch])
        return arch  # type: ignore[no-any-return]

    def costs(self, genomes: ArrayLike) -> Costs:
        """Parameters and multiply-accumulates of canonical or other genomes of this space."""
        rows = self.canonical(genomes)
        chunks = [self._workloads(rows[start : start + _CHUNK]) for start in range(0, len(rows), _CHUNK)]
        none = np.zeros(0, dtype=np.int64)
        return Costs(
            params=np.concatenate([none, *(chunk.params for chunk in chunks)]),
            macs=np.concatenate([none, *(chunk.macs for chunk in chunks)]),
        )

    def workloads(self, genomes: ArrayLike) -> Workloads:
        """The operations of a population, sizes as arrays over its rows."""
        return self._workloads(self.canonical(genomes))

    def workload(self, arch: Network) -> Workload:
        """The operations of one network."""
        return self.workloads(self.encode([arch])).workload(0)

    def candidates(self, genomes: ArrayLike) -> tuple[Candidate, ...]:
        """The networks of genomes with their ids, decoded once.

        Args:
            genomes: One network a row, canonical or not.

        Returns:
            One candidate a row, with its canonical genome.

        Raises:
            InputError: A row is no network of this space.
        """
        rows = self.canonical(genomes)
        config = to_mapping(self.config)
        images = {name: config[name] for name in _IMAGE_FIELDS}
        return tuple(
            Candidate(
                genome=row,
                arch=arch,
                arch_id=digest({"space": self.name, "config": config, "arch": arch.to_mapping()}),
                network_id=digest({"family": self.family, **images, **self._structure(arch)}),
            )
            for row, arch in zip(rows, self.decode(rows), strict=True)
        )

    def candidate(self, arch: Network) -> Candidate:
        """One network with its genome and its ids; of many, `candidates` is faster."""
        (candidate,) = self.candidates(self.encode([arch]))
        return candidate

    def arch_id(self, arch: Network) -> str:
        """The name of the path through this space's supernet, slots included."""
        return self.candidate(arch).arch_id

    def network_id(self, arch: Network) -> str:
        """The name of the extracted network: two paths, or two spaces, may share it."""
        return self.candidate(arch).network_id

    def smallest(self) -> Network:
        """The network with the fewest MACs, then parameters, then the first genome."""
        return self._extreme(sign=1)

    def largest(self) -> Network:
        """The network with the most MACs, then parameters, then the last genome."""
        return self._extreme(sign=-1)

    def adapted(
        self, *, image_size: int | None = None, channels: int | None = None, num_classes: int | None = None
    ) -> Self:
        """The same space for other images or classes."""
        wanted = {"image_size": image_size, "channels": channels, "num_classes": num_classes}
        changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        return replace(self, config=replace(self.config, **changes))

    # Look-ups shared by the families.

    def columns(self, name: str) -> slice:
        """Where the genes of the dimensions of one name stand."""
        where = [index for index, dimension in enumerate(self.dimensions) if dimension.name == name]
        return slice(where[0], where[-1] + 1)

    def values(self, genomes: Genomes, name: str) -> NDArray[Any]:
        """The choices that the genes of one name stand for, of shape (rows, genes of that name)."""
        where, table = self._tables[name]
        offsets = np.arange(len(table)) * table.shape[1]
        choices: NDArray[Any] = table.ravel()[genomes[:, where] + offsets]
        return choices

    @cached_property
    def _tables(self) -> dict[str, tuple[slice, NDArray[Any]]]:
        names = dict.fromkeys(dimension.name for dimension in self.dimensions)
        return {name: (self.columns(name), _table(self.dimensions[self.columns(name)])) for name in names}

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
        return Workloads(rows=len(rows), segments=self._segments(rows))

    def _moves(self, rows: Genomes) -> Iterator[tuple[int, Genomes]]:
        for column, dimension in enumerate(self.dimensions):
            if dimension.kind == "ordinal":
                yield column, rows[:, column] - np.int16(1)
                yield column, rows[:, column] + np.int16(1)
            else:
                for value in range(len(dimension.choices)):
                    yield column, np.full(len(rows), value, dtype=np.int16)

    def _distinct(self, moved: Genomes, origins: NDArray[np.intp], rows: Genomes) -> Neighbours:
        inside = self._has_block(moved)
        canonical, origins = self._canonical(moved[inside]), origins[inside]
        other = (canonical != rows[origins]).any(axis=1)
        keyed = np.unique(np.column_stack([origins[other], canonical[other]]), axis=0)
        return Neighbours(genomes=keyed[:, 1:].astype(np.int16), origins=keyed[:, 0])

    def _extreme(self, *, sign: int) -> Network:
        """Improve one part of the network at a time, over all its choices, until no part can be improved.

        This finds the extreme of the whole space because the best choice of a part does not depend on the
        other parts. The last part goes first, so that ties end at the first genome (the last one for -1).
        """
        best = self.repair([np.where(sign > 0, 0, self._counts - 1)])
        while True:
            before = best
            for columns in reversed(self._parts()):
                best = self._best(self._variants(best, columns), sign=sign)
            if (best == before).all():
                return self.decode(best)[0]

    def _parts(self) -> list[list[int]]:
        parts: dict[tuple[int | None, int | None], list[int]] = {}
        for column, dimension in enumerate(self.dimensions):
            parts.setdefault((dimension.stage, dimension.block), []).append(column)
        return list(parts.values())

    def _variants(self, genome: Genomes, columns: list[int]) -> Genomes:
        combinations = list(itertools.product(*(range(self._counts[column]) for column in columns)))
        variants = np.repeat(genome, len(combinations), axis=0)
        variants[:, columns] = combinations
        return self._canonical(variants[self._has_block(variants)])

    def _best(self, genomes: Genomes, *, sign: int) -> Genomes:
        costs = self.costs(genomes)
        keys = [*genomes.T[::-1], costs.params, costs.macs]
        first = np.lexsort([sign * key.astype(np.int64) for key in keys])[0]
        return genomes[first : first + 1]


AnySpace = Space[Any, Any]
"""A space of any family."""


class Row:
    """One canonical genome, read by the names of its dimensions."""

    def __init__(self, space: Space[Any, Any], genome: Genomes, used: Mask) -> None:
        self._space, self._genome, self._used = space, genome, used

    def one(self, name: str) -> Any:
        """The choice of a dimension that stands once."""
        return self.all(name)[0]

    def all(self, name: str) -> list[Any]:
        """The choices of all dimensions of one name, None where the path does not use them."""
        where = self._space.columns(name)
        triples = zip(self._space.dimensions[where], self._genome[where], self._used[where], strict=True)
        return [dimension.choices[gene] if used else None for dimension, gene, used in triples]


class Genes:
    """One genome while it is written, by the names of its dimensions."""

    def __init__(self, space: Space[Any, Any], row: Genomes) -> None:
        self._space, self._row = space, row

    def put(self, name: str, value: object, *, field: str, index: int = 0) -> None:
        """Set the gene of the `index`-th dimension of that name; `field` is what an error calls the value."""
        column = self._space.columns(name).start + index
        choices = self._space.dimensions[column].choices
        if value not in choices:
            raise InputError(
                f"{field} of a network of {self._space.name} must be one of its choices",
                got=shown(value),
                known=choices,
            )
        self._row[column] = choices.index(value)


def require_positive(name: str, value: int) -> None:
    """A size must be a whole number above 0."""
    if value < 1:
        raise InputError(f"{name} must be at least 1", got=value)


def require_sizes(config: object, *names: str) -> None:
    """Fields of a config that must be sizes."""
    for name in names:
        require_positive(name, getattr(config, name))


def require_choices(config: object, *names: str, ordered: bool = True) -> None:
    """Fields of a config that must be choices: at least one, distinct, finite, above 0, growing if `ordered`."""
    for name in names:
        choices = getattr(config, name)
        if not choices or len(set(choices)) < len(choices):
            raise InputError(f"{name} must have distinct choices, at least one", got=choices)
        if not all(0 < choice < float("inf") for choice in choices):
            raise InputError(f"{name} must have choices above 0", got=choices)
        if ordered and tuple(sorted(choices)) != tuple(choices):
            raise InputError(f"{name} must have growing choices", got=choices)


def require_literals(config: object) -> None:
    """Fields of a config that name a variant must name one that there is."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise unknown(f"{name}:", str(getattr(config, name)), get_args(hint))


def require_multiple(name: str, value: int, divisor: int, reason: str) -> None:
    """A size must divide without a rest."""
    if value % divisor:
        raise InputError(f"{name} must be a multiple of {divisor} ({reason})", got=value)


def require_head_widths(qkv_dims: Sequence[int], num_heads: Sequence[int]) -> None:
    """Every total width of q, k and v must divide into three, and each third into every number of heads."""
    for heads in num_heads:
        for width in qkv_dims:
            require_multiple("qkv_dim", width, 3 * heads, f"q, k and v of {heads} heads")


def require_length(field: str, got: int, known: Sequence[int]) -> None:
    """A list of blocks must have one of the lengths that the space knows."""
    if got not in known:
        raise InputError(f"{field} must have one of the known numbers of entries", got=got, known=known)


def _table(dimensions: Sequence[Dimension]) -> NDArray[Any]:
    widest = max(len(dimension.choices) for dimension in dimensions)
    padded = [dimension.choices + (0,) * (widest - len(dimension.choices)) for dimension in dimensions]
    return np.array(padded)


_IMAGE_FIELDS = ("image_size", "channels", "num_classes")
