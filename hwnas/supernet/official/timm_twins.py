"""Keys of timm's Twins-SVT networks."""

from hwnas.supernet.official.keys import Rule

_BLOCK = r"blocks\.(\d+)\.(\d+)\."
_LAYER = r"(weight|bias)"

RULES: tuple[Rule, ...] = (
    (r"patch_embeds\.(\d+)\.proj\." + _LAYER, r"patch_embeds.\1.conv.\2"),
    (r"patch_embeds\.(\d+)\.norm\." + _LAYER, r"patch_embeds.\1.norm.\2"),
    (_BLOCK + r"(norm1|norm2)\." + _LAYER, r"stages.\1.\2.\3.\4"),
    (_BLOCK + r"attn\.(qkv|q|kv|proj)\." + _LAYER, r"stages.\1.\2.attention.\3.\4"),
    (_BLOCK + r"attn\.sr\." + _LAYER, r"stages.\1.\2.attention.reduce.conv.\3"),
    (_BLOCK + r"attn\.norm\." + _LAYER, r"stages.\1.\2.attention.reduce.norm.\3"),
    (_BLOCK + r"mlp\.(fc1|fc2)\." + _LAYER, r"stages.\1.\2.mlp.\3.\4"),
    (r"pos_block\.(\d+)\.proj\.0\." + _LAYER, r"stages.\1.0.position.conv.\2"),
    (r"norm\." + _LAYER, r"head.norm.\1"),
    (r"head\." + _LAYER, r"head.classifier.\1"),
)
