"""Keys of the checkpoints of the ViT-ResNAS code: super-networks and searched networks.

Blocks and spatial reductions stand there in one numbered list. A removed block keeps its number and has no weights,
or was deleted from the list by hand; either way the numbers that are left follow the order of ours.
"""

import re
from collections.abc import Iterable

from hwnas.errors import InputError
from hwnas.supernet.official.keys import BLOCK_NUMBER, Rule

_STEM: tuple[Rule, ...] = (
    (r"tokens", "tokens.class_token"),
    (r"pos_embed", "tokens.position"),
    (r"patch_embed\.(conv\d)\.conv\.weight", r"stem.\1.conv.weight"),
    (r"patch_embed\.(conv\d)\.bn\.(\w+)", r"stem.\1.norm.\2"),
    (r"patch_embed\.conv_proj\.(weight|bias)", r"tokens.patch_embed.\1"),
)
_BLOCK: tuple[Rule, ...] = (
    (r"(norm[12])\.(weight|bias)", r"\1.\2"),
    (r"attn\.(qkv|proj)\.(weight|bias)", r"attention.\1.\2"),
    (r"mlp\.(fc1|fc2)\.(weight|bias)", r"mlp.\1.\2"),
)
_REDUCTION: tuple[Rule, ...] = (
    (r"pos_embed", "position"),
    (r"norm\.(weight|bias)", r"norm.\1"),
    (r"patch_reduce\.(weight|bias)", r"conv.\1"),
    (r"token_transform\.(weight|bias)", r"class_token.\1"),
)
_HEAD: tuple[Rule, ...] = (
    (r"norm\.(weight|bias)", r"head.norm.\1"),
    (r"cls_head\.(weight|bias)", r"head.classifier.\1"),
)


def rules(segments: Iterable[str], keys: Iterable[str], *, patch_head: bool) -> tuple[Rule, ...]:
    """The rules for a checkpoint with these keys, given the names of our segments in the order in which they run.

    Without a patch head in our network, the checkpoint's is left out.
    """
    patch = r"head.patch_classifier.\1" if patch_head else ""
    return (*_STEM, *_numbered(list(segments), keys), *_HEAD, (r"patch_head\.(weight|bias)", patch))


def _numbered(segments: list[str], keys: Iterable[str]) -> list[Rule]:
    names = [name for name in segments if name.startswith(("stages.", "reductions."))]
    found = (re.match(BLOCK_NUMBER, key) for key in keys)
    numbers = sorted({int(match[1]) for match in found if match})
    if len(numbers) != len(names):
        message = f"the checkpoint must hold {len(names)} blocks and spatial reductions for this network"
        raise InputError(message, got=len(numbers), hint="check the space and the arch")
    return [
        (rf"blocks\.{number}\.{pattern}", rf"{name}.{ours}")
        for number, name in zip(numbers, names, strict=True)
        for pattern, ours in (_REDUCTION if name.startswith("reductions.") else _BLOCK)
    ]
