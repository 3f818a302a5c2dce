"""Elastic spaces and supernets of timm's vision transformers, and pretrained weights of timm's models.

Supported are `VisionTransformer` and `VisionTransformerDistilled` (DeiT, DeiT III, AugReg, DINO, DINOv2, CLIP, SigLIP)
and `Eva` (EVA-02, DINOv3), with the blocks that these models have. What a model has beyond that is refused by name.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hwnas.errors import InputError, MissingError, unknown
from hwnas.export.timm_models import build_timm, default_image_size
from hwnas.files import require_regular
from hwnas.space.elastic import (
    PREFIXES,
    SIZES,
    Activation,
    Elastic,
    ElasticConfig,
    Pooling,
    fitting_patches,
    scaled_sizes,
)
from hwnas.space.space import require_multiple
from hwnas.supernet.elastic import ElasticSupernet, ElasticSupernetConfig
from hwnas.train.data.augment import IMAGENET, Normalization
from hwnas.train.models import create_timm_model

_CLASSES = ("VisionTransformer", "VisionTransformerDistilled", "Eva")
_ACTIVATIONS: Mapping[str, Activation] = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
_SHARES_OF_HEADS = (0.0, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
_SHARES_OF_HIDDEN = (0.0, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
_SHARES_OF_SIZE = (4 / 7, 5 / 7, 6 / 7, 1.0)
_SHARES_OF_PATCH = (1.0, 1.25, 1.5, 2.0)
_HIDDEN_STEP = 64
"""Widths of MLPs are rounded to multiples of it."""


def elastic_space(name: str, *, image_size: int | None = None, num_classes: int | None = None) -> Elastic:
    """Make the elastic space of a model of timm.

    Args:
        name: The model in timm, or the name of the space: `elastic:timm:NAME`, with `@SIZE` for other images than the
            model's and `+sizes` for networks that choose their images and patches; or the name of such a space.
        image_size: Side of the images; None: that in the name, or else the model's.
        num_classes: Number of classes; None: the model's, or 1,000 for a model without a classifier.

    Raises:
        InputError: timm has no such model, it is of a kind that is not supported, or images of another size than the
            model's are no multiple of its patches.
    """
    parsed = parse_space_name(name)
    size = image_size or parsed.image_size
    model = build_timm(parsed.model, image_size=size)
    space = space_of(model.module, name=parsed.model, num_classes=num_classes, sizes=parsed.sizes)
    if size not in (None, default_image_size(parsed.model)):
        # timm cuts what is more than whole patches off; some models have such images, but none should be chosen.
        require_multiple("the size of images", space.config.image_size, space.config.patch_size, "the size of a patch")
    return space


class SpaceName(NamedTuple):
    """The parts of the name of an elastic space."""

    model: str
    image_size: int | None
    """Side of the images, where it is not the model's."""
    sizes: bool
    """True if networks choose the sizes of their images and patches."""

    @property
    def listed(self) -> str:
        """The name as it can be part of a file's."""
        size = "" if self.image_size is None else f"-{self.image_size}px"
        return f"elastic-{self.model}{size}{SIZES if self.sizes else ''}"


def parse_space_name(name: str) -> SpaceName:
    """Split the name of an elastic space, or that of a model.

    Raises:
        InputError: The size of the images is no whole number above 0.
    """
    rest = next((name[len(prefix) :] for prefix in (*PREFIXES, "timm:") if name.casefold().startswith(prefix)), name)
    listed = re.fullmatch(r"(.+?)(?:-([1-9][0-9]{0,4})px)?(-sizes)?", rest)
    written = re.fullmatch(r"([^@+]+)(?:@([1-9][0-9]{0,4}))?(\+sizes)?", rest)
    found = written if listed is None or "@" in rest or "+" in rest else listed
    if found is None:
        message = "an elastic space is elastic:timm:NAME, perhaps with @SIZE for its images and +sizes"
        raise InputError(message, got=name, hint="elastic:timm:vit_tiny_patch16_224@112+sizes")
    model, size, sizes = found.groups()
    return SpaceName(model, None if size is None else int(size), sizes is not None)


def space_of(model: nn.Module, *, name: str, num_classes: int | None = None, sizes: bool = False) -> Elastic:
    """Make the elastic space of a model.

    Args:
        model: A vision transformer of timm, on any device.
        name: Its name in timm.
        num_classes: Number of classes; None: the model's, or 1,000 for a model without a classifier.
        sizes: True if networks also choose the sizes of images and patches (`with_sizes`).

    Raises:
        InputError: The model is of a kind that is not supported.
    """
    config = _read_config(model, name=name, num_classes=num_classes)
    own_size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, config.image_size))[1]
    size = None if config.image_size == own_size else config.image_size
    space = Elastic(name=SpaceName(name, size, sizes).listed, config=config)
    published: Mapping[str, Any] = {name: space.original}
    space = replace(space, published=published)
    return with_sizes(space) if sizes else space


def with_sizes(space: Elastic) -> Elastic:
    """Return an elastic space whose networks also choose the sizes of images and patches.

    Images have 4/7, 5/7, 6/7 and all of the model's size (128, 160, 192 and 224 pixels), in whole patches; patches have
    1, 1.25, 1.5 and 2 times the model's size, where they divide one of the images.

    Args:
        space: A space of one size of images and patches; fields of its config are other choices.
    """
    config = replace(space.config, image_sizes=(), patch_sizes=())
    size, patch = config.image_size, config.patch_size
    images = scaled_sizes(size, patch, shares=_SHARES_OF_SIZE)
    patches = fitting_patches((round(share * patch) for share in _SHARES_OF_PATCH), images or (size,), config.grid)
    changed = replace(config, image_sizes=images, patch_sizes=patches)
    return Elastic(name=space.name, config=changed, published=space.published)


def supernet_of(
    model: nn.Module, *, name: str, num_classes: int | None = None, drop_path: float = 0.0, sizes: bool = False
) -> ElasticSupernet:
    """Make the supernet of a model, with the model's weights.

    Args:
        model: A vision transformer of timm.
        name: Its name in timm.
        num_classes: Number of classes; where it is not the model's, the classifier has fresh weights.
        drop_path: Rate of stochastic depth in the last block.
        sizes: True if networks also choose the sizes of images and patches (`with_sizes`).

    Returns:
        The supernet, which at its largest computes what the model computes, on the CPU and in training mode.

    Raises:
        InputError: The model is of a kind that is not supported.
    """
    space = space_of(model, name=name, num_classes=num_classes, sizes=sizes)
    supernet = ElasticSupernet(space, ElasticSupernetConfig(drop_path=drop_path))
    weights = dict(supernet_weights(model, space.config))
    own = dict(supernet.shared.named_parameters())
    fresh = {key for key in own if key.startswith(("head.classifier", "head.distilled"))} - weights.keys()
    assert own.keys() == weights.keys() | fresh, sorted(own.keys() ^ weights.keys())
    with torch.no_grad():
        for key, value in weights.items():
            own[key].copy_(value)
    return supernet


def load_pretrained(
    name: str,
    *,
    image_size: int,
    num_classes: int | None = None,
    pretrained: bool = False,
    checkpoint: Path | None = None,
) -> nn.Module:
    """Load a model of timm with weights, at any image size that it takes.

    Args:
        name: `timm:NAME`.
        image_size: Side of the images; tables of positions are interpolated.
        num_classes: Number of classes; None: as many as the weights have.
        pretrained: Use the published weights, which timm downloads.
        checkpoint: A file of weights, safetensors or of torch, in place of the published ones.

    Raises:
        InputError: The weights cannot be read, or are those of another model.
        MissingError: The published weights can be neither found nor downloaded.
    """
    if checkpoint is not None:
        state = _read_checkpoint(checkpoint)
        classes = _num_classes(state) if num_classes is None else num_classes
        model = create_timm_model(name, image_size=image_size, num_classes=classes)
        try:
            model.load_state_dict(_filtered(state, model))
        except Exception as error:  # torch raises various types for weights that do not fit
            raise InputError(f"{checkpoint} must hold the weights of {name}", got=first_line(error)) from error
        return model
    assert pretrained, "a model without weights"
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        return create_timm_model(name, image_size=image_size, pretrained=True, **options)
    except InputError:
        raise
    except Exception as error:  # the client of the hub raises many types if it has no connection
        message = f"the published weights of {name} must be on this machine or downloadable"
        hint = "a file of the weights: --checkpoint FILE, or --teacher-weights FILE"
        raise MissingError(message, got=first_line(error), hint=hint) from error


def load_weights(
    model: nn.Module, name: str, *, image_size: int, pretrained: bool, checkpoint: Path | None
) -> tuple[str, ...]:
    """Give a model of timm weights for a training, in place; a classifier of other classes keeps its own.

    Args:
        model: The model.
        name: `timm:NAME`.
        image_size: Side of its images; tables of positions are interpolated.
        pretrained: Use the published weights, which timm downloads.
        checkpoint: A file of weights, safetensors or of torch, in place of the published ones.

    Returns:
        The names of the tensors of the classifier that were not given.

    Raises:
        InputError: The weights cannot be read, or are those of another model.
        MissingError: The published weights can be neither found nor downloaded.
    """
    own = model.state_dict()
    classifier = _classifier_names(model)
    if checkpoint is not None:
        given = _filtered(_read_checkpoint(checkpoint), model)
    else:
        given = load_pretrained(name, image_size=image_size, pretrained=pretrained).state_dict()
    fits = {key for key, value in own.items() if key in given and given[key].shape == value.shape}
    fresh = tuple(key for key in own if key not in fits)
    missing = [key for key in fresh if not key.startswith(classifier)]
    if missing:
        where = name if checkpoint is None else str(checkpoint)
        raise InputError(f"{where} must hold the weights of {name}", got=f"no {missing[0]} of its shape")
    model.load_state_dict({**own, **{key: given[key] for key in fits}})
    return fresh


def _classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifiers of a model of timm, as its config has them."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def num_classes_of_weights(name: str, *, checkpoint: Path | None) -> int:
    """Return the number of classes of a model of timm with the weights in a file; 0 if it has no classifier.

    Args:
        name: `timm:NAME`.
        checkpoint: The file; None: the published weights, which are not downloaded for this.
    """
    if checkpoint is not None:
        return _num_classes(_read_checkpoint(checkpoint))
    return int(getattr(build_timm(name.removeprefix("timm:")).module, "num_classes", 0))


def own_normalization(model: nn.Module) -> Normalization:
    """Return the normalization of images that a model of timm was trained with, according to its config."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (tuple(config.get(name) or getattr(IMAGENET, name)) for name in ("mean", "std"))
    return Normalization(mean=mean, std=std)


@torch.no_grad()
def fold_normalization(supernet: ElasticSupernet, own: Normalization, *, given: Normalization = IMAGENET) -> None:
    """Let a supernet take images of another normalization than its model was trained with, in place.

    The change of scale and shift of each channel becomes part of the patch embedding, which has no padding.
    """
    if own == given:
        return
    mean, std, given_mean, given_std = (torch.tensor(v) for v in (own.mean, own.std, given.mean, given.std))
    embedding = dict(supernet.shared.named_parameters())
    weight, bias = embedding["stem.patch_embed.weight"], embedding["stem.patch_embed.bias"]
    bias.add_((weight * ((given_mean - mean) / std)[:, None, None]).sum(dim=(1, 2, 3)))
    weight.mul_((given_std / std)[:, None, None])


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that is no heading, or its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if not line.endswith(":")), next(iter(lines), type(error).__name__))


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    require_regular(path)
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise various types for broken files
        raise InputError(f"{path} must hold weights", got=first_line(error)) from error
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _num_classes(state: Mapping[str, Tensor]) -> int:
    """Return the number of classes of a vision transformer's weights; 0 if they have no classifier."""
    classifier = state.get("head.weight")
    return 0 if classifier is None else len(classifier)


def _filtered(state: dict[str, Tensor], model: nn.Module) -> Any:
    """Convert weights as timm does when it loads them: other names, other sizes of patches and position tables."""
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    own = model.state_dict()
    fits = own.keys() == state.keys() and all(own[key].shape == value.shape for key, value in state.items())
    return state if fits or convert is None else convert(state, model)


def _read_config(model: Any, *, name: str, num_classes: int | None) -> ElasticConfig:
    kind = type(model).__name__
    if kind not in _CLASSES:
        message = f"elastic spaces are made of models of some of timm's classes, and {name} is of another"
        raise InputError(message, got=kind, known=_CLASSES)
    _require_plain(model, name)
    block = model.blocks[0]
    attention, mlp = block.attn, block.mlp
    gated = type(mlp).__name__ in ("SwiGLU", "GluMlp")
    num_heads, hidden_dim = attention.num_heads, mlp.fc2.in_features
    pool = model.attn_pool if model.global_pool == "map" else None
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    return ElasticConfig(
        image_size=model.patch_embed.img_size[0],
        channels=model.patch_embed.proj.in_channels,
        num_classes=num_classes or model.num_classes or 1000,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        head_dim=attention.head_dim,
        num_heads=tuple(sorted({round(share * num_heads) for share in _SHARES_OF_HEADS})),
        hidden_dims=tuple(sorted({_rounded(share, hidden_dim) for share in _SHARES_OF_HIDDEN})),
        patch_size=model.patch_embed.patch_size[0],
        # Another normalization of the images is folded into the patch embedding, which needs a bias for that.
        patch_bias=model.patch_embed.proj.bias is not None or own_normalization(model) != IMAGENET,
        prefix_tokens=model.num_prefix_tokens,
        positions="none" if model.pos_embed is None else "patches" if model.no_embed_class else "all",
        pre_norm=isinstance(model.norm_pre, nn.LayerNorm),
        norm_eps=norms[0].eps,
        qkv_bias=_has_qkv_bias(attention),
        qk_norm=isinstance(attention.q_norm, nn.LayerNorm),
        attention_norm=isinstance(attention.norm, nn.LayerNorm),
        activation="swiglu" if gated else _ACTIVATIONS[type(mlp.act).__name__],
        mlp_norm=isinstance(mlp.norm, nn.LayerNorm),
        attention_scale=_scale(block, 1) is not None,
        mlp_scale=_scale(block, 2) is not None,
        **_rotary_fields(model),
        final_norm=_final_norm(model),
        pooling=_pooling(model),
        pool_prefix=bool(getattr(model, "pool_include_prefix", False)),
        pool_heads=1 if pool is None else pool.num_heads,
        pool_hidden_dim=1 if pool is None else pool.mlp.fc1.out_features,
    )


def _rounded(share: float, hidden_dim: int) -> int:
    """Return a share of the hidden units, rounded to a multiple of 64 where that is neither none nor all of them."""
    if share in (0.0, 1.0):
        return round(share * hidden_dim)
    return min(max(round(share * hidden_dim / _HIDDEN_STEP), 1) * _HIDDEN_STEP, hidden_dim)


def _require_plain(model: Any, name: str) -> None:
    """Raise InputError for a part that the networks of an elastic space do not have."""
    block = model.blocks[0]
    pool = model.attn_pool if model.global_pool == "map" else None
    height, width = model.patch_embed.img_size
    norms = [module for module in model.modules() if type(module).__name__.lower().endswith("norm")]
    parts: tuple[tuple[Any, tuple[Any, ...], str], ...] = (
        (type(model.patch_embed).__name__, ("PatchEmbed",), "patch embedding"),
        (type(block).__name__, ("Block", "EvaBlock"), "blocks"),
        (type(getattr(block, "attn", None)).__name__, ("Attention", "EvaAttention"), "attention"),
        (type(getattr(block, "mlp", None)).__name__, ("Mlp", "SwiGLU", "GluMlp"), "MLPs"),
        (type(model.rope).__name__ if getattr(model, "rope", None) else "none", _ROTARY, "rotary positions"),
        (model.global_pool, ("token", "avg", "map"), "pooling"),
        ("square" if height == width else f"{height} x {width}", ("square",), "images"),
        (sorted({type(norm).__name__ for norm in norms} - {"LayerNorm"}), ([],), "norms besides LayerNorm"),
        (len({norm.eps for norm in norms if isinstance(norm, nn.LayerNorm)}), (1,), "different eps of norms"),
        (getattr(getattr(block, "attn", None), "gate", None) is None, (True,), "ungated attention"),
        (len({str(item) for item in model.blocks}), (1,), "kinds of blocks"),
        (pool is None or (pool.latent_len == 1 and isinstance(pool.q, nn.Linear)), (True,), "query of the pooling"),
    )
    for found, wanted, part in parts:
        if found not in wanted:
            known = [str(item) for item in wanted]
            raise InputError(f"{name} has {part} that elastic spaces do not support", got=str(found), known=known)
    if getattr(block.mlp, "act", None) is not None and type(block.mlp).__name__ == "Mlp":
        activation = type(block.mlp.act).__name__
        if activation not in _ACTIVATIONS:
            raise unknown(f"{name} has an activation that elastic spaces do not support:", activation, _ACTIVATIONS)


_ROTARY = ("none", "RotaryEmbeddingCat", "RotaryEmbeddingDinoV3")


def _rotary_fields(model: Any) -> dict[str, Any]:
    rope = getattr(model, "rope", None)
    if rope is None:
        return {}
    if type(rope).__name__ == "RotaryEmbeddingDinoV3":
        return {"rotary": "centered", "rotary_temperature": float(rope.temperature)}
    grid = None if rope.ref_feat_shape is None else int(rope.ref_feat_shape[0])
    return {"rotary": "index", "rotary_temperature": float(rope.temperature), "rotary_grid": grid}


def _final_norm(model: Any) -> Literal["tokens", "pooled", "none"]:
    if isinstance(model.norm, nn.LayerNorm):
        return "tokens"
    return "pooled" if isinstance(model.fc_norm, nn.LayerNorm) else "none"


def _pooling(model: Any) -> Pooling:
    if type(model).__name__ == "VisionTransformerDistilled":
        return "distilled"
    kinds: Mapping[str, Pooling] = {"token": "token", "avg": "average", "map": "attention"}
    return kinds[model.global_pool]


def _has_qkv_bias(attention: Any) -> bool:
    if attention.qkv is None:
        return attention.q_proj.bias is not None
    return attention.qkv.bias is not None or getattr(attention, "q_bias", None) is not None


def _scale(block: Any, branch: int) -> Tensor | None:
    """Return the scale per channel of a branch: 1 for attention, 2 for the MLP."""
    layer = getattr(block, f"ls{branch}", None)
    gamma: Tensor | None = getattr(layer, "gamma", None)
    return getattr(block, f"gamma_{branch}", None) if gamma is None else gamma


def supernet_weights(model: Any, config: ElasticConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model of timm by their names in its supernet; each is a weight of the model, or 0."""
    embedding = model.patch_embed.proj
    yield from _layer("stem.patch_embed", embedding)
    if config.patch_bias and embedding.bias is None:
        yield "stem.patch_embed.bias", torch.zeros(config.embed_dim)
    tokens = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    present = [token for token in tokens if token is not None]
    if present:
        yield "stem.prefix", torch.cat(present, dim=1)
    if model.pos_embed is not None:
        yield "stem.position", model.pos_embed
    yield from _layer("stem.norm", model.norm_pre)
    for slot, block in enumerate(model.blocks):
        yield from _block(f"blocks.{slot}", block, config)
    yield from _layer("head.norm", model.norm if config.final_norm == "tokens" else model.fc_norm)
    if config.pooling == "attention":
        pool = model.attn_pool
        yield "head.pool.query", pool.latent
        for own, layer in (("q", pool.q), ("kv", pool.kv), ("proj", pool.proj), ("norm", pool.norm)):
            yield from _layer(f"head.pool.{own}", layer)
        yield from _layer("head.pool.fc1", pool.mlp.fc1)
        yield from _layer("head.pool.fc2", pool.mlp.fc2)
    if model.num_classes == config.num_classes:
        yield from _layer("head.classifier", model.head)
        if config.pooling == "distilled":
            yield from _layer("head.distilled", model.head_dist)


def _block(name: str, block: Any, config: ElasticConfig) -> Iterator[tuple[str, Tensor]]:
    attention, mlp = block.attn, block.mlp
    order = _rotary_order(attention, config)
    yield from _layer(f"{name}.norm1", block.norm1)
    for kind, tensor in _qkv(attention, config):
        yield f"{name}.attention.qkv.{kind}", _reordered(tensor, order, config)
    for own in ("q_norm", "k_norm"):
        for key, tensor in _layer(f"{name}.attention.{own}", getattr(attention, own)):
            yield key, tensor[order]
    yield from _layer(f"{name}.attention.norm", attention.norm)
    yield from _layer(f"{name}.attention.proj", attention.proj)
    yield from _layer(f"{name}.norm2", block.norm2)
    yield from _mlp(f"{name}.mlp", mlp)
    for own, branch in (("attention", 1), ("mlp", 2)):
        if (scale := _scale(block, branch)) is not None:
            yield f"{name}.{own}.scale", scale


def _mlp(name: str, mlp: Any) -> Iterator[tuple[str, Tensor]]:
    if type(mlp).__name__ == "SwiGLU":
        yield from _layer(f"{name}.gate", mlp.fc1_g)
        yield from _layer(f"{name}.fc1", mlp.fc1_x)
    elif type(mlp).__name__ == "GluMlp":  # gate and value in one layer
        for kind, tensor in mlp.fc1.named_parameters():
            first, second = tensor.chunk(2)
            gate, value = (second, first) if mlp.gate_last else (first, second)
            yield f"{name}.gate.{kind}", gate
            yield f"{name}.fc1.{kind}", value
    else:
        yield from _layer(f"{name}.fc1", mlp.fc1)
    yield from _layer(f"{name}.norm", mlp.norm)
    yield from _layer(f"{name}.fc2", mlp.fc2)


def _qkv(attention: Any, config: ElasticConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield weight and bias of q, k and v as one layer; a missing bias of k is 0."""
    if attention.qkv is None:
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        yield "weight", torch.cat([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers]
    else:
        yield "weight", attention.qkv.weight
        biases = [attention.qkv.bias]
        if biases[0] is None:
            biases = [getattr(attention, f"{part}_bias", None) for part in "qkv"]
    if config.qkv_bias:
        width = config.num_heads[-1] * config.head_dim
        yield "bias", torch.cat([torch.zeros(width) if bias is None else bias for bias in biases])


def _rotary_order(attention: Any, config: ElasticConfig) -> Tensor:
    """Return the order of a head's channels in which those rotated together are half a head apart."""
    order = torch.arange(config.head_dim)
    if config.rotary == "none" or attention.rotate_half:
        return order
    return torch.cat([order[::2], order[1::2]])  # the model rotates neighbours


def _reordered(tensor: Tensor, order: Tensor, config: ElasticConfig) -> Tensor:
    """Reorder the channels of each head of q and k, whose products do not change; v stays."""
    parts = tensor.reshape(3, config.num_heads[-1], config.head_dim, -1)
    return torch.cat([parts[:2, :, order], parts[2:]]).reshape(tensor.shape)


def _layer(name: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for kind, tensor in layer.named_parameters():
        yield f"{name}.{kind}", tensor
