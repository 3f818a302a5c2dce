"""Keys of the released GLiT checkpoint, whose blocks hold the one candidate that is left of the search."""

from hwnas.supernet.official.keys import Rule

BLOCK_RULES: tuple[Rule, ...] = (
    (r"(norm1|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)", r"\1.\2"),
    (r"attn\.(qkv|proj)\.(weight|bias)", r"attention.attention.\1.\2"),
    (r"attn\.net\.1\.(weight|bias)", r"attention.locality.expand.\1"),
    (r"attn\.net\.3\.conv\.(weight|bias)", r"attention.locality.depthwise.\1"),
    (r"attn\.net\.4\.(\w+)", r"attention.locality.batch_norm.\1"),
    (r"attn\.net\.6\.(weight|bias)", r"attention.locality.reduce.\1"),
)
"""A block by itself."""


def _in_network(rule: Rule) -> Rule:
    """A rule of a block, its groups counted on after the block's number."""
    pattern, name = rule
    return rf"blocks\.(\d+)\.\d+\.{pattern}", r"blocks.\1." + name.replace(r"\2", r"\3").replace(r"\1", r"\2")


RULES: tuple[Rule, ...] = (
    (r"cls_token", "stem.class_token"),
    (r"pos_embed", "stem.position"),
    (r"patch_embed\.proj\.(weight|bias)", r"stem.patch_embed.\1"),
    *map(_in_network, BLOCK_RULES),
    (r"norm\.(weight|bias)", r"head.norm.\1"),
    (r"head\.(weight|bias)", r"head.classifier.\1"),
)
"""A network."""
