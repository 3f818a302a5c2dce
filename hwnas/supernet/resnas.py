"""ViT-ResNAS's supernet: every width is a prefix of the widest, with convolutions before and between the stages.

The stem's convolutions are equal in all networks of a space, so that several networks in one step run them once, on the
full batch. In addition to the classifier of the class token, the supernet may train a classifier of patches (token
labels), which extracted networks omit unless it is requested. Convolutions are initialised as in torch, all else as in
DeiT.

Shape suffixes: B images, N tokens, D channels, G rows and columns of the grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space.resnas import ResNas, ResNasArch, ResNasConfig
from hwnas.supernet.features import TokenGrid
from hwnas.supernet.layers import (
    ClassifierHead,
    Mlp,
    MultiHeadAttention,
    StemConfig,
    TransformerBlock,
    drop_path_rates,
    init_linears,
)
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.segments import SlicedSegment, sliced_segment
from hwnas.supernet.sharing import (
    Axes,
    attention_axes,
    head_axes,
    linear_axes,
    mlp_axes,
    norm_axes,
    prefix,
    stem_axes,
    thirds,
)
from hwnas.supernet.sorting import UnitGroup, block_groups
from hwnas.supernet.supernet import Supernet, SupernetConfig

EPS = 1e-6

PatchLogits = Literal["never", "training", "always"]
"""Modes in which the head returns (logits, logits of each patch) instead of logits."""


@dataclass(frozen=True, kw_only=True)
class ResNasSupernetConfig(SupernetConfig):
    """Options of a ViT-ResNAS supernet."""

    patch_logits: PatchLogits = "never"
    """Unless never, the head has a classifier of patches, for training with token labels."""


@dataclass(frozen=True, kw_only=True)
class ConvStemConfig:
    """Config of a stem of three convolutions with batch norm."""

    channels: int
    stem_channels: int

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        return ConvStem(self)


@dataclass(frozen=True, kw_only=True)
class ResNasBlockConfig:
    """Config of a block of attention and an MLP."""

    embed_dim: int
    num_heads: int
    head_dim: int
    hidden_dim: int
    drop_path: float = 0.0

    weight_sizes: ClassVar = ("hidden_dim",)
    """Fields that the shapes of weights depend on, and nothing else."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        width = self.num_heads * self.head_dim
        attention = MultiHeadAttention(embed_dim=self.embed_dim, num_heads=self.num_heads, width=width)
        mlp = Mlp(embed_dim=self.embed_dim, hidden_dim=self.hidden_dim)
        block = TransformerBlock(attention, mlp, embed_dim=self.embed_dim, eps=EPS, drop_path=self.drop_path)
        init_linears(block)
        return block


@dataclass(frozen=True, kw_only=True)
class ReductionConfig:
    """Config of a spatial reduction: half the grid, another width."""

    inputs: int
    outputs: int
    grid: int
    """Patches along one side of its input."""
    prefix_tokens: int = 1
    """Tokens in front of those of the patches."""

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        reduction = Reduction(self)
        init_linears(reduction)
        nn.init.trunc_normal_(reduction.position, std=0.02)
        return reduction

    def token_grid(self, image_size: int) -> TokenGrid:
        """Return the grid of its tokens."""
        return TokenGrid(side=self.grid // 2, channels=self.outputs, prefix_tokens=self.prefix_tokens)


@dataclass(frozen=True, kw_only=True)
class ResNasHeadConfig:
    """Config of a head with the classifier of the class token, and those of patches or of the distillation token."""

    embed_dim: int
    num_classes: int
    patch_logits: PatchLogits
    distillation: bool = False

    def build(self) -> nn.Module:
        """Build the segment with fresh weights."""
        plain = self.patch_logits == "never" and not self.distillation
        head = (
            ClassifierHead(embed_dim=self.embed_dim, num_classes=self.num_classes, eps=EPS)
            if plain
            else TrainingHead(self)
        )
        init_linears(head)
        return head


class ConvNorm(nn.Module):
    """A 3x3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Apply the layers."""
        return F.relu(self.norm(self.conv(images)))


class ConvStem(nn.Module):
    """Three convolutions at half the image size, the last two with a skip around them."""

    def __init__(self, config: ConvStemConfig) -> None:
        super().__init__()
        self.conv1 = ConvNorm(config.channels, config.stem_channels, stride=2)
        self.conv2 = ConvNorm(config.stem_channels, config.stem_channels)
        self.conv3 = ConvNorm(config.stem_channels, config.stem_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images into feature maps."""
        # Channels last takes a third off the stem's time on a CPU.
        images = self.conv1(images.contiguous(memory_format=torch.channels_last))
        out: Tensor = images + self.conv3(self.conv2(images))
        return out


class Reduction(nn.Module):
    """A strided convolution of normalised patches and a linear of the normalised class token, plus a pooled skip."""

    def __init__(self, config: ReductionConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.prefix_tokens = config.prefix_tokens
        self.widening = config.outputs - config.inputs
        self.norm = nn.LayerNorm(config.inputs, eps=EPS)
        self.conv = nn.Conv2d(config.inputs, config.outputs, 3, 2, padding=1)
        self.position = nn.Parameter(torch.zeros(1, (config.grid // 2) ** 2, config.outputs))
        self.class_token = nn.Linear(config.inputs, config.outputs)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Turn the tokens of one stage into tokens of the next."""
        normed = self.norm(x_BND)
        patches = self.conv(self._image(normed)).flatten(2).transpose(1, 2) + self.position
        pooled = F.avg_pool2d(self._image(x_BND), 2).flatten(2).transpose(1, 2)
        # The skip has the old channels; zeros stand for the new ones, so it needs no weights.
        front = slice(self.prefix_tokens)
        skip = F.pad(torch.cat([x_BND[:, front], pooled], dim=1), (0, self.widening))
        return torch.cat([self.class_token(normed[:, front]), patches], dim=1) + skip

    def _image(self, x_BND: Tensor) -> Tensor:
        """Reshape the patches to (B, D, G, G)."""
        return x_BND[:, self.prefix_tokens :].transpose(1, 2).reshape(x_BND.shape[0], -1, self.grid, self.grid)


class TrainingHead(nn.Module):
    """Final norm, the classifier of the class token, and those of the distillation token or of the patches.

    Attributes:
        classifies_patches: True if there is a classifier of the patches.
    """

    def __init__(self, config: ResNasHeadConfig) -> None:
        super().__init__()
        self.always = config.patch_logits == "always"
        self.classifies_patches = config.patch_logits != "never"
        self.norm = nn.LayerNorm(config.embed_dim, eps=EPS)
        self.classifier = nn.Linear(config.embed_dim, config.num_classes)
        if config.distillation:
            self.distillation_classifier = nn.Linear(config.embed_dim, config.num_classes)
        if self.classifies_patches:
            self.patch_classifier = nn.Linear(config.embed_dim, config.num_classes)
        self.distillation = config.distillation

    def forward(self, x_BND: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Turn tokens into logits, and in training into those of the distillation token and of each patch as well.

        Otherwise the logits are the mean of both tokens', and those of patches are returned only if configured.
        """
        x_BND = self.norm(x_BND)
        logits: Tensor = self.classifier(x_BND[:, 0])
        outputs = [logits]
        if self.distillation:
            distilled: Tensor = self.distillation_classifier(x_BND[:, 1])
            outputs = [logits, distilled] if self.training else [(logits + distilled) / 2]
        if self.classifies_patches and (self.training or self.always):
            outputs.append(self.patch_classifier(x_BND[:, 2 if self.distillation else 1 :]))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def outline(
    config: ResNasConfig, arch: ResNasArch, *, drop_path: float = 0.0, patch_logits: PatchLogits = "never"
) -> dict[str, SegmentConfig]:
    """Return the segment configs of a network.

    Args:
        config: Config of the space.
        arch: The network. Blocks that exist are numbered without gaps.
        drop_path: Rate of stochastic depth in the last slot of the space.
        patch_logits: When the head returns logits of each patch.
    """
    embeds = [stage.embed_dim for stage in arch.stages]
    segments: dict[str, SegmentConfig] = {
        "stem": ConvStemConfig(channels=config.channels, stem_channels=config.stem_channels),
        "tokens": StemConfig(
            channels=config.stem_channels,
            patch_size=config.patch_size,
            grid=config.grids[0],
            embed_dim=embeds[0],
            prefix_tokens=config.prefix_tokens,
        ),
    }
    rates = iter(drop_path_rates(drop_path, slots=sum(len(stage.blocks) for stage in arch.stages)))
    for number in range(len(arch.stages)):
        if number:
            segments[f"reductions.{number - 1}"] = ReductionConfig(
                inputs=embeds[number - 1],
                outputs=embeds[number],
                grid=config.grids[number - 1],
                prefix_tokens=config.prefix_tokens,
            )
        blocks = _blocks(config, arch, number, rates)
        segments.update((f"stages.{number}.{index}", block) for index, block in enumerate(blocks))
    segments["head"] = ResNasHeadConfig(
        embed_dim=embeds[-1],
        num_classes=config.num_classes,
        patch_logits=patch_logits,
        distillation=bool(config.distillation),
    )
    return segments


def _blocks(config: ResNasConfig, arch: ResNasArch, number: int, rates: Iterator[float]) -> Iterator[ResNasBlockConfig]:
    """Yield the blocks that exist in a stage; slots without a block take their drop-path rate as well."""
    stage = arch.stages[number]
    for block, rate in zip(stage.blocks, [next(rates) for _ in stage.blocks], strict=True):
        if block is not None:
            yield ResNasBlockConfig(
                embed_dim=stage.embed_dim,
                num_heads=block.num_heads,
                head_dim=config.stages[number].head_dim,
                hidden_dim=block.hidden_dim,
                drop_path=rate,
            )


def live_slots(arch: ResNasArch) -> dict[str, str]:
    """Map the names of a network's blocks to the names of their slots in the supernet."""
    return {
        f"stages.{number}.{index}": f"stages.{number}.{slot}"
        for number, stage in enumerate(arch.stages)
        for index, slot in enumerate(slot for slot, block in enumerate(stage.blocks) if block is not None)
    }


class ResNasSupernet(Supernet[ResNasConfig, ResNasArch, ResNasSupernetConfig]):
    """The shared weights of a ViT-ResNAS space."""

    space_type = ResNas
    config_type = ResNasSupernetConfig

    def __init__(self, space: ResNas, config: ResNasSupernetConfig | None = None) -> None:
        config = config or ResNasSupernetConfig()
        widest = Network(outline(space.config, space.largest(), patch_logits=config.patch_logits))
        super().__init__(space, config, widest)
        self._widest = widest.outline

    def path(self, arch: ResNasArch) -> dict[str, SlicedSegment]:
        """Return the segments of a network, every width a prefix."""
        return self._path(arch, self.config.patch_logits)

    def outline(self, arch: ResNasArch, *, patch_logits: PatchLogits = "never") -> dict[str, SegmentConfig]:
        """Return the segment configs that the extracted network is built from, with a patch head if requested."""
        return {name: segment.config for name, segment in self._extraction(arch, patch_logits).items()}

    def subnet(self, arch: ResNasArch, *, patch_logits: PatchLogits = "never") -> Network:
        """Extract a network with its own copy of the weights, in this module's mode.

        Args:
            arch: A network of the space.
            patch_logits: When the network returns logits of each patch; by default it has no patch head.

        Raises:
            InputError: The network is not of this space, or the supernet has no patch head to extract.
        """
        return self._extracted(self._extraction(arch, patch_logits), input_shape=self.space.config.input_shape)

    def sortable(self) -> tuple[UnitGroup, ...]:
        """Return the heads and hidden units of all slots, to be sorted in `self.shared` by `sort_units`."""
        blocks = [(name, config) for name, config in self._widest.items() if isinstance(config, ResNasBlockConfig)]
        return tuple(group for name, config in blocks for group in block_groups(name, num_heads=config.num_heads))

    def _extraction(self, arch: ResNasArch, patch_logits: PatchLogits) -> dict[str, SlicedSegment]:
        self.space.encode([arch])
        if patch_logits != "never" and self.config.patch_logits == "never":
            raise InputError(
                "a patch head can only come from a supernet that has one", got=f"patch_logits={patch_logits}"
            )
        return self.with_task_head(self._path(arch, patch_logits))

    def _path(self, arch: ResNasArch, patch_logits: PatchLogits) -> dict[str, SlicedSegment]:
        slots, path = live_slots(arch), {}
        segments = outline(self.space.config, arch, drop_path=self.config.drop_path, patch_logits=patch_logits)
        for name, config in segments.items():
            shared = slots.get(name, name)
            path[name] = sliced_segment(shared, config, _axes(config, self._widest[shared]))
        return path


def _axes(config: SegmentConfig, widest: SegmentConfig) -> Axes:
    match config, widest:
        case ConvStemConfig(), _:
            return {}
        case StemConfig(), _:
            return stem_axes(prefix(config.embed_dim))
        case ResNasBlockConfig(), ResNasBlockConfig():
            embed, width = prefix(config.embed_dim), config.num_heads * config.head_dim
            rows = thirds(3 * width, total=3 * widest.num_heads * widest.head_dim)
            attention = attention_axes(embed, rows=rows, bias=rows, width=prefix(width))
            return {**attention, **mlp_axes(embed, hidden=prefix(config.hidden_dim))}
        case ReductionConfig(), _:
            inputs, outputs = prefix(config.inputs), prefix(config.outputs)
            return {
                **norm_axes("norm", inputs),
                **linear_axes("conv", inputs, outputs),
                "position": (None, None, outputs),
                **linear_axes("class_token", inputs, outputs),
            }
        case ResNasHeadConfig(), _:
            embed = prefix(config.embed_dim)
            own = {f"{name}.weight": (None, embed) for name in ("distillation_classifier", "patch_classifier")}
            return {**head_axes(embed), **own}
    raise AssertionError(config)


SUPERNET = ResNasSupernet
SEGMENTS = {
    "resnas.ConvStemConfig": ConvStemConfig,
    "layers.StemConfig": StemConfig,
    "resnas.BlockConfig": ResNasBlockConfig,
    "resnas.ReductionConfig": ReductionConfig,
    "resnas.HeadConfig": ResNasHeadConfig,
}
