"""ViT-ResNAS's supernet against the official code's outputs, the closed forms and itself."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwnas.errors import InputError
from hwnas.space.resnas import SMALL, TINY, ResNas, ResNasArch, ResNasBlock, ResNasConfig, ResNasStage
from hwnas.space.resnas import ResNasStageConfig as StageConfig
from hwnas.supernet.network import Network
from hwnas.supernet.official.keys import fill, translate
from hwnas.supernet.official.rules import resnas_rules
from hwnas.supernet.resnas import PatchLogits, ResNasSupernet, ResNasSupernetConfig, live_slots, outline
from tests.supernet.golden import assert_golden, golden, images, weights
from tests.supernet.scatter import scatter

SMALL_GOLDEN = ("resnas-small-full", "resnas-small-mixed")
PUBLISHED = [(TINY, "ViT-ResNAS-T"), (SMALL, "ViT-ResNAS-S"), (SMALL, "ViT-ResNAS-M")]

TOY = ResNas(
    name="resnas-toy",
    config=ResNasConfig(
        image_size=32,
        num_classes=10,
        stem_channels=8,
        patch_size=2,
        stages=tuple(
            StageConfig(
                embed_dims=widths, num_heads=(1, 2, 3), head_dim=16, hidden_dims=hidden, slots=2, removable=(1,)
            )
            for widths, hidden in (
                ((24, 32), (32, 48, 64)),
                ((48, 64), (64, 96, 128)),
                ((80, 112), (96, 160, 224)),
            )
        ),
    ),
)

AWKWARD = ResNas(
    name="awkward",
    config=ResNasConfig(
        image_size=32,
        num_classes=3,
        stem_channels=6,
        patch_size=2,
        stages=(
            StageConfig(embed_dims=(6, 8), num_heads=(1, 2), head_dim=4, hidden_dims=(5, 9), slots=3, removable=(0, 2)),
            StageConfig(embed_dims=(8,), num_heads=(2, 3), head_dim=4, hidden_dims=(7,), slots=2, removable=(0,)),
        ),
    ),
)
"""Equal widths before and after a reduction, removable first slots, and paths that extract to the same network."""


def official_stages(definition: Sequence[Any]) -> list[tuple[int, list[Any]]]:
    """The width and the blocks of each stage of an official network definition."""
    stages: list[tuple[int, list[Any]]] = []
    for entry in definition:
        if entry[0] == 1:
            stages[-1][1].append(entry)
        elif entry[0] in (3, 4):
            stages.append((entry[-1], []))
    return stages


def small_space(config: dict[str, Any]) -> ResNas:
    """The super-network of the small golden networks as a space."""
    pairs = zip(
        official_stages(config["super_network_def"]), ((28, 32), (48, 64), (112, 128)), (8, 12, 16), strict=True
    )
    stages = tuple(
        StageConfig(
            embed_dims=embeds,
            num_heads=(2, 3, 4),
            head_dim=head_dim,
            hidden_dims=tuple(blocks[0][2][1] * part // 12 for part in (6, 9, 12)),
            slots=len(blocks),
            removable=(1,),
        )
        for (_, blocks), embeds, head_dim in pairs
    )
    return ResNas(
        name="small",
        config=ResNasConfig(image_size=config["img_size"], num_classes=config["num_classes"], stages=stages),
    )


def golden_arch(config: dict[str, Any]) -> ResNasArch:
    """The golden network in our terms."""
    return ResNasArch(
        stages=tuple(
            ResNasStage(
                embed_dim=embed,
                blocks=tuple(
                    ResNasBlock(num_heads=attention[1], hidden_dim=mlp[1]) if exists else None
                    for _, attention, mlp, exists in blocks
                ),
            )
            for embed, blocks in official_stages(config["network_def"])
        )
    )


def drawn(space: ResNas, count: int, *, seed: int = 0) -> tuple[ResNasArch, ...]:
    return space.decode(space.sample(np.random.default_rng(seed), count))


def random_images(space: ResNas, count: int) -> Tensor:
    config = space.config
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, config.channels, config.image_size, config.image_size, generator=generator)


def supernet(space: ResNas = TOY, patch_logits: PatchLogits = "never") -> ResNasSupernet:
    """A supernet in eval mode whose weights are all large enough to matter."""
    torch.manual_seed(0)
    net = ResNasSupernet(space, ResNasSupernetConfig(patch_logits=patch_logits)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) / math.sqrt(parameter[0].numel()))
    return net


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ------------------------------------------------------------------------------------- the official code


@pytest.mark.parametrize("name", SMALL_GOLDEN)
def test_official_subnets(name: str) -> None:
    record = golden(name)
    space = small_space(record["config"])
    net = ResNasSupernet(space, ResNasSupernetConfig(patch_logits="always")).eval()
    state = weights(record["shapes"])
    assert isinstance(net.shared, Network)
    fill(net.shared, translate(state, resnas_rules(net.shared.segments(), state, patch_head=True)))
    arch = golden_arch(record["config"])
    with torch.inference_mode():
        subnet = net.subnet(arch, patch_logits="always")
        for logits, patch_logits in (net(images(record), arch), subnet(images(record))):
            assert_golden(logits, record)
            assert_golden(patch_logits, record, name="patch_logits")
        assert_golden(net.subnet(arch)(images(record)), record)
    assert num_parameters(subnet) == record["config"]["params_with_patch_head"]
    assert num_parameters(net.subnet(arch)) == space.costs(space.encode([arch])).params[0]


@pytest.mark.parametrize("numbering", ["as in the supernet", "anew"])
def test_official_searched_network(numbering: str) -> None:
    record = golden("resnas-t")
    arch = TINY.published["ViT-ResNAS-T"]
    segments = outline(TINY.config, arch)
    state = weights(record["shapes"])
    if numbering == "as in the supernet":
        state = {_with_removed_blocks(key): tensor for key, tensor in state.items()}
        assert "blocks.20.mlp.fc2.bias" not in state  # 3 stages of 6 slots, 2 reductions: the last is blocks.19
        assert "blocks.19.mlp.fc2.bias" not in state
        assert "blocks.18.mlp.fc2.bias" in state
    with torch.device("meta"):
        network = Network(segments)
    network.to_empty(device="cpu").eval()
    fill(network, translate(state, resnas_rules(segments, state, patch_head=False)))
    with torch.inference_mode():
        assert_golden(network(images(record)), record)
    assert num_parameters(network) == record["config"]["params_with_patch_head"] - 705 * 1000


def test_official_searched_network_as_a_slice() -> None:
    record = golden("resnas-t")
    arch = TINY.published["ViT-ResNAS-T"]
    net = ResNasSupernet(TINY).eval()
    state = weights(record["shapes"])
    scatter(net, arch, translate(state, resnas_rules(net.outline(arch), state, patch_head=False)))
    with torch.inference_mode():
        assert_golden(net(images(record), arch), record)
        assert_golden(net.subnet(arch)(images(record)), record)


def _with_removed_blocks(key: str) -> str:
    """The key's number in the super-network, given that slot 5 of stages 0 and 2 has no block."""
    parts = key.split(".")
    if parts[0] == "blocks" and int(parts[1]) >= 5:
        parts[1] = str(int(parts[1]) + 1)
    return ".".join(parts)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    state = weights(golden("resnas-small-full")["shapes"])
    with pytest.raises(InputError, match="must hold 8 blocks and spatial reductions"):
        resnas_rules(outline(TOY.config, TOY.largest()), dict(list(state.items())[:40]), patch_head=True)


# ----------------------------------------------------------------------------- slices, extracted networks


@pytest.mark.parametrize("space", [TOY, AWKWARD], ids=lambda space: space.name)
def test_a_slice_is_the_extracted_network(space: ResNas) -> None:
    net, x = supernet(space), random_images(space, 2)
    archs = (*drawn(space, 6), space.smallest(), space.largest())
    with torch.inference_mode():
        outputs = [net(x, arch) for arch in archs]
        for arch, output in zip(archs, outputs, strict=True):
            torch.testing.assert_close(net.subnet(arch)(x), output, rtol=0, atol=1e-6)
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == len(set(archs))


def test_the_outline_is_what_is_extracted() -> None:
    net = supernet(AWKWARD, patch_logits="training")
    for arch in drawn(AWKWARD, 4):
        network = net.subnet(arch)
        assert network.outline == net.outline(arch) == outline(AWKWARD.config, arch)
        assert list(network.state_dict()) == list(Network(network.outline).state_dict())


def test_equal_networks_on_different_paths_have_equal_names_and_not_weights() -> None:
    block = ResNasBlock(num_heads=1, hidden_dim=5)
    second = ResNasStage(embed_dim=8, blocks=(None, ResNasBlock(num_heads=3, hidden_dim=7)))
    first_gone, last_gone = (
        ResNasArch(stages=(ResNasStage(embed_dim=6, blocks=blocks), second))
        for blocks in ((None, block, block), (block, block, None))
    )
    assert AWKWARD.network_id(first_gone) == AWKWARD.network_id(last_gone)
    net = supernet(AWKWARD)
    one, other = net.subnet(first_gone), net.subnet(last_gone)
    assert one.outline.keys() == other.outline.keys()
    assert [name for name in one.outline if "stages" in name] == ["stages.0.0", "stages.0.1", "stages.1.0"]
    assert live_slots(first_gone) == {
        "stages.0.0": "stages.0.1",
        "stages.0.1": "stages.0.2",
        "stages.1.0": "stages.1.1",
    }
    own, shared = one.state_dict(), net.shared.state_dict()
    assert torch.equal(own["stages.1.0.attention.qkv.weight"], shared["stages.1.1.attention.qkv.weight"])
    assert torch.equal(other.state_dict()["stages.0.0.mlp.fc1.weight"], shared["stages.0.0.mlp.fc1.weight"][:5, :6])


def test_an_extracted_network_has_its_own_weights() -> None:
    net, x = supernet(), random_images(TOY, 2)
    subnet = net.subnet(TOY.smallest())
    with torch.inference_mode():
        before = subnet(x)
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.zero_()
        assert torch.equal(subnet(x), before)


def test_rates_of_stochastic_depth_follow_the_slots() -> None:
    space = AWKWARD
    block = ResNasBlock(num_heads=2, hidden_dim=7)
    arch = ResNasArch(
        stages=(
            ResNasStage(embed_dim=6, blocks=(None, ResNasBlock(num_heads=1, hidden_dim=5), None)),
            ResNasStage(embed_dim=8, blocks=(block, block)),
        )
    )
    net = ResNasSupernet(space, ResNasSupernetConfig(drop_path=0.4))
    rates = {name: getattr(config, "drop_path", None) for name, config in net.outline(arch).items()}
    assert rates["stages.0.0"] == pytest.approx(0.1)
    assert rates["stages.1.0"] == pytest.approx(0.3)
    assert rates["stages.1.1"] == pytest.approx(0.4)


def test_start() -> None:
    torch.manual_seed(0)
    shared = ResNasSupernet(TOY, ResNasSupernetConfig(patch_logits="training")).shared.state_dict()
    for name in ("tokens.position", "stages.2.1.mlp.fc1.weight", "reductions.0.position"):
        assert shared[name].std().item() == pytest.approx(0.02, rel=0.1)
    for name in ("stages.0.0.attention.qkv.bias", "head.patch_classifier.bias", "reductions.1.class_token.bias"):
        assert not shared[name].any()
    bound = 1 / math.sqrt(8 * 9)  # torch's start of a convolution: uniform up to 1/√(inputs · kernel)
    assert bound * 0.9 < shared["stem.conv2.conv.weight"].abs().max().item() <= bound


# ------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize(("space", "name"), PUBLISHED)
def test_published_networks_cost_what_the_closed_form_says(space: ResNas, name: str) -> None:
    arch = space.published[name]
    with torch.device("meta"):
        network = Network(outline(space.config, arch))
    workload = space.workload(arch)
    assert (num_parameters(network), _macs(network, space)) == (workload.params, workload.macs)


@pytest.mark.parametrize("space", [TOY, AWKWARD], ids=lambda space: space.name)
def test_a_slice_costs_what_its_network_costs(space: ResNas) -> None:
    with torch.device("meta"):
        net = ResNasSupernet(space, ResNasSupernetConfig(patch_logits="training")).eval()
    genomes = space.sample(np.random.default_rng(1), 6)
    costs = space.costs(genomes)
    for arch, params, macs in zip(space.decode(genomes), costs.params, costs.macs, strict=True):
        with torch.device("meta"):
            network = Network(net.outline(arch))
        assert num_parameters(network) == params
        assert _macs(network, space) == _macs(net, space, arch) == macs


def _macs(network: nn.Module, space: ResNas, *archs: ResNasArch) -> int:
    config = space.config
    x = torch.empty(1, config.channels, config.image_size, config.image_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(x, *archs)
    return int(counter.get_total_flops()) // 2


# ---------------------------------------------------------------------------- several networks in a step


@pytest.mark.parametrize("patch_logits", ["never", "always"])
def test_several_networks_in_one_forward(patch_logits: PatchLogits) -> None:
    net, x = supernet(patch_logits=patch_logits), random_images(TOY, 7)
    archs = [*drawn(TOY, 2, seed=3), TOY.smallest()]
    with torch.inference_mode():
        together = _outputs(net(x, archs))
        for index, arch in enumerate(archs):
            for joint, alone in zip(together, _outputs(net(x[index::3], arch)), strict=True):
                torch.testing.assert_close(joint[index::3], alone, rtol=0, atol=1e-6)
        for joint, alone in zip(_outputs(net(x, [archs[0]] * 2)), _outputs(net(x, archs[0])), strict=True):
            torch.testing.assert_close(joint, alone, rtol=0, atol=1e-6)


def _outputs(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_batch_norm_sees_the_whole_batch() -> None:
    joint, single, halved = (supernet().train() for _ in range(3))
    x, (one, other) = random_images(TOY, 8), drawn(TOY, 2)
    together = joint(x, [one, other])
    torch.testing.assert_close(together[::2], single(x, one)[::2], rtol=0, atol=1e-5)
    halved(x[::2], one)
    statistics = [net.shared.get_buffer("stem.conv3.norm.running_mean") for net in (joint, single, halved)]
    assert torch.equal(statistics[0], statistics[1])
    assert not torch.allclose(statistics[0], statistics[2], rtol=0, atol=1e-4)
    assert joint.shared.get_buffer("stem.conv1.norm.num_batches_tracked").item() == 1


def test_gradients_of_a_joint_step_are_the_sum_of_both() -> None:
    net, x, archs = supernet().train(), random_images(TOY, 4), drawn(TOY, 2)
    net(x, archs).square().sum().backward()
    joint = _gradients(net)
    net.zero_grad()
    for index, arch in enumerate(archs):
        net(x, arch)[index::2].square().sum().backward()
    for name, gradient in _gradients(net).items():
        torch.testing.assert_close(joint[name], gradient, rtol=1e-4, atol=1e-5)


def _gradients(net: ResNasSupernet) -> dict[str, Tensor]:
    named = net.shared.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def test_gradients_reach_the_sliced_entries_alone() -> None:
    net = supernet(patch_logits="training").train()
    arch = ResNasArch(
        stages=(
            ResNasStage(embed_dim=24, blocks=(ResNasBlock(num_heads=2, hidden_dim=48), None)),
            ResNasStage(embed_dim=48, blocks=(ResNasBlock(num_heads=1, hidden_dim=96),) * 2),
            ResNasStage(embed_dim=112, blocks=(ResNasBlock(num_heads=3, hidden_dim=96), None)),
        )
    )
    logits, patch_logits = net(random_images(TOY, 6), arch)
    (logits.square().sum() + patch_logits.square().sum()).backward()
    reached = {name: gradient != 0 for name, gradient in _gradients(net).items()}
    assert not [name for name in reached if name.startswith(("stages.0.1.", "stages.2.1."))]
    expected = {
        "tokens.patch_embed.weight": (slice(24),),
        "tokens.class_token": (0, 0, slice(24)),
        "stages.0.0.attention.qkv.weight": ([*range(32), *range(48, 80), *range(96, 128)], slice(24)),
        "stages.0.0.attention.proj.weight": (slice(24), slice(32)),
        "stages.0.0.mlp.fc1.bias": (slice(48),),
        "stages.1.1.mlp.fc2.weight": (slice(48), slice(96)),
        "reductions.0.conv.weight": (slice(48), slice(24)),
        "reductions.0.position": (0, slice(None), slice(48)),
        "reductions.1.class_token.weight": (slice(112), slice(48)),
        "stages.2.0.norm1.weight": (slice(112),),
        "head.classifier.weight": (slice(None), slice(112)),
        "head.patch_classifier.weight": (slice(None), slice(112)),
    }
    for name, index in expected.items():
        mask = torch.zeros_like(reached[name])
        mask[index] = True
        assert torch.equal(reached[name], mask), name


def test_patch_logits_only_where_they_are_wanted() -> None:
    net, x, arch = supernet(patch_logits="training"), random_images(TOY, 2), TOY.smallest()
    assert net(x, arch).shape == (2, 10)
    logits, patch_logits = net.train()(x, arch)
    assert (logits.shape, patch_logits.shape) == ((2, 10), (2, 4, 10))
    assert net.subnet(arch)(x).shape == (2, 10)
    assert not [name for name in net.subnet(arch).state_dict() if "patch_classifier" in name]
    with pytest.raises(InputError, match="can only come from a supernet that has one"):
        supernet().subnet(arch, patch_logits="always")
    _, inherited = net.subnet(arch, patch_logits="training")(x)
    torch.testing.assert_close(inherited, patch_logits, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------- torch


def test_bfloat16() -> None:
    net, x, archs = supernet(patch_logits="training").train(), random_images(TOY, 4), drawn(TOY, 2)
    exact = net(x, archs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = net(x, archs)
    for ours, full in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), full, rtol=0, atol=0.05 * full.abs().max().item())
    sum(output.float().sum() for output in rounded).backward()
    assert all(gradient.isfinite().all() for gradient in _gradients(net).values())
