"""Weights that all networks of a space share, and one network run on slices of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace, Space, SpaceConfig
from hwnas.supernet.network import Network, SegmentConfig, require_images
from hwnas.supernet.rules import Axes
from hwnas.supernet.sharing import Part, Source, take

Config = TypeVar("Config", bound=SpaceConfig)
Choice = TypeVar("Choice", bound=Arch)


@dataclass(frozen=True, kw_only=True)
class SupernetConfig:
    """What a supernet is beyond its space; each family adds how it shares weights. It is saved with the weights."""

    drop_path: float = 0.0
    """The rate of stochastic depth in the last slot; it grows from 0 in the first."""


Settings = TypeVar("Settings", bound=SupernetConfig)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One segment of a sub-network, and where each of its tensors comes from."""

    config: SegmentConfig
    sources: Mapping[str, Source]


Prepared = tuple[nn.Module, Mapping[str, Source]]
"""A segment without weights, and where its tensors come from."""


class Supernet(nn.Module, ABC, Generic[Config, Choice, Settings]):
    """Shared weights of a space.

    A sub-network is not a mode of this module: it is the plain network that `hwnas.supernet.network` builds, run with
    tensors taken from the shared ones. So slices and extracted networks are one definition, and gradients reach the
    slices alone.
    """

    space_type: ClassVar[type[AnySpace]]
    config_type: ClassVar[type[SupernetConfig]]

    def __init__(self, space: Space[Config, Choice], config: Settings, shared: nn.Module) -> None:
        super().__init__()
        self.space = space
        self.config = config
        self.shared = shared

    @abstractmethod
    def path(self, arch: Choice) -> dict[str, Piece]:
        """The segments of a network by name, in the order in which they run."""

    def forward(self, images: Tensor, archs: Choice | Sequence[Choice]) -> Any:
        """Run one network, or several at once: image i then goes through network i modulo their number.

        Segments at the start that all of them share run once, on the whole batch. Returns what the head returns, in
        the order of the images.
        """
        networks = [archs] if isinstance(archs, Arch) else list(archs)
        self._check(images, networks)
        paths = [list(self._checked(arch).values()) for arch in networks]
        tensors = self._tensors()
        while len(paths) > 1 and len(paths[0]) > 1 and all(path[0] == paths[0][0] for path in paths):
            images = self._run(_prepared([path.pop(0) for path in paths][:1]), images, tensors)
        outputs = [self._run(_prepared(path), images[index :: len(paths)], tensors) for index, path in enumerate(paths)]
        return outputs[0] if len(outputs) == 1 else _merged(outputs)

    def bind(self, arch: Choice) -> Callable[[Tensor], Any]:
        """The forward of one network with its path worked out: what to hand to `torch.compile`."""
        prepared = _prepared(list(self._checked(arch).values()))

        def forward(images: Tensor) -> Any:
            require_images(images, self.space.config.input_shape)
            return self._run(prepared, images, self._tensors())

        return forward

    def outline(self, arch: Choice) -> dict[str, SegmentConfig]:
        """What the extracted network is built from."""
        return {name: piece.config for name, piece in self._checked(arch).items()}

    def lineage(self, arch: Choice) -> tuple[Hashable, ...]:
        """What each segment of a network is: equal values have equal weights, whichever networks they stand in."""
        return tuple((piece.config, tuple(piece.sources.items())) for piece in self._checked(arch).values())

    def subnet(self, arch: Choice) -> Network:
        """The network with its own copy of the weights, in this module's mode."""
        return self._extracted(self._checked(arch))

    def _extracted(self, path: Mapping[str, Piece]) -> Network:
        shared = self._tensors()
        with torch.device("meta"):
            network = Network(
                {name: piece.config for name, piece in path.items()}, input_shape=self.space.config.input_shape
            )
        network.to_empty(device=next(iter(shared.values())).device)
        own = dict((*network.named_parameters(), *network.named_buffers()))
        with torch.no_grad():
            for segment, piece in path.items():
                for name, source in piece.sources.items():
                    _copy(take(source, shared), own[f"{segment}.{name}"])
        return network.train(self.training)

    def _checked(self, arch: Choice) -> dict[str, Piece]:
        """The path of a network that is known to be one of the space."""
        self.space.encode([arch])
        return self.path(arch)

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.shared.named_parameters()), **dict(self.shared.named_buffers())}

    def _run(self, path: Sequence[Prepared], x: Any, shared: Mapping[str, Tensor]) -> Any:
        for template, sources in path:
            template.train(self.training)
            x = functional_call(template, {name: take(source, shared) for name, source in sources.items()}, (x,))
        return x

    def _check(self, images: Tensor, archs: Sequence[Choice]) -> None:
        require_images(images, self.space.config.input_shape)
        if not 1 <= len(archs) <= len(images):
            raise InputError("there must be at least one image for each network", got=f"{len(archs)} networks")


AnySupernet = Supernet[Any, Any, Any]
"""A supernet of any family."""


def whole_piece(name: str, config: SegmentConfig, axes: Axes) -> Piece:
    """A segment whose tensors are each one part of the shared tensor of their own name."""
    return Piece(
        config=config,
        sources={tensor: (Part(f"{name}.{tensor}", axes.get(tensor, ())),) for tensor in tensor_names(config)},
    )


def _prepared(path: Sequence[Piece]) -> list[Prepared]:
    return [(_template(piece.config), piece.sources) for piece in path]


@lru_cache(maxsize=4096)
def tensor_names(config: SegmentConfig) -> tuple[str, ...]:
    """The parameters and buffers of a segment."""
    template = _template(config)
    return tuple(name for name, _ in (*template.named_parameters(), *template.named_buffers()))


@lru_cache(maxsize=4096)
def _template(config: SegmentConfig) -> nn.Module:
    """A segment without weights, to be run with tensors from elsewhere."""
    with torch.device("meta"):
        return config.build()


def _copy(tensor: Tensor, target: Tensor) -> None:
    assert tensor.shape == target.shape, (tensor.shape, target.shape)
    target.copy_(tensor)


def _merged(outputs: Sequence[Any]) -> Any:
    """Outputs of networks 0, 1, … of k back in the order of the images."""
    if isinstance(outputs[0], tuple):
        return tuple(_merged(parts) for parts in zip(*outputs, strict=True))
    merged = outputs[0].new_empty(sum(map(len, outputs)), *outputs[0].shape[1:])
    for index, output in enumerate(outputs):
        merged[index :: len(outputs)] = output
    return merged
