"""ViTAS's supernet against the official code's outputs and timm, and in all its ways to share."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.space.vitas import DEIT_SMALL, DEIT_SMALL_SHIFTED, Vitas, VitasArch, VitasBlock, VitasConfig
from hwnas.supernet.network import Network
from hwnas.supernet.official.keys import fill, translate
from hwnas.supernet.official.rules import VITAS_NETWORK_RULES, VITAS_SUPERNET_RULES, close_gaps
from hwnas.supernet.vitas import (
    AttentionScale,
    Side,
    VitasBlockConfig,
    VitasSupernet,
    VitasSupernetConfig,
    live_slots,
    outline,
)
from tests.supernet.golden import assert_golden, golden, images, weights
from tests.supernet.scatter import scatter

TOY = Vitas(
    name="vitas-toy",
    config=VitasConfig(
        image_size=32,
        num_classes=10,
        patch_sizes=(8,),
        embed_dims=(24, 36, 48, 60),
        num_heads=(1, 2, 4),
        qkv_dims=(48, 96, 144),
        hidden_dims=(48, 96, 144),
        slots=4,
    ),
)
ANYWHERE = Vitas(name="anywhere", config=replace(TOY.config, patch_sizes=(4, 8, 16), identity="anywhere"))
BILATERAL = VitasSupernetConfig(sharing="bilateral")
OFFICIAL = VitasSupernetConfig(
    sharing="bilateral", attention_scale="official-supernet", joint_qk=True, collapsed_positions=True
)
WAYS = (
    VitasSupernetConfig(),
    VitasSupernetConfig(private_qk=False),
    VitasSupernetConfig(attention_scale="official-network"),
    VitasSupernetConfig(sharing="prefix"),
    BILATERAL,
    OFFICIAL,
    replace(OFFICIAL, private_qk=False),
)
NETWORK_SCALE = VitasSupernetConfig(attention_scale="official-network")
"""Our own way to share, and the scale of the official networks."""
NETWORK_SCALES = (
    NETWORK_SCALE,
    replace(NETWORK_SCALE, private_qk=False),
    replace(NETWORK_SCALE, sharing="prefix"),
    replace(NETWORK_SCALE, sharing="bilateral"),
    replace(NETWORK_SCALE, sharing="bilateral", joint_qk=True),
)
SIDES: tuple[Side, ...] = ("left", "right")


def randomised(module: nn.Module) -> None:
    """No tensor is all zeros or ones any more."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def supernet_of(space: Vitas, config: VitasSupernetConfig | None = None) -> VitasSupernet:
    supernet = VitasSupernet(space, config).eval()
    randomised(supernet)
    return supernet


def random_archs(space: Vitas, count: int) -> list[VitasArch]:
    return list(space.decode(space.sample(np.random.default_rng(1), count)))


def random_images(space: Vitas, count: int = 2) -> Tensor:
    side = space.config.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


# The official code.


def space_around(arch: VitasArch, *, num_classes: int) -> Vitas:
    """A space that holds one official network and what its blocks combine to."""
    blocks = [block for _, block in live_slots(arch)]
    config = VitasConfig(
        num_classes=num_classes,
        patch_sizes=(arch.patch_size,),
        embed_dims=(arch.embed_dim,),
        num_heads=tuple(sorted({block.num_heads for block in blocks})),
        qkv_dims=tuple(sorted({block.qkv_dim for block in blocks})),
        hidden_dims=tuple(sorted({block.hidden_dim for block in blocks})),
        slots=len(arch.blocks),
        identity="anywhere",
    )
    return Vitas(name="around", config=config)


def golden_network(config: dict[str, Any]) -> VitasArch:
    blocks = (
        None if block == "identity" else VitasBlock(num_heads=block[0], qkv_dim=block[1], hidden_dim=block[2])
        for block in config["blocks"]
    )
    return VitasArch(patch_size=config["patch_size"], embed_dim=config["embed_dim"], blocks=tuple(blocks))


@pytest.mark.parametrize("name", ["vitas-a", "vitas-c", "vitas-e", "vitas-small-mixed"])
def test_official_networks(name: str) -> None:
    record = golden(name)
    arch = golden_network(record["config"])
    space = space_around(arch, num_classes=record["config"]["num_classes"])
    segments = outline(space.config, arch, attention_scale="official-network")
    scales = [block[3] ** -0.5 for block in record["config"]["blocks"] if block != "identity"]
    assert [config.scale for config in segments.values() if isinstance(config, VitasBlockConfig)] == scales
    network = Network(segments).eval()
    fill(network, close_gaps(translate(weights(record["shapes"]), VITAS_NETWORK_RULES)))
    with torch.inference_mode():
        assert_golden(network(images(record)), record)
    assert sum(parameter.numel() for parameter in network.parameters()) == record["config"]["params"]


@pytest.fixture(scope="module")
def deit_small() -> VitasSupernet:
    return VitasSupernet(DEIT_SMALL, NETWORK_SCALE).eval()


@pytest.mark.parametrize("name", ["ViTAS-A", "ViTAS-C", "ViTAS-E"])
def test_official_networks_as_slices(deit_small: VitasSupernet, name: str) -> None:
    record, arch = golden(name.lower()), DEIT_SMALL.published[name]
    official = golden_network(record["config"])
    empty = (None,) * (len(arch.blocks) - len(official.blocks))
    assert replace(official, blocks=official.blocks + empty) == arch
    assert_golden_slice(deit_small, arch, record)


@pytest.mark.parametrize("config", NETWORK_SCALES)
def test_official_mixed_network_as_a_slice(config: VitasSupernetConfig) -> None:
    """The arc of 42 channels starts at 30 of 60 and goes round."""
    record = golden("vitas-small-mixed")
    space = VitasConfig(
        num_classes=10,
        patch_sizes=(28, 32),
        embed_dims=(30, 42, 60),
        num_heads=(3, 6, 12, 16),
        qkv_dims=(144, 288, 432, 720, 864),
        hidden_dims=(72, 120, 192, 216, 288),
        slots=6,
        identity="anywhere",
    )
    supernet = VitasSupernet(Vitas(name="wider", config=space), config).eval()
    for side in sides(config):
        assert_golden_slice(supernet.from_side(side), golden_network(record["config"]), record)


def assert_golden_slice(supernet: VitasSupernet, arch: VitasArch, record: dict[str, Any]) -> None:
    scatter(supernet, arch, close_gaps(translate(weights(record["shapes"]), VITAS_NETWORK_RULES)))
    with torch.inference_mode():
        assert_golden(supernet(images(record), arch), record)
        assert_golden(supernet.subnet(arch)(images(record)), record)


@pytest.fixture(scope="module")
def official_supernet() -> VitasSupernet:
    space = Vitas(
        name="official",
        config=VitasConfig(
            num_classes=10,
            patch_sizes=(28, 32),
            embed_dims=(20, 28, 40),
            num_heads=(3, 6, 12, 16),
            qkv_dims=(144, 288),
            hidden_dims=(43, 58, 72, 130, 144),
            slots=4,
            identity="anywhere",
        ),
    )
    supernet = VitasSupernet(space, OFFICIAL).eval()
    state = weights(golden("vitas-supernet-bilateral")["shapes"])
    fill(supernet.shared, translate(state, VITAS_SUPERNET_RULES))
    return supernet


def golden_path(config: VitasConfig, genes: list[float]) -> VitasArch:
    """Patch size, 4 operations, two of no meaning; embedding ratio; qkv and MLP ratio of each block."""
    operations, ratios = [int(gene) for gene in genes[:7]], genes[7:]
    blocks = (
        VitasBlock(
            num_heads=config.num_heads[operation],
            qkv_dim=round(288 * ratios[1 + 2 * slot]),
            hidden_dim=round(144 * ratios[2 + 2 * slot]),
        )
        if operation < 4
        else None
        for slot, operation in enumerate(operations[1:5])
    )
    embed_dim = round(40 * ratios[0])
    return VitasArch(patch_size=config.patch_sizes[operations[0]], embed_dim=embed_dim, blocks=tuple(blocks))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["s0", "s1", "s2"])
def test_official_supernet(official_supernet: VitasSupernet, name: str, side: Side) -> None:
    record = golden("vitas-supernet-bilateral")
    arch = golden_path(official_supernet.space.config, record["config"]["subnets"][name])
    official_supernet.space.encode([arch])
    with torch.inference_mode():
        assert_golden(official_supernet(images(record), arch, side=side), record, name=f"{name}/{side}")
        subnet = official_supernet.from_side(side).subnet(arch)
        assert_golden(subnet(images(record)), record, name=f"{name}/{side}")


def test_keys_of_other_networks_are_refused() -> None:
    state = weights(golden("vitas-small-mixed")["shapes"])
    with pytest.raises(InputError, match="keys that this family does not have"):
        translate(state, VITAS_SUPERNET_RULES)


def test_gaps_are_closed_in_the_order_of_the_slots() -> None:
    value = torch.zeros(1)
    names = ["blocks.10.mlp.fc1.bias", "blocks.2.norm1.bias", "blocks.0.norm1.bias", "head.norm.bias"]
    expected = ["blocks.2.mlp.fc1.bias", "blocks.1.norm1.bias", "blocks.0.norm1.bias", "head.norm.bias"]
    assert list(close_gaps(dict.fromkeys(names, value))) == expected


# timm, which has the same skeleton with the width of a head as its scale.


def test_a_plain_vit_of_timm() -> None:
    block = VitasBlock(num_heads=4, qkv_dim=3 * 48, hidden_dim=96)
    arch = VitasArch(patch_size=8, embed_dim=48, blocks=(block,) * 3)
    reference = VisionTransformer(
        img_size=32, patch_size=8, num_classes=10, embed_dim=48, depth=3, num_heads=4, mlp_ratio=2
    ).eval()
    reference.norm.eps = 1e-5
    randomised(reference)
    network = Network(outline(TOY.config, arch)).eval()
    fill(network, translate(reference.state_dict(), VIT_RULES))
    x = random_images(TOY)
    torch.testing.assert_close(network(x), reference(x), rtol=0, atol=1e-5)


VIT_RULES = (
    (r"cls_token", "stem.class_token"),
    (r"pos_embed", "stem.position"),
    (r"patch_embed\.proj\.(\w+)", r"stem.patch_embed.\1"),
    (r"blocks\.(\d+)\.attn\.(\w+\.\w+)", r"blocks.\1.attention.\2"),
    (r"(blocks\..*)", r"\1"),
    (r"norm\.(\w+)", r"head.norm.\1"),
    (r"head\.(\w+)", r"head.classifier.\1"),
)


# Sharing.


def sides(config: VitasSupernetConfig) -> tuple[Side, ...]:
    return SIDES if config.sharing == "bilateral" else ("left",)


@pytest.mark.parametrize("config", WAYS)
def test_a_slice_is_the_extracted_network(config: VitasSupernetConfig) -> None:
    supernet, x = supernet_of(ANYWHERE, config), random_images(ANYWHERE)
    with torch.inference_mode():
        for arch in random_archs(ANYWHERE, 6):
            for side in sides(config):
                subnet = supernet.from_side(side).subnet(arch)
                torch.testing.assert_close(subnet(x), supernet(x, arch, side=side), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", WAYS)
def test_parameters_are_the_closed_form(config: VitasSupernetConfig) -> None:
    """Private weights of q, k and stems stay behind in the supernet."""
    supernet, archs = supernet_of(ANYWHERE, config), random_archs(ANYWHERE, 6)
    built = [sum(parameter.numel() for parameter in supernet.subnet(arch).parameters()) for arch in archs]
    assert built == ANYWHERE.costs(ANYWHERE.encode(archs)).params.tolist()


def test_every_gene_that_is_used_changes_the_output() -> None:
    """The released code reads other genes than it costs, once an identity comes before a block."""
    supernet, x = supernet_of(ANYWHERE), random_images(ANYWHERE)
    genome = ANYWHERE.encode([arch for arch in random_archs(ANYWHERE, 20) if len(live_slots(arch)) == 3][:1])
    neighbours = ANYWHERE.decode(ANYWHERE.neighbours(genome).genomes)
    assert len(neighbours) > 20
    with torch.inference_mode():
        output = supernet(x, *ANYWHERE.decode(genome))
        assert all((supernet(x, arch) - output).abs().max() > 1e-4 for arch in neighbours)


def entries(parameter: Tensor, *, axis: int) -> list[int]:
    """Where the gradient of a parameter is not 0, along one axis."""
    assert parameter.grad is not None
    return (
        parameter.grad.movedim(axis, 0).reshape(parameter.shape[axis], -1).abs().sum(dim=1).nonzero().flatten().tolist()
    )


def trained_once(config: VitasSupernetConfig, arch: VitasArch, *, side: Side = "left") -> dict[str, Tensor]:
    supernet = supernet_of(ANYWHERE, config)
    supernet(random_images(ANYWHERE), arch, side=side).square().sum().backward()
    return dict(supernet.shared.named_parameters())


@pytest.mark.parametrize(
    ("config", "side", "embed", "width", "hidden"),
    [
        (VitasSupernetConfig(), "left", [*range(24, 60)], range(16), range(96)),
        (VitasSupernetConfig(sharing="prefix"), "left", range(36), range(16), range(96)),
        (BILATERAL, "left", range(36), range(16), range(96)),
        (BILATERAL, "right", range(24, 60), range(32, 48), range(48, 144)),
    ],
)
def test_gradients_reach_the_slices(
    config: VitasSupernetConfig, side: Side, embed: Any, width: Any, hidden: Any
) -> None:
    """Embedding 36 of 60 (its arc starts at 24), q, k and v 16 of 48 each, MLP 96 of 144; one block, in slot 2."""
    block = VitasBlock(num_heads=2, qkv_dim=48, hidden_dim=96)
    arch = VitasArch(patch_size=8, embed_dim=36, blocks=(None, None, block, None))
    shared = trained_once(config, arch, side=side)
    embed, width, hidden = list(embed), list(width), list(hidden)
    both = [*width, *(48 + row for row in width)]
    slot = "blocks.2."
    expected = {
        ("stems.1.patch_embed.weight", 0): embed,
        ("stems.1.class_token", 2): embed,
        ("stems.1.position", 2): embed,
        (f"{slot}norm1.weight", 0): embed,
        (f"{slot}norm2.bias", 0): embed,
        (f"{slot}attention.qk.1.weight", 0): both,
        (f"{slot}attention.qk.1.weight", 1): embed,
        (f"{slot}attention.v.weight", 0): width,
        (f"{slot}attention.v.weight", 1): embed,
        (f"{slot}attention.v.bias", 0): width,
        (f"{slot}attention.proj.weight", 0): embed,
        (f"{slot}attention.proj.weight", 1): width,
        (f"{slot}mlp.fc1.weight", 0): hidden,
        (f"{slot}mlp.fc1.weight", 1): embed,
        (f"{slot}mlp.fc2.weight", 0): embed,
        (f"{slot}mlp.fc2.weight", 1): hidden,
        ("head.norm.weight", 0): embed,
        ("head.classifier.weight", 0): list(range(10)),
        ("head.classifier.weight", 1): embed,
    }
    assert {key: entries(shared[key[0]], axis=key[1]) for key in expected} == expected
    untouched = {name for name, parameter in shared.items() if parameter.grad is None}
    other_stems = {name for name in shared if name.startswith(("stems.0.", "stems.2."))}
    other_slots = {name for name in shared if name.startswith(("blocks.0.", "blocks.1.", "blocks.3."))}
    other_heads = {f"{slot}attention.qk.{number}.{kind}" for number in (0, 2) for kind in ("weight", "bias")}
    assert untouched == other_stems | other_slots | other_heads


def test_the_ring_goes_round() -> None:
    """The arc of 36 of 40 channels follows those of 8, 16 and 24: it starts at 8 and ends with the first 4."""
    space = Vitas(name="ring", config=replace(TOY.config, embed_dims=(8, 16, 24, 36, 40)))
    arch = replace(space.smallest(), embed_dim=36)
    supernet = supernet_of(space)
    supernet(random_images(space), arch).square().sum().backward()
    weight = dict(supernet.shared.named_parameters())["head.norm.weight"]
    assert entries(weight, axis=0) == [*range(4), *range(8, 40)]


def test_the_first_version_slices_q_and_k_as_one() -> None:
    block = VitasBlock(num_heads=2, qkv_dim=48, hidden_dim=96)
    arch = VitasArch(patch_size=8, embed_dim=36, blocks=(block, None, None, None))
    shared = trained_once(OFFICIAL, arch, side="right")
    assert entries(shared["blocks.0.attention.qk.1.weight"], axis=0) == list(range(64, 96))
    assert entries(shared["stems.1.position"], axis=1) == [16]


def test_both_sides_train_one_set_of_weights() -> None:
    """Bilateral training: two forwards, logits summed, one backward."""
    supernet, x = supernet_of(ANYWHERE, BILATERAL).train(), random_images(ANYWHERE)
    arch = replace(random_archs(ANYWHERE, 1)[0], embed_dim=36)
    (supernet(x, arch, side="left") + supernet(x, arch, side="right")).square().sum().backward()
    assert entries(supernet.shared.get_parameter("head.norm.weight"), axis=0) == list(range(60))
    assert supernet.from_side("right").training
    assert supernet.from_side("right").subnet(arch).training
    assert supernet.side == "left"


def test_the_widest_network_is_the_same_from_both_sides() -> None:
    supernet, x, arch = supernet_of(ANYWHERE, BILATERAL), random_images(ANYWHERE), ANYWHERE.largest()
    torch.testing.assert_close(supernet(x, arch, side="left"), supernet(x, arch, side="right"))


def test_there_is_no_right_side_without_bilateral_sharing() -> None:
    supernet = supernet_of(ANYWHERE)
    with pytest.raises(InputError, match="under bilateral sharing alone"):
        supernet(random_images(ANYWHERE), ANYWHERE.largest(), side="right")
    assert supernet.from_side("left") is supernet


# Identities.


def test_two_paths_extract_to_one_network() -> None:
    arch, shifted = DEIT_SMALL.published["ViTAS-A"], DEIT_SMALL_SHIFTED.published["ViTAS-A"]
    assert DEIT_SMALL.network_id(arch) == DEIT_SMALL_SHIFTED.network_id(shifted)
    with torch.device("meta"):
        first = VitasSupernet(DEIT_SMALL).subnet(arch)
        second = VitasSupernet(DEIT_SMALL_SHIFTED).subnet(shifted)
    assert first.outline == second.outline
    assert list(first.state_dict()) == list(second.state_dict())
    assert list(first.outline) == ["stem", *(f"blocks.{number}" for number in range(7)), "head"]


def test_a_block_keeps_the_weights_and_the_rate_of_its_slot() -> None:
    config = VitasSupernetConfig(drop_path=0.3)
    supernet = supernet_of(ANYWHERE, config)
    block = VitasBlock(num_heads=2, qkv_dim=48, hidden_dim=96)
    paths = [
        supernet.path(VitasArch(patch_size=8, embed_dim=36, blocks=blocks))["blocks.0"]
        for blocks in ((block, None, None, None), (None, None, None, block))
    ]
    rates = [path.config.drop_path for path in paths if isinstance(path.config, VitasBlockConfig)]
    assert rates == pytest.approx([0.0, 0.3])
    names = [path.sources["mlp.fc1.weight"][0].name for path in paths]
    assert names == ["blocks.0.mlp.fc1.weight", "blocks.3.mlp.fc1.weight"]


# The start.


def test_networks_start_as_published() -> None:
    torch.manual_seed(0)
    shared = VitasSupernet(TOY).shared
    for name, parameter in shared.named_parameters():
        if name.endswith(("class_token", "position")):
            assert not parameter.any()
        elif "patch_embed" not in name and "norm" not in name:
            expected = 0.02 if parameter.ndim == 2 else 1e-6
            assert parameter.std().item() == pytest.approx(expected, rel=0.6), name


@pytest.mark.parametrize(("kind", "expected"), [("head", None), ("official-network", 18), ("official-supernet", 20)])
def test_what_attention_is_scaled_with(kind: AttentionScale, expected: int | None) -> None:
    """36 channels by 2 heads; a third of the widest, 60."""
    block = VitasBlock(num_heads=2, qkv_dim=48, hidden_dim=96)
    arch = VitasArch(patch_size=8, embed_dim=36, blocks=(block,))
    segment = outline(TOY.config, arch, attention_scale=kind)["blocks.0"]
    assert isinstance(segment, VitasBlockConfig)
    assert segment.scale == (None if expected is None else expected**-0.5)
