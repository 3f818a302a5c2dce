"""Rules that translate the keys of the official checkpoints, family by family.

AutoFormer: released supernets, and sub-networks that were fine-tuned from them. GLiT: the released network, whose
blocks hold the one candidate that the search left. ViTAS: supernets with private q and k, and retrained networks, which
number their blocks by slot, with gaps at identities; `close_gaps` renumbers them after `translate`. ViT-ResNAS:
super-networks and searched networks. Blocks and spatial reductions share one numbered list; a removed block keeps its
number without weights, or was deleted from the list by hand, and either way the remaining numbers follow the order of
the segments here. Twins: timm's networks.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from hwnas.errors import InputError
from hwnas.supernet.official.keys import BLOCK_NUMBER, Rule

_LAYER = r"(weight|bias)"
_AUTOFORMER_BLOCK = r"blocks\.(\d+)\."

AUTOFORMER_RULES: tuple[Rule, ...] = (
    (r"cls_token", "stem.class_token"),
    (r"pos_embed", "stem.position"),
    (r"patch_embed_super\.proj\.(weight|bias)", r"stem.patch_embed.\1"),
    (_AUTOFORMER_BLOCK + r"attn\.(qkv|proj)\.(weight|bias)", r"blocks.\1.attention.\2.\3"),
    (_AUTOFORMER_BLOCK + r"attn\.rel_pos_embed_k\.embeddings_table_v", r"blocks.\1.attention.relative.key_rows"),
    (_AUTOFORMER_BLOCK + r"attn\.rel_pos_embed_k\.embeddings_table_h", r"blocks.\1.attention.relative.key_columns"),
    (_AUTOFORMER_BLOCK + r"attn\.rel_pos_embed_v\.embeddings_table_v", r"blocks.\1.attention.relative.value_rows"),
    (_AUTOFORMER_BLOCK + r"attn\.rel_pos_embed_v\.embeddings_table_h", r"blocks.\1.attention.relative.value_columns"),
    (_AUTOFORMER_BLOCK + r"attn_layer_norm\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (_AUTOFORMER_BLOCK + r"ffn_layer_norm\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (_AUTOFORMER_BLOCK + r"(fc1|fc2)\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    (r"norm\.(weight|bias)", r"head.norm.\1"),
    (r"head\.(weight|bias)", r"head.classifier.\1"),
)


GLIT_BLOCK_RULES: tuple[Rule, ...] = (
    (r"(norm1|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)", r"\1.\2"),
    (r"attn\.(qkv|proj)\.(weight|bias)", r"attention.attention.\1.\2"),
    (r"attn\.net\.1\.(weight|bias)", r"attention.locality.expand.\1"),
    (r"attn\.net\.3\.conv\.(weight|bias)", r"attention.locality.depthwise.\1"),
    (r"attn\.net\.4\.(\w+)", r"attention.locality.batch_norm.\1"),
    (r"attn\.net\.6\.(weight|bias)", r"attention.locality.reduce.\1"),
)
"""Rules of a single block."""


def _glit_in_network(rule: Rule) -> Rule:
    """Return a rule of a block for a network: its groups follow the group of the block's number."""
    pattern, name = rule
    return rf"blocks\.(\d+)\.\d+\.{pattern}", r"blocks.\1." + name.replace(r"\2", r"\3").replace(r"\1", r"\2")


GLIT_RULES: tuple[Rule, ...] = (
    (r"cls_token", "stem.class_token"),
    (r"pos_embed", "stem.position"),
    (r"patch_embed\.proj\.(weight|bias)", r"stem.patch_embed.\1"),
    *map(_glit_in_network, GLIT_BLOCK_RULES),
    (r"norm\.(weight|bias)", r"head.norm.\1"),
    (r"head\.(weight|bias)", r"head.classifier.\1"),
)
"""Rules of a network."""


def locality_shapes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the 1-D convolutions of translated GLiT weights the shapes of linear layers and of a 2-D convolution."""
    return {name: _locality_shape(name, tensor) for name, tensor in tensors.items()}


def _locality_shape(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim != 3:  # of another layer, or wrong, which filling reports
        return tensor
    if name.endswith(("locality.expand.weight", "locality.reduce.weight")):
        return tensor.squeeze(2)
    return tensor.unsqueeze(2) if name.endswith("locality.depthwise.weight") else tensor


_VITAS_STEM = r"net\.backbone_init_stem_Patch_init_0\."
_VITAS_BLOCK = r"net\.backbone_Block_(?:Block|id)_(\d+)\.0\."

_VITAS_COMMON: tuple[Rule, ...] = (
    (_VITAS_BLOCK + r"(norm1|norm2)\." + _LAYER, r"blocks.\1.\2.\3"),
    (_VITAS_BLOCK + r"attn\.proj\." + _LAYER, r"blocks.\1.attention.proj.\2"),
    (_VITAS_BLOCK + r"mlp\.(fc1|fc2)\." + _LAYER, r"blocks.\1.mlp.\2.\3"),
    (r"net\.backbone_Norm_Norm_0\.0\." + _LAYER, r"head.norm.\1"),
    (r"net\.backbone_FC_FC_0\.0\.module\.0\." + _LAYER, r"head.classifier.\1"),
)

VITAS_SUPERNET_RULES: tuple[Rule, ...] = (
    (_VITAS_STEM + r"(\d+)\.cls_token", r"stems.\1.class_token"),
    (_VITAS_STEM + r"(\d+)\.pos_embed", r"stems.\1.position"),
    (_VITAS_STEM + r"(\d+)\.patch_embed\.proj\." + _LAYER, r"stems.\1.patch_embed.\2"),
    (_VITAS_BLOCK + r"attn\.qk(\d+)\." + _LAYER, r"blocks.\1.attention.qk.\2.\3"),
    (_VITAS_BLOCK + r"attn\.v\." + _LAYER, r"blocks.\1.attention.v.\2"),
    *_VITAS_COMMON,
)
"""Rules of a supernet: a stem per patch size, q and k per number of heads."""

VITAS_NETWORK_RULES: tuple[Rule, ...] = (
    (_VITAS_STEM + r"0\.cls_token", "stem.class_token"),
    (_VITAS_STEM + r"0\.pos_embed", "stem.position"),
    (_VITAS_STEM + r"0\.patch_embed\.proj\." + _LAYER, r"stem.patch_embed.\1"),
    (_VITAS_BLOCK + r"attn\.qkv\." + _LAYER, r"blocks.\1.attention.qkv.\2"),
    *_VITAS_COMMON,
)
"""Rules of a retrained network."""


def close_gaps(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Number the blocks of a retrained network without gaps."""
    found = {name: re.match(BLOCK_NUMBER, name) for name in tensors}
    slots = sorted({int(match[1]) for match in found.values() if match})
    return {
        f"blocks.{slots.index(int(match[1]))}.{name[match.end() :]}" if match else name: tensors[name]
        for name, match in found.items()
    }


_RESNAS_STEM: tuple[Rule, ...] = (
    (r"tokens", "tokens.class_token"),
    (r"pos_embed", "tokens.position"),
    (r"patch_embed\.(conv\d)\.conv\.weight", r"stem.\1.conv.weight"),
    (r"patch_embed\.(conv\d)\.bn\.(\w+)", r"stem.\1.norm.\2"),
    (r"patch_embed\.conv_proj\.(weight|bias)", r"tokens.patch_embed.\1"),
)
_RESNAS_BLOCK: tuple[Rule, ...] = (
    (r"(norm[12])\.(weight|bias)", r"\1.\2"),
    (r"attn\.(qkv|proj)\.(weight|bias)", r"attention.\1.\2"),
    (r"mlp\.(fc1|fc2)\.(weight|bias)", r"mlp.\1.\2"),
)
_RESNAS_REDUCTION: tuple[Rule, ...] = (
    (r"pos_embed", "position"),
    (r"norm\.(weight|bias)", r"norm.\1"),
    (r"patch_reduce\.(weight|bias)", r"conv.\1"),
    (r"token_transform\.(weight|bias)", r"class_token.\1"),
)
_RESNAS_HEAD: tuple[Rule, ...] = (
    (r"norm\.(weight|bias)", r"head.norm.\1"),
    (r"cls_head\.(weight|bias)", r"head.classifier.\1"),
)


def resnas_rules(segments: Iterable[str], keys: Iterable[str], *, patch_head: bool) -> tuple[Rule, ...]:
    """Return the rules of a ViT-ResNAS checkpoint.

    Args:
        segments: Names of the segments of the module to fill, in the order in which they run.
        keys: Keys of the checkpoint.
        patch_head: Whether the module has a patch head; otherwise that of the checkpoint is dropped.
    """
    patch = r"head.patch_classifier.\1" if patch_head else ""
    return (
        *_RESNAS_STEM,
        *_resnas_segments(list(segments), keys),
        *_RESNAS_HEAD,
        (r"patch_head\.(weight|bias)", patch),
    )


def _resnas_segments(segments: list[str], keys: Iterable[str]) -> list[Rule]:
    names = [name for name in segments if name.startswith(("stages.", "reductions."))]
    found = (re.match(BLOCK_NUMBER, key) for key in keys)
    numbers = sorted({int(match[1]) for match in found if match})
    if len(numbers) != len(names):
        message = f"the checkpoint must hold {len(names)} blocks and spatial reductions for this network"
        raise InputError(message, got=len(numbers), hint="check the space and the arch")
    return [
        (rf"blocks\.{number}\.{pattern}", rf"{name}.{renamed}")
        for number, name in zip(numbers, names, strict=True)
        for pattern, renamed in (_RESNAS_REDUCTION if name.startswith("reductions.") else _RESNAS_BLOCK)
    ]


_TWINS_BLOCK = r"blocks\.(\d+)\.(\d+)\."

TWINS_RULES: tuple[Rule, ...] = (
    (r"patch_embeds\.(\d+)\.proj\." + _LAYER, r"patch_embeds.\1.conv.\2"),
    (r"patch_embeds\.(\d+)\.norm\." + _LAYER, r"patch_embeds.\1.norm.\2"),
    (_TWINS_BLOCK + r"(norm1|norm2)\." + _LAYER, r"stages.\1.\2.\3.\4"),
    (_TWINS_BLOCK + r"attn\.(qkv|q|kv|proj)\." + _LAYER, r"stages.\1.\2.attention.\3.\4"),
    (_TWINS_BLOCK + r"attn\.sr\." + _LAYER, r"stages.\1.\2.attention.reduce.conv.\3"),
    (_TWINS_BLOCK + r"attn\.norm\." + _LAYER, r"stages.\1.\2.attention.reduce.norm.\3"),
    (_TWINS_BLOCK + r"mlp\.(fc1|fc2)\." + _LAYER, r"stages.\1.\2.mlp.\3.\4"),
    (r"pos_block\.(\d+)\.proj\.0\." + _LAYER, r"stages.\1.0.position.conv.\2"),
    (r"norm\." + _LAYER, r"head.norm.\1"),
    (r"head\." + _LAYER, r"head.classifier.\1"),
)
