"""Keys of the released AutoFormer checkpoints: supernets, and the sub-networks that they are tuned to."""

from hwnas.supernet.official.keys import Rule

_BLOCK = r"blocks\.(\d+)\."

RULES: tuple[Rule, ...] = (
    (r"cls_token", "stem.class_token"),
    (r"pos_embed", "stem.position"),
    (r"patch_embed_super\.proj\.(weight|bias)", r"stem.patch_embed.\1"),
    (_BLOCK + r"attn\.(qkv|proj)\.(weight|bias)", r"blocks.\1.attention.\2.\3"),
    (_BLOCK + r"attn\.rel_pos_embed_k\.embeddings_table_v", r"blocks.\1.attention.relative.key_rows"),
    (_BLOCK + r"attn\.rel_pos_embed_k\.embeddings_table_h", r"blocks.\1.attention.relative.key_columns"),
    (_BLOCK + r"attn\.rel_pos_embed_v\.embeddings_table_v", r"blocks.\1.attention.relative.value_rows"),
    (_BLOCK + r"attn\.rel_pos_embed_v\.embeddings_table_h", r"blocks.\1.attention.relative.value_columns"),
    (_BLOCK + r"attn_layer_norm\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (_BLOCK + r"ffn_layer_norm\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (_BLOCK + r"(fc1|fc2)\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    (r"norm\.(weight|bias)", r"head.norm.\1"),
    (r"head\.(weight|bias)", r"head.classifier.\1"),
)
