"""Which axes of the common segments follow which width, given how each width is taken from the shared one."""

from collections.abc import Mapping

from hwnas.supernet.sharing import Index

Axes = Mapping[str, tuple[Index | None, ...]]
"""Per tensor of a segment, the index of each axis; what is not named is taken whole."""


def stem_axes(embed: Index) -> Axes:
    """`layers.PatchStem`."""
    return {
        "patch_embed.weight": (embed,),
        "patch_embed.bias": (embed,),
        "class_token": (None, None, embed),
        "position": (None, None, embed),
    }


def attention_axes(embed: Index, *, rows: Index, bias: Index, width: Index) -> Axes:
    """The first half of `layers.Block`, its q, k and v joint: `rows` of the weight and `bias` of the bias."""
    return {
        **norm_axes("norm1", embed),
        "attention.qkv.weight": (rows, embed),
        "attention.qkv.bias": (bias,),
        **linear_axes("attention.proj", width, embed),
    }


def mlp_axes(embed: Index, *, hidden: Index) -> Axes:
    """The second half of `layers.Block`."""
    return {
        **norm_axes("norm2", embed),
        **linear_axes("mlp.fc1", embed, hidden),
        **linear_axes("mlp.fc2", hidden, embed),
    }


def head_axes(embed: Index) -> Axes:
    """`layers.Head`: all classes, always."""
    return {**norm_axes("norm", embed), "classifier.weight": (None, embed)}


def norm_axes(name: str, channels: Index) -> Axes:
    """Scale and shift of a norm."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def linear_axes(name: str, inputs: Index, outputs: Index) -> Axes:
    """Weight and bias of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
