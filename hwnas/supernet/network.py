"""Networks of their own: plain modules that run one after another."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, overload

from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space.task_head import TaskHead
from hwnas.supernet.features import FeatureMap, feature_maps, taken_indices
from hwnas.supernet.task_head import HeadOnLevels, TaskHeadConfig, TokenReader, read_maps


class SegmentConfig(Protocol):
    """The config of a segment: a frozen dataclass that can build it.

    It may name in `weight_sizes` the fields that nothing but the shapes of its weights depends on.
    """

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""

    def __hash__(self) -> int: ...


class Network(nn.Module):
    """Stem, blocks and head in sequence, with fresh weights.

    Args:
        outline: The config of each segment by its dotted name (`stem`, `blocks.3`, `head`), in the order in which they
            run. The names are also the prefixes of their weights in the state dict.
        input_shape: Channels, height and width that images must have; None: images are not checked.
    """

    def __init__(
        self, outline: Mapping[str, SegmentConfig], *, input_shape: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        self.outline = dict(outline)
        self.input_shape = input_shape
        for name, config in outline.items():
            _attach(self, name, config.build())

    def replace_head(self, config: SegmentConfig) -> None:
        """Put another head, with fresh weights, in the place of that of the network."""
        *_, name = self.outline
        self.outline[name] = config
        setattr(self, name, config.build())

    def segments(self) -> dict[str, nn.Module]:
        """Return the segments by name, in the order in which they run."""
        return {name: self.get_submodule(name) for name in self.outline}

    def map_readers(self, image_size: int) -> dict[str, TokenReader]:
        """Return the readers of the maps of a head for detection or segmentation, by the segments of the maps."""
        assert self.task_head is not None
        *_, name = self.outline
        pyramid: Any = self.get_submodule(name).pyramid
        taken = read_maps(self.task_head, feature_maps(self.outline, image_size=image_size)).values()
        return {entry.segment: TokenReader(pyramid.reader(number), entry.grid) for number, entry in enumerate(taken)}

    def head_on_levels(self) -> HeadOnLevels:
        """Return the head for detection or segmentation without these readers."""
        *_, name = self.outline
        head: Any = self.get_submodule(name)
        return HeadOnLevels(head)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images into logits, or into what a head for detection or segmentation predicts."""
        if self.input_shape is not None:
            require_images(x, self.input_shape)
        if self.task_head is not None:
            maps = feature_maps(self.outline, image_size=x.shape[-1])
            taken = [maps.index(entry) for entry in read_maps(self.task_head, maps).values()]
            *_, head = self.outline
            outputs: Tensor = self.get_submodule(head)(self.forward_intermediates(x, taken, intermediates_only=True))
            return outputs
        for name in self.outline:
            x = self.get_submodule(name)(x)
        return x

    @property
    def task_head(self) -> TaskHead | None:
        """The head for detection or segmentation; None: the network is a classifier."""
        config = list(self.outline.values())[-1]
        return config.head if isinstance(config, TaskHeadConfig) else None

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and segment of each feature map, the finest first, as timm's models list them."""
        return [entry.to_timm() for entry in self._feature_maps()]

    @overload
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = ...,
        *,
        norm: bool = ...,
        stop_early: bool = ...,
        output_fmt: Literal["NCHW", "NLC"] = ...,
        intermediates_only: Literal[True],
    ) -> list[Tensor]: ...

    @overload
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = ...,
        *,
        norm: bool = ...,
        stop_early: bool = ...,
        output_fmt: Literal["NCHW", "NLC"] = ...,
        intermediates_only: Literal[False] = ...,
    ) -> tuple[Tensor, list[Tensor]]: ...

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps, as timm's models do.

        Args:
            x: Images of the network's shape.
            indices: Which feature maps: all (None), the last so many, or those of a list.
            norm: Apply the norm of the head to the maps that are as wide as its input.
            stop_early: Leave out the segments after the last map that is taken.
            output_fmt: Maps as images (NCHW) or as tokens without those in front of them (NLC).
            intermediates_only: Return the maps alone.

        Returns:
            The maps, or the input of the head (with `stop_early` the last map's tokens) and the maps.

        Raises:
            InputError: The network has no such feature maps, or their grid does not divide the images.
        """
        if self.input_shape is not None:
            require_images(x, self.input_shape)
        maps = feature_maps(self.outline, image_size=x.shape[-1])
        taken = [maps[index] for index in taken_indices(len(maps), indices)]
        *names, head = self.outline
        if stop_early or intermediates_only:
            names = names[: max(names.index(entry.segment) for entry in taken) + 1]
        outputs: dict[str, Tensor] = {}
        for name in names:
            x = outputs[name] = self.get_submodule(name)(x)
        if norm:
            layer = final_norm(self.get_submodule(head))
            width = maps[-1].grid.channels
            outputs |= {e.segment: layer(outputs[e.segment]) for e in taken if e.grid.channels == width}
        found = as_feature_maps(taken, outputs, output_fmt=output_fmt)
        return found if intermediates_only else (x, found)

    def _feature_maps(self) -> tuple[FeatureMap, ...]:
        if self.input_shape is None:
            raise InputError("a network whose feature maps are listed must know the size of its images", got=None)
        return feature_maps(self.outline, image_size=self.input_shape[-1])


class Backbone(nn.Module):
    """A copy of a network without its head, which returns feature maps.

    They are those that a head for detection or segmentation reads, or all of a classifier.

    Args:
        network: The network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        maps, head = network._feature_maps(), network.task_head
        taken = maps if head is None else tuple(read_maps(head, maps).values())
        self.indices = [maps.index(entry) for entry in taken]
        self.network = copy.deepcopy(network)
        *_, name = network.outline
        setattr(self.network, name, nn.Identity())
        self.feature_info = [entry.to_timm() for entry in taken]
        """Channels, stride and segment of each map, as in the network's own."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, the finest first."""
        return tuple(self.network.forward_intermediates(images, self.indices, intermediates_only=True))


def as_feature_maps(
    maps: Iterable[FeatureMap], outputs: Mapping[str, Tensor], *, output_fmt: Literal["NCHW", "NLC"] = "NCHW"
) -> list[Tensor]:
    """Return feature maps from the outputs of segments, as images (NCHW) or tokens (NLC)."""
    if output_fmt == "NLC":
        return [outputs[entry.segment][:, entry.grid.prefix_tokens :] for entry in maps]
    return [entry.grid.as_maps(outputs[entry.segment]) for entry in maps]


def final_norm(head: nn.Module) -> nn.Module:
    """Return the norm that a head applies to tokens; the identity if it applies none."""
    norm: nn.Module = getattr(head, "token_norm", None) or head.norm  # type: ignore[assignment]
    return norm


def require_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """Raise InputError unless a batch holds images of this (channels, height, width)."""
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        message = f"images must have the shape (batch, {', '.join(map(str, shape))})"
        raise InputError(message, got=tuple(images.shape))


def resized(images: Tensor, size: int) -> Tensor:
    """Resize square images to a side, on their device; those of that side are returned as they are."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _attach(root: nn.Module, name: str, module: nn.Module) -> None:
    *parents, last = name.split(".")
    for part in parents:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
