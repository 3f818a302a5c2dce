"""Keys of the released ViTAS checkpoints: supernets with private q and k, and retrained networks.

A retrained network numbers its blocks by their slots, with gaps where an identity is: `close_gaps` comes after
`translate` there.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from hwnas.supernet.official.keys import BLOCK_NUMBER, Rule

_STEM = r"net\.backbone_init_stem_Patch_init_0\."
_BLOCK = r"net\.backbone_Block_(?:Block|id)_(\d+)\.0\."
_LAYER = r"(weight|bias)"

_COMMON: tuple[Rule, ...] = (
    (_BLOCK + r"(norm1|norm2)\." + _LAYER, r"blocks.\1.\2.\3"),
    (_BLOCK + r"attn\.proj\." + _LAYER, r"blocks.\1.attention.proj.\2"),
    (_BLOCK + r"mlp\.(fc1|fc2)\." + _LAYER, r"blocks.\1.mlp.\2.\3"),
    (r"net\.backbone_Norm_Norm_0\.0\." + _LAYER, r"head.norm.\1"),
    (r"net\.backbone_FC_FC_0\.0\.module\.0\." + _LAYER, r"head.classifier.\1"),
)

SUPERNET_RULES: tuple[Rule, ...] = (
    (_STEM + r"(\d+)\.cls_token", r"stems.\1.class_token"),
    (_STEM + r"(\d+)\.pos_embed", r"stems.\1.position"),
    (_STEM + r"(\d+)\.patch_embed\.proj\." + _LAYER, r"stems.\1.patch_embed.\2"),
    (_BLOCK + r"attn\.qk(\d+)\." + _LAYER, r"blocks.\1.attention.qk.\2.\3"),
    (_BLOCK + r"attn\.v\." + _LAYER, r"blocks.\1.attention.v.\2"),
    *_COMMON,
)
"""A supernet: a stem for each patch size, q and k for each number of heads."""

NETWORK_RULES: tuple[Rule, ...] = (
    (_STEM + r"0\.cls_token", "stem.class_token"),
    (_STEM + r"0\.pos_embed", "stem.position"),
    (_STEM + r"0\.patch_embed\.proj\." + _LAYER, r"stem.patch_embed.\1"),
    (_BLOCK + r"attn\.qkv\." + _LAYER, r"blocks.\1.attention.qkv.\2"),
    *_COMMON,
)
"""A retrained network."""


def close_gaps(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a retrained network with its blocks numbered without gaps."""
    found = {name: re.match(BLOCK_NUMBER, name) for name in tensors}
    slots = sorted({int(match[1]) for match in found.values() if match})
    return {
        f"blocks.{slots.index(int(match[1]))}.{name[match.end() :]}" if match else name: tensors[name]
        for name, match in found.items()
    }
