"""The weights that all networks of a space share, and networks run on slices of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace, Space, SpaceConfig
from hwnas.supernet.features import FeatureMap, feature_maps, taken_indices
from hwnas.supernet.network import Network, SegmentConfig, as_feature_maps, require_images
from hwnas.supernet.segments import (
    Places,
    PreparedSegment,
    SlicedSegment,
    prepared,
    sliced_segment,
    tensor_places,
)
from hwnas.supernet.sharing import Index, take
from hwnas.supernet.task_head import TaskHeadConfig, map_axes, read_maps

Config = TypeVar("Config", bound=SpaceConfig)
Choice = TypeVar("Choice", bound=Arch)


@dataclass(frozen=True, kw_only=True)
class SupernetConfig:
    """Options of a supernet beyond its space, saved with its weights; each family adds how it shares weights."""

    drop_path: float = 0.0
    """Rate of stochastic depth in the last slot, growing linearly from 0 in the first."""


Settings = TypeVar("Settings", bound=SupernetConfig)


_CHANNEL_TENSORS = ("norm1.weight", "norm2.weight", "patch_embed.bias", "conv.bias")
"""Tensors of blocks, stems and reductions with one entry for each channel of their tokens, the first that there is."""


class Supernet(nn.Module, ABC, Generic[Config, Choice, Settings]):
    """The weights that all networks of a space share.

    A sub-network is not a mode of this module: it is the plain network that `hwnas.supernet.network` builds, run with
    slices of the shared tensors. Slices and extracted networks therefore have one definition, and gradients reach the
    slices alone. `make_supernet` makes the supernet of a space.

    Attributes:
        space: The space.
        config: How the weights are shared.
        shared: The module that holds the weights, one segment per slot at its widest.
    """

    space_type: ClassVar[type[AnySpace]]
    config_type: ClassVar[type[SupernetConfig]]

    def __init__(self, space: Space[Config, Choice], config: Settings, shared: nn.Module) -> None:
        super().__init__()
        self.space = space
        self.config = config
        self.shared = shared
        self._places: Places | None = None

    @abstractmethod
    def path(self, arch: Choice) -> dict[str, SlicedSegment]:
        """Return the segments of a network by name, in the order in which they run."""

    def forward(self, images: Tensor, archs: Choice | Sequence[Choice]) -> Any:
        """Run one or several networks of the space.

        Args:
            images: A batch of the space's image shape.
            archs: One network, or several: image i then goes through network i modulo their number.

        Returns:
            The outputs of the head in the order of the images: logits, or a tuple of them.

        Raises:
            InputError: The images have another shape, there are fewer images than networks, or a network is not of
                this space.
        """
        networks = list(archs) if isinstance(archs, Sequence) else [archs]
        require_images(images, self.space.config.input_shape)
        if not 1 <= len(networks) <= len(images):
            raise InputError("there must be at least one image for each network", got=f"{len(networks)} networks")
        tensors = self._tensors()
        if self.space.config.task_head is not None:
            found = [
                self._run_with_maps(self._checked(arch), images[index :: len(networks)], tensors)
                for index, arch in enumerate(networks)
            ]
            return found[0] if len(found) == 1 else _merged(found)
        paths = [list(self._checked(arch).values()) for arch in networks]
        # Leading segments that all networks have in common run once, on the full batch.
        while len(paths) > 1 and len(paths[0]) > 1 and all(path[0] == paths[0][0] for path in paths):
            images = self._run(self._prepared([path.pop(0) for path in paths][:1]), images, tensors)
        outputs = [
            self._run(self._prepared(path), images[index :: len(paths)], tensors) for index, path in enumerate(paths)
        ]
        return outputs[0] if len(outputs) == 1 else _merged(outputs)

    def bind(self, arch: Choice) -> Callable[[Tensor], Any]:
        """Return the forward function of one network with its slices resolved: what to hand to `torch.compile`.

        Args:
            arch: A network of the space.

        Returns:
            A function of images that reads the shared weights at each call.
        """
        path = self._checked(arch)
        segments = {training: prepared(path.values(), training=training) for training in (True, False)}

        def forward(images: Tensor) -> Any:
            require_images(images, self.space.config.input_shape)
            if self.space.config.task_head is not None:
                return self._run_with_maps(path, images, self._tensors())
            return self._run(segments[self.training], images, self._tensors())

        return forward

    def forward_intermediates(
        self, images: Tensor, arch: Choice, indices: int | Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return feature maps of one network as images, computed with slices of the shared weights.

        Args:
            images: A batch of the space's image shape.
            arch: A network of the space.
            indices: Which feature maps: all (None), the last so many, or those of a list.

        Raises:
            InputError: The network is not of this space, or has no such feature maps.
        """
        require_images(images, self.space.config.input_shape)
        path = self._checked(arch)
        maps = _maps_of(path, image_size=images.shape[-1])
        taken = [maps[index] for index in taken_indices(len(maps), indices)]
        return self._run_to_maps(path, taken, images, self._tensors())

    def outline(self, arch: Choice) -> dict[str, SegmentConfig]:
        """Return the segment configs that the extracted network is built from."""
        return {name: segment.config for name, segment in self._checked(arch).items()}

    def lineage(self, arch: Choice) -> tuple[Hashable, ...]:
        """Identify the segments of a network, in order: segments of equal identity have equal config and weights.

        Networks whose identities agree up to some segment have equal activations up to there.
        """
        return tuple((segment.config, tuple(segment.sources.items())) for segment in self._checked(arch).values())

    def subnet(self, arch: Choice) -> Network:
        """Extract a network with its own copy of the weights.

        Args:
            arch: A network of the space.

        Returns:
            A plain network on this module's device and in its mode (training or evaluation).

        Raises:
            InputError: The network is not of this space.
        """
        return self._extracted(self._checked(arch), input_shape=self.space.input_shape_of(arch))

    def _extracted(self, path: Mapping[str, SlicedSegment], *, input_shape: tuple[int, int, int]) -> Network:
        shared = self._tensors()
        with torch.device("meta"):
            network = Network({name: segment.config for name, segment in path.items()}, input_shape=input_shape)
        network.to_empty(device=next(iter(shared.values())).device)
        own = dict((*network.named_parameters(), *network.named_buffers()))
        with torch.no_grad():
            for prefix, segment in path.items():
                for name, source in segment.sources.items():
                    tensor, target = take(source, shared), own[f"{prefix}.{name}"]
                    assert tensor.shape == target.shape, (tensor.shape, target.shape)
                    target.copy_(tensor)
        return network.train(self.training)

    def _checked(self, arch: Choice) -> dict[str, SlicedSegment]:
        self.space.encode([arch])  # raises for a network of another space
        return self.with_task_head(self.path(arch))

    def with_task_head(self, path: dict[str, SlicedSegment]) -> dict[str, SlicedSegment]:
        """Return the segments of a network with the head of the space, if that is for detection or segmentation.

        The tensors that read a feature map are sliced by its channels, all others are the same in all networks.
        """
        config = self.space.config
        if config.task_head is None:
            return path
        taken = read_maps(config.task_head, _maps_of(path, image_size=config.image_size))
        *_, name = path
        head = TaskHeadConfig(
            head=config.task_head,
            image_size=config.image_size,
            num_classes=config.num_classes,
            channels=tuple(entry.grid.channels for entry in taken.values()),
            levels=tuple(taken),
        )
        channels = {level: _channels_of(path[entry.segment]) for level, entry in taken.items()}
        return {**path, name: sliced_segment(name, head, map_axes(config.task_head, channels))}

    def _tensors(self) -> dict[str, Tensor]:
        """Return the shared tensors by name."""
        if self._places is None:  # looked up at each call, for a tensor may be replaced, but not the modules
            self._places = tensor_places(self.shared)
        return {name: tensors[own] for name, (tensors, own) in self._places.items()}

    def _prepared(self, path: Iterable[SlicedSegment]) -> list[PreparedSegment]:
        return prepared(path, training=self.training)

    def _run_with_maps(self, path: Mapping[str, SlicedSegment], images: Tensor, shared: Mapping[str, Tensor]) -> Any:
        """Run a network whose head reads feature maps."""
        *_, head = path.values()
        assert self.space.config.task_head is not None
        taken = read_maps(self.space.config.task_head, _maps_of(path, image_size=images.shape[-1]))
        return self._run(self._prepared([head]), self._run_to_maps(path, list(taken.values()), images, shared), shared)

    def _run_to_maps(
        self,
        path: Mapping[str, SlicedSegment],
        maps: Sequence[FeatureMap],
        images: Tensor,
        shared: Mapping[str, Tensor],
    ) -> list[Tensor]:
        outputs: dict[str, Tensor] = {}
        x = images
        for name, segment in list(path.items())[:-1]:
            x = outputs[name] = self._run(self._prepared([segment]), x, shared)
        return as_feature_maps(maps, outputs)

    def _run(self, path: Sequence[PreparedSegment], x: Any, shared: Mapping[str, Tensor]) -> Any:
        for segment in path:
            x = segment.run(x, shared)
        return x


AnySupernet = Supernet[Any, Any, Any]
"""A supernet of any family."""


def _maps_of(path: Mapping[str, SlicedSegment], *, image_size: int) -> tuple[FeatureMap, ...]:
    return feature_maps({name: segment.config for name, segment in path.items()}, image_size=image_size)


def _channels_of(segment: SlicedSegment) -> Index | None:
    """Return which channels of the shared tensors the tokens of a segment have; None: all of them."""
    for name in _CHANNEL_TENSORS:
        if name in segment.sources:
            (part, *_) = segment.sources[name]
            return part.axes[0] if part.axes else None
    raise InputError("a feature map must come from a segment with a norm or a convolution", got=segment.config)


def _merged(outputs: Sequence[Any]) -> Any:
    """Interleave the outputs of networks 0 to k - 1 into the order of the images."""
    if isinstance(outputs[0], tuple):
        return tuple(_merged(parts) for parts in zip(*outputs, strict=True))
    merged = outputs[0].new_empty(sum(map(len, outputs)), *outputs[0].shape[1:])
    for index, output in enumerate(outputs):
        merged[index :: len(outputs)] = output
    return merged
