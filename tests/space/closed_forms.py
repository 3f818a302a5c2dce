"""What one network costs, in the terms of the papers' own counting: one plain loop over its blocks a family.

Written from the published rules, not from `hwnas.workload`: whole numbers, no arrays, no operations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from hwnas.space.autoformer import AutoFormerArch, AutoFormerConfig
from hwnas.space.elastic import ElasticArch, ElasticConfig
from hwnas.space.glit import GlitArch, GlitConfig
from hwnas.space.resnas import ResNasArch, ResNasConfig
from hwnas.space.space import AnySpace
from hwnas.space.vitas import VitasArch, VitasConfig
from hwnas.space.vitas_twins import TwinsArch, TwinsConfig


class Count(NamedTuple):
    params: int
    macs: int
    macs_relative: int = 0
    official_params: int | None = None
    official_macs: float | None = None


def count(space: AnySpace, arch: Any) -> Count:
    """The figures of one network of a space."""
    return _RULES[space.family](space.config, arch)


def autoformer(config: AutoFormerConfig, arch: AutoFormerArch) -> Count:
    d, classes = arch.embed_dim, config.num_classes
    grid = config.image_size // config.patch_size
    n = grid * grid
    pixels = config.channels * config.patch_size**2
    params = pixels * d + d + (n + 2) * d + 2 * d + classes * d + classes
    macs, relative = pixels * n * d + d * classes, 0
    official = d + pixels * n * d + (n + 1) * d / 2 + (n + 1) * d * classes
    for block in arch.blocks:
        q, f = config.head_dim * block.num_heads, int(d * block.mlp_ratio)
        params += 4 * d + 3 * q * d + 3 * q + q * d + d + f * d + f + f * d + d
        macs += 4 * (n + 1) * d * q + 2 * (n + 1) ** 2 * q + 2 * (n + 1) * d * f
        m = n + 2  # the released code adds the class token twice
        official += 2 * m * d + 3 * m * d * q + 2 * m * m * q + m * q * d + 2 * m * d * f
        if config.relative_clip is not None:
            params += 4 * (2 * config.relative_clip + 2) * config.head_dim
            relative += 2 * (n + 1) ** 2 * q
            official += 2 * config.relative_clip * m * m + m * m / 2 + m * q / 2
    return Count(params, macs, relative, params, official)


def resnas(config: ResNasConfig, arch: ResNasArch) -> Count:
    mid, classes, side = config.stem_channels, config.num_classes, config.image_size // 2
    grid = side // config.patch_size
    first, last = arch.stages[0].embed_dim, arch.stages[-1].embed_dim
    convs = config.channels * mid * 9 + 2 * mid * mid * 9
    patch = config.patch_size**2 * mid * first
    params = convs + 3 * 2 * mid + patch + first + first + (grid * grid + 1) * first
    macs = side * side * convs + grid * grid * patch
    before = None
    for stage, choices in zip(arch.stages, config.stages, strict=True):
        e = stage.embed_dim
        if before is not None:
            grid //= 2
            params += 2 * before + 9 * before * e + e + before * e + e + grid * grid * e
            macs += grid * grid * 9 * before * e + before * e
        for block in stage.blocks:
            if block is None:
                continue
            n, m, f = grid * grid + 1, block.num_heads * choices.head_dim, block.hidden_dim
            params += 4 * e + 3 * e * m + 3 * m + m * e + e + 2 * e * f + f + e
            macs += n * (4 * e * m + 2 * n * m + 2 * e * f)
        before = e
    params += 2 * last + last * classes + classes
    macs += last * classes
    # The released code counts the patch head of training, and a stem of 224 pixels whatever comes in.
    return Count(params, macs, 0, params + last * classes + classes, macs + (112**2 - side * side) * convs)


def elastic(config: ElasticConfig, arch: ElasticArch) -> Count:
    d, classes = config.embed_dim, config.num_classes
    patch = arch.patch_size or config.patch_size
    patches = ((arch.image_size or config.image_size) // patch) ** 2
    n = patches + config.prefix_tokens
    pixels = config.channels * patch**2
    positions = {"all": n, "patches": patches, "none": 0}[config.positions]
    params = pixels * d + d * config.patch_bias + (config.prefix_tokens + positions) * d + classes * (d + 1)
    params += 2 * d * config.pre_norm + 2 * d * (config.final_norm != "none")
    macs = pixels * patches * d + classes * d
    layers = 3 if config.activation == "swiglu" else 2
    for block in arch.blocks:
        if block.num_heads:
            w = block.num_heads * config.head_dim
            params += 2 * d + 4 * w * d + 3 * w * config.qkv_bias + d + d * config.attention_scale
            macs += 4 * n * d * w + 2 * n * n * w
        if block.hidden_dim:
            h = block.hidden_dim
            params += 2 * d + layers * h * d + (layers - 1) * h + d + d * config.mlp_scale
            macs += layers * n * d * h
    if config.pooling == "attention":
        h = config.pool_hidden_dim
        params += d + 4 * d * d + 4 * d + 2 * d + 2 * d * h + h + d
        macs += 2 * d * d + 2 * patches * d * d + 2 * patches * d + 2 * d * h
    return Count(params, macs)


def vitas(config: VitasConfig, arch: VitasArch) -> Count:
    p, e, classes = arch.patch_size, arch.embed_dim, config.num_classes
    n = (config.image_size // p) ** 2
    pixels = p * p * config.channels
    params = pixels * e + e + e + (n + 1) * e + 2 * e + classes * e + classes
    macs = n * pixels * e + e * classes
    official = n * pixels * e + n * e * classes
    for block in arch.blocks:
        if block is None:
            continue
        a, m = block.qkv_dim, block.hidden_dim
        third = a // 3
        params += 4 * e + (e * a + a) + (third * e + e) + (e * m + m) + (m * e + e)
        for tokens in (n, n + 1):
            amount = tokens * e * a + 2 * tokens**2 * third + tokens * third * e + 2 * tokens * e * m
            official, macs = (official + amount, macs) if tokens == n else (official, macs + amount)
    return Count(params, macs, 0, params, official)


def twins(config: TwinsConfig, arch: TwinsArch) -> Count:
    params = macs = 0
    inputs, grid = config.channels, config.image_size
    for stage, choices in zip(arch.stages, config.stages, strict=True):
        e, p, r = stage.embed_dim, choices.patch_size, choices.reduction
        grid //= p
        n = grid * grid
        params += p * p * inputs * e + e + 2 * e  # patches, and their norm
        macs += n * p * p * inputs * e
        params += 9 * e + e  # the positional convolution, once a stage
        macs += 9 * n * e
        for number, block in enumerate(stage.blocks):
            w, m = block.qkv_dim // 3, block.hidden_dim
            params += 4 * e + 3 * (e * w + w) + (w * e + e) + (e * m + m) + (m * e + e)
            macs += n * w * e + 2 * n * e * m
            if number % 2 == 0:
                padded = -(-grid // config.window) * config.window
                macs += padded**2 * e * 3 * w + 2 * padded**2 * config.window**2 * w
                continue
            keys = (grid // r) ** 2
            macs += n * e * w + 2 * keys * e * w + 2 * n * keys * w
            if r > 1:
                params += r * r * e * e + e + 2 * e
                macs += keys * r * r * e * e
        inputs = e
    params += 2 * inputs + inputs * config.num_classes + config.num_classes
    return Count(params, macs + inputs * config.num_classes)


def glit(config: GlitConfig, arch: GlitArch) -> Count:
    d, p, classes = config.embed_dim, config.patch_size, config.num_classes
    patches = (config.image_size // p) ** 2
    n = patches + 1
    params = config.channels * p * p * d + d + d + n * d + 2 * d + d * classes + classes
    macs = patches * config.channels * p * p * d + d * classes
    gates = 0
    for block in arch.blocks:
        h = d * block.mlp_ratio
        params += 2 * d * h + h + d + 4 * d
        macs += 2 * n * d * h
        if block.groups > 0:
            assert block.value_ratio is not None
            dv = d * block.groups // 3
            a = round(dv * block.value_ratio)
            params += 3 * dv * a + 3 * a + a * dv + dv
            macs += n * (3 * dv * a + a * dv) + 2 * n * n * a
        if block.groups < 3:
            assert block.expansion is not None
            assert block.kernel_size is not None
            dc = d - d * block.groups // 3
            i, k = dc * block.expansion, block.kernel_size
            params += (dc + 1) * 2 * i + i * (k + 1) + 2 * i + (i + 1) * dc
            macs += n * (2 * dc * i + i * k + i * dc)
            gates += n * dc * i
    return Count(params, macs, 0, params, macs - gates)


_RULES: dict[str, Callable[[Any, Any], Count]] = {
    "autoformer": autoformer,
    "resnas": resnas,
    "vitas": vitas,
    "vitas-twins": twins,
    "elastic": elastic,
    "glit": glit,
}
