"""The models of the benchmark of elastic networks: a small ViT, the same with larger patches, a space of their range.

The names are registered for this process alone.
"""

import argparse
from typing import Any

from timm.models import register_model
from timm.models._builder import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from hwnas.space import SPACES
from hwnas.space.autoformer import AutoFormer, AutoFormerConfig

WIDTH, DEPTH, HEADS, PATCH, LARGER_PATCH = 96, 6, 6, 4, 6
MODEL, MODEL_OF_LARGER_PATCH = "timm:elastic_benchmark_vit_patch4", "timm:elastic_benchmark_vit_patch6"
SCRATCH_SPACE = "autoformer-elastic-range"


def _vit(name: str, *, patch: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    sizes = {"patch_size": patch, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "img_size": 32, **options}
    return build_model_with_cfg(VisionTransformer, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **sizes)


@register_model
def elastic_benchmark_vit_patch4(pretrained: bool = False, **options: Any) -> nn.Module:
    """A ViT of the width and depth of the benchmark."""
    return _vit("elastic_benchmark_vit_patch4", patch=PATCH, pretrained=pretrained, options=options)


@register_model
def elastic_benchmark_vit_patch6(pretrained: bool = False, **options: Any) -> nn.Module:
    """The same with larger patches."""
    return _vit("elastic_benchmark_vit_patch6", patch=LARGER_PATCH, pretrained=pretrained, options=options)


def register_scratch_space(options: argparse.Namespace) -> None:
    """Register a space of AutoFormer whose largest network has the sizes of the model."""
    config = AutoFormerConfig(
        image_size=options.image_size,
        num_classes=10,
        patch_size=PATCH,
        head_dim=WIDTH // HEADS,
        relative_clip=options.image_size // PATCH - 1,
        embed_dims=(48, 64, 80, WIDTH),
        depths=tuple(range(DEPTH // 2, DEPTH + 1)),
        num_heads=(2, 3, 4, 5, HEADS),
        mlp_ratios=(1.0, 2.0, 3.0, 4.0),
    )
    SPACES.add(SCRATCH_SPACE, AutoFormer(name=SCRATCH_SPACE, config=config))
