"""GLiT's supernet against the official code's outputs, and against its own extracted networks."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwnas.config import from_mapping, to_mapping
from hwnas.errors import InputError
from hwnas.space.glit import SMALL, TINY, TINY_PAPER, Glit, GlitArch, GlitBlock, GlitConfig
from hwnas.supernet.glit import GlitSupernet, GlitSupernetConfig, block_choices, block_config, outline
from hwnas.supernet.network import Network
from hwnas.supernet.official.keys import fill, translate
from hwnas.supernet.official.rules import GLIT_BLOCK_RULES, GLIT_RULES, locality_shapes
from hwnas.supernet.sharing import take
from tests.strategies import TINY as TINY_SPACES
from tests.supernet.golden import assert_golden, golden, images, weights
from tests.supernet.scatter import scatter

NETWORKS = ("glit-small-full", "glit-small-six-heads", "glit-t")
BLOCKS = ("glit-block-g2l1-k17", "glit-block-g3-v2", "glit-block-l3-k17")
TOY = Glit(
    name="glit-toy",
    config=GlitConfig(
        image_size=32,
        num_classes=10,
        embed_dim=48,
        num_heads=3,
        depth=4,
        patch_size=8,
        kernel_sizes=(3, 7, 11),
        fixed_kernel_size=7,
    ),
)
TOY_PAPER = Glit(name="glit-toy-paper", config=replace(TOY.config, form="paper"))
FORMS = pytest.mark.parametrize("space", [TOY, TOY_PAPER], ids=["coded", "paper"])
SEPARATE = GlitSupernetConfig(share="none")
AWKWARD = [space for space in TINY_SPACES if isinstance(space, Glit)]
"""Small spaces whose kernels are even and odd, in both forms."""
MIXED = GlitBlock(groups=1, value_ratio=1.0, expansion=2, kernel_size=2, mlp_ratio=2)
"""A block of the second of them."""
EVERY = [(space, "slices") for space in (TOY, TOY_PAPER, *AWKWARD)] + [(space, "none") for space in AWKWARD]
ALL = pytest.mark.parametrize(("space", "share"), EVERY, ids=lambda value: getattr(value, "name", value))


# ------------------------------------------------------------------------------------------- the official code


def golden_space(config: dict[str, Any]) -> Glit:
    """The space of a golden network."""
    values = {"image_size": config["img_size"], **{name: config[name] for name in ("patch_size", "num_classes")}}
    sizes = {name: config[name] for name in ("embed_dim", "num_heads", "depth")}
    return Glit(name="golden", config=GlitConfig(**values, **sizes))


def golden_block(groups: int, index: int) -> GlitBlock:
    """What the official code calls block `index` of those with so many attention groups."""
    first, second = divmod(index, 3)
    if groups == 0:
        return GlitBlock(groups=0, expansion=(1, 2, 4)[second], kernel_size=(17, 31, 45)[first], mlp_ratio=4)
    mlp_ratio = (2, 4, 6)[second]
    if groups == 3:
        return GlitBlock(groups=3, value_ratio=(0.5, 1.0, 2.0)[first], mlp_ratio=mlp_ratio)
    return GlitBlock(groups=groups, value_ratio=1.0, expansion=(1, 2, 4)[first], kernel_size=31, mlp_ratio=mlp_ratio)


def golden_arch(config: dict[str, Any]) -> GlitArch:
    """The golden network in our terms."""
    return GlitArch(blocks=tuple(map(golden_block, config["base_arch"], config["arch"])))


@pytest.mark.parametrize("name", NETWORKS)
def test_official_outputs_of_the_network(name: str) -> None:
    record = golden(name)
    network = Network(outline(golden_space(record["config"]).config, golden_arch(record["config"]))).eval()
    fill(network, locality_shapes(translate(weights(record["shapes"]), GLIT_RULES)))
    with torch.inference_mode():
        assert_golden(network(images(record)), record)
    assert sum(parameter.numel() for parameter in network.parameters()) == record["config"]["params"]


@pytest.mark.parametrize("name", NETWORKS)
def test_official_outputs_of_a_slice(name: str) -> None:
    record = golden(name)
    arch = golden_arch(record["config"])
    supernet = GlitSupernet(golden_space(record["config"])).eval()
    scatter(supernet, arch, locality_shapes(translate(weights(record["shapes"]), GLIT_RULES)))
    with torch.inference_mode():
        assert_golden(supernet(images(record), arch), record)
        assert_golden(supernet.subnet(arch)(images(record)), record)


def test_the_golden_network_is_the_published_one() -> None:
    config = golden("glit-t")["config"]
    assert golden_space(config).config == TINY.config
    assert golden_arch(config) == TINY.published["GLiT-T"]


@pytest.mark.parametrize("name", BLOCKS)
def test_official_outputs_of_a_block(name: str) -> None:
    record = golden(name)
    block = one_block(record["config"])
    module = block_config(block_space(record["config"]).config, block).build().eval()
    fill(module, locality_shapes(translate(weights(record["shapes"]), GLIT_BLOCK_RULES)))
    with torch.inference_mode():
        assert_golden(module(images(record))[:, ::7], record, name="tokens")


@pytest.mark.parametrize("name", BLOCKS)
def test_official_outputs_of_a_block_as_a_slice(name: str) -> None:
    record = golden(name)
    arch = GlitArch(blocks=(one_block(record["config"]),))
    supernet = GlitSupernet(block_space(record["config"])).eval()
    tensors = locality_shapes(translate(weights(record["shapes"]), GLIT_BLOCK_RULES))
    scatter(supernet, arch, {f"blocks.0.{name}": tensor for name, tensor in tensors.items()})
    with torch.inference_mode():
        block = supernet.subnet(arch).segments()["blocks.0"]
        assert_golden(block(images(record))[:, ::7], record, name="tokens")


def block_space(config: dict[str, Any]) -> Glit:
    """A space with the golden block in it, for images that give its number of tokens."""
    sizes = {"embed_dim": config["dim"], "num_heads": config["num_heads"], "image_size": 112}
    return Glit(name="block", config=GlitConfig(**sizes, depth=1, form="paper"))


def one_block(config: dict[str, Any]) -> GlitBlock:
    """The golden block in our terms."""
    attention: dict[str, Any] = {"value_ratio": float(config["e_v"])} if config["V_head"] else {}
    locality: dict[str, Any] = {"expansion": config["e_c"], "kernel_size": config["k_size"]} if config["C_head"] else {}
    return GlitBlock(groups=config["V_head"], mlp_ratio=config["mlp_ratio"], **attention, **locality)


def test_every_official_key_has_a_name() -> None:
    record = golden("glit-t")
    state = weights({**record["shapes"], "blocks.2.0.attn.net.4.num_batches_tracked": [1]})
    translated = translate(state, GLIT_RULES)
    assert "blocks.2.attention.locality.batch_norm.num_batches_tracked" in translated
    assert len(translated) == len(state)


# ----------------------------------------------------------------------------------- slices and extracted networks


def archs_of(space: Glit, count: int, *, seed: int = 0) -> tuple[GlitArch, ...]:
    """Random networks of a space."""
    return space.decode(space.sample(np.random.default_rng(seed), count))


def lively(supernet: GlitSupernet, *, seed: int = 0) -> GlitSupernet:
    """All weights and statistics at random and far from 0, so that every one of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*supernet.shared.named_parameters(), *supernet.shared.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.2, generator=generator)
    return supernet


def random_images(space: Glit, count: int = 2, *, seed: int = 0) -> Tensor:
    """Random images."""
    config = space.config
    shape = (count, config.channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@ALL
def test_slice_and_subnet_agree(space: Glit, share: Any) -> None:
    supernet = lively(GlitSupernet(space, GlitSupernetConfig(share=share))).eval()
    batch = random_images(space)
    with torch.inference_mode():
        for arch in archs_of(space, 12):
            torch.testing.assert_close(supernet(batch, arch), supernet.subnet(arch)(batch), rtol=1e-5, atol=1e-5)


@ALL
def test_another_arch_gives_another_output(space: Glit, share: Any) -> None:
    supernet = lively(GlitSupernet(space, GlitSupernetConfig(share=share))).eval()
    genome = space.sample(np.random.default_rng(3), 1)
    neighbours = space.decode(space.neighbours(genome).genomes)
    with torch.inference_mode():
        outputs = [supernet(random_images(space), arch) for arch in (*space.decode(genome), *neighbours)]
    for first, second in itertools.combinations(outputs, 2):
        assert (first - second).abs().max() > 1e-4


@FORMS
def test_gradients_reach_the_slices_alone(space: Glit) -> None:
    supernet = lively(GlitSupernet(space)).eval()
    for arch in archs_of(space, 6):
        supernet.zero_grad()
        network = supernet.subnet(arch)
        supernet(random_images(space), arch).square().sum().backward()
        network(random_images(space)).square().sum().backward()
        expected = {name: torch.zeros_like(tensor) for name, tensor in supernet.shared.named_parameters()}
        positions = {name: torch.arange(tensor.numel()).view(tensor.shape) for name, tensor in expected.items()}
        own = dict(network.named_parameters())
        for segment, piece in supernet.path(arch).items():
            for name, source in piece.sources.items():
                if (parameter := own.get(f"{segment}.{name}")) is not None and parameter.grad is not None:
                    expected[source[0].name].view(-1)[take(source, positions).ravel()] = parameter.grad.ravel()
        for name, parameter in supernet.shared.named_parameters():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-4)
            assert (grad[expected[name] == 0] == 0).all()


def test_evaluation_may_come_before_training() -> None:
    space = Glit(name="fresh", config=replace(TOY.config, embed_dim=66))
    supernet = GlitSupernet(space)
    arch = archs_of(space, 1)[0]
    with torch.inference_mode():
        supernet(random_images(space), arch)
    supernet(random_images(space), arch).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in supernet.parameters())


def taken(supernet: GlitSupernet, arch: GlitArch, name: str) -> set[int]:
    """The entries of a shared tensor that a network uses."""
    (source,) = [
        source for piece in supernet.path(arch).values() for source in piece.sources.values() if source[0].name == name
    ]
    tensor = supernet.shared.state_dict()[name]
    return set(take(source, {name: torch.arange(tensor.numel()).view(tensor.shape)}).ravel().tolist())


def paper_arch(**changes: Any) -> GlitArch:
    """A network of the toy space in the paper's form: four equal mixed blocks."""
    values: dict[str, Any] = {"groups": 2, "value_ratio": 1.0, "expansion": 2, "kernel_size": 7, "mlp_ratio": 4}
    return GlitArch(blocks=(GlitBlock(**{**values, **changes}),) * 4)


@pytest.mark.parametrize(
    ("name", "narrow", "wide"),
    [
        ("attention.qkv.weight", {"groups": 1}, {"groups": 2}),
        ("attention.qkv.bias", {"value_ratio": 0.5}, {"value_ratio": 2.0}),
        ("attention.proj.weight", {"value_ratio": 0.5, "groups": 1}, {"value_ratio": 1.0}),
        ("locality.expand.weight", {"groups": 2}, {"groups": 1}),
        ("locality.expand.bias", {"expansion": 1}, {"expansion": 4}),
        ("locality.depthwise.weight", {"kernel_size": 3}, {"kernel_size": 11}),
        ("locality.batch_norm.running_var", {"expansion": 1}, {"expansion": 2}),
        ("locality.reduce.weight", {"groups": 2}, {"groups": 1}),
    ],
)
def test_wide_choices_contain_narrow_ones(name: str, narrow: dict[str, Any], wide: dict[str, Any]) -> None:
    supernet = GlitSupernet(TOY_PAPER)
    name = f"blocks.1.attention.{name}"
    few, many = (taken(supernet, paper_arch(**changes), name) for changes in (narrow, wide))
    assert few < many


def test_heads_stay_heads() -> None:
    supernet = GlitSupernet(TOY_PAPER)
    rows = taken(supernet, paper_arch(groups=2, value_ratio=0.5), "blocks.0.attention.attention.qkv.bias")
    heads = [96 * third + 32 * head for third in range(3) for head in range(2)]
    assert rows == {start + row for start in heads for row in range(8)}


def test_the_locality_module_has_the_last_channels() -> None:
    supernet = GlitSupernet(TOY_PAPER)
    assert taken(supernet, paper_arch(groups=2), "blocks.0.attention.locality.reduce.bias") == set(range(32, 48))


def test_even_kernels_keep_their_offsets() -> None:
    config = GlitConfig(**{**to_mapping(TOY_PAPER.config), "kernel_sizes": (2, 3, 4)})
    supernet = GlitSupernet(Glit(name="even", config=config))
    taps = [
        {position % 4 for position in taken(supernet, paper_arch(kernel_size=size), DEPTHWISE)} for size in (2, 3, 4)
    ]
    assert taps == [{1, 2}, {1, 2, 3}, {0, 1, 2, 3}]


DEPTHWISE = "blocks.0.attention.locality.depthwise.weight"


# ----------------------------------------------------------------------------------------- batch norm in a supernet


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of the batch norms, copied."""
    return {name: tensor.clone() for name, tensor in module.named_buffers()}


@ALL
def test_training_updates_the_shared_statistics(space: Glit, share: Any) -> None:
    supernet = GlitSupernet(space, GlitSupernetConfig(share=share)).train()
    arch = next(arch for arch in archs_of(space, 200) if [block.groups for block in arch.blocks[:2]] == [1, 0])
    network = supernet.subnet(arch)
    before = statistics(supernet.shared)
    supernet(random_images(space, 4), arch).sum().backward()
    network(random_images(space, 4))
    own, after = dict(network.named_buffers()), statistics(supernet.shared)
    for segment, piece in supernet.path(arch).items():
        for name, source in piece.sources.items():
            if f"{segment}.{name}" in own:
                torch.testing.assert_close(take(source, after), own[f"{segment}.{name}"])
                take(source, after).zero_()
                take(source, before).zero_()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])


def test_two_networks_in_one_step() -> None:
    supernet = GlitSupernet(TOY_PAPER, GlitSupernetConfig(drop_path=0.2)).train()
    archs = [paper_arch(expansion=4), paper_arch(expansion=2, kernel_size=11)]
    supernet(random_images(TOY_PAPER, 8), archs).sum().backward()
    assert int(supernet.shared.get_buffer("blocks.0.attention.locality.batch_norm.num_batches_tracked")) == 2


# ------------------------------------------------------------------------------------------ sharing nothing


def test_candidates_are_what_the_forms_offer() -> None:
    assert [len(block_choices(space)) for space in (TOY, TOY_PAPER, SMALL, TINY_PAPER)] == [36, 198, 36, 198]
    assert len(block_choices(TOY)) ** TOY.config.depth == TOY.size
    assert len(block_choices(TOY_PAPER)) ** TOY_PAPER.config.depth == TOY_PAPER.size


def test_separate_weights_do_not_meet() -> None:
    supernet = GlitSupernet(AWKWARD[1], SEPARATE)
    pairs = [GlitArch(blocks=(block, MIXED)) for block in (MIXED, replace(MIXED, kernel_size=5))]
    names = [
        {source[0].name for piece in supernet.path(arch).values() for source in piece.sources.values()}
        for arch in pairs
    ]
    assert {name.split(".")[0] for name in names[0] & names[1]} == {"stem", "blocks", "head"}
    assert {name.split(".")[1] for name in names[0] & names[1] if name.startswith("blocks")} == {"1"}


def test_too_many_separate_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"1,000,000,000 parameters \(max_params\)") as caught:
        GlitSupernet(TINY_PAPER, SEPARATE)
    assert "198 choices" in str(caught.value)
    supernet = GlitSupernet(AWKWARD[0], SEPARATE)
    params = sum(parameter.numel() for name, parameter in supernet.shared.named_parameters() if "blocks" in name)
    GlitSupernet(AWKWARD[0], replace(SEPARATE, max_params=params))
    with pytest.raises(InputError, match=f"{params:,}"):
        GlitSupernet(AWKWARD[0], replace(SEPARATE, max_params=params - 1))


def test_config_survives_a_file() -> None:
    assert from_mapping(GlitSupernetConfig, to_mapping(SEPARATE)) == SEPARATE


# ------------------------------------------------------------------------------------------ costs and backends


@pytest.mark.parametrize("space", [TOY, TOY_PAPER, *AWKWARD], ids=lambda space: space.name)
def test_costs_are_those_of_the_extracted_network(space: Glit) -> None:
    genomes = space.sample(np.random.default_rng(1), 8)
    costs = space.costs(genomes)
    for arch, params, macs in zip(space.decode(genomes), costs.params, costs.macs, strict=True):
        assert counted(space, arch) == (params, macs)


def test_costs_of_the_published_network() -> None:
    assert counted(TINY, TINY.published["GLiT-T"]) == (7_264_456, 1_472_873_280)


def counted(space: Glit, arch: GlitArch) -> tuple[int, int]:
    """Parameters and multiply-accumulates of the extracted network, as torch counts them."""
    with torch.device("meta"):
        network = GlitSupernet(space).eval().subnet(arch)
        with FlopCounterMode(display=False) as counter:
            network(random_images(space, 1).to("meta"))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


def test_half_precision() -> None:
    supernet = GlitSupernet(TOY_PAPER).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = supernet(random_images(TOY_PAPER), paper_arch())
    output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    assert supernet.get_parameter("shared.stem.class_token").grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slice", "subnet"])
def test_compiled(kind: str) -> None:
    space = AWKWARD[1]
    supernet = lively(GlitSupernet(space)).eval()
    arch = GlitArch(blocks=(MIXED, replace(MIXED, groups=0, value_ratio=None)))
    network = supernet.subnet(arch) if kind == "subnet" else supernet.bind(arch)
    compiled = torch.compile(network, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(random_images(space)), network(random_images(space)), rtol=1e-5, atol=1e-5)
