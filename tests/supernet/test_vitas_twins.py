"""The Twins-style supernet against timm's Twins-SVT, and its sharing."""

from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.twins import Twins as TimmTwins
from torch import Tensor, nn

from hwnas.space.vitas import VitasBlock
from hwnas.space.vitas_twins import SMALL, Twins, TwinsArch, TwinsConfig, TwinsStage, TwinsStageConfig
from hwnas.supernet.network import Network
from hwnas.supernet.official.keys import fill, translate
from hwnas.supernet.official.rules import TWINS_RULES
from hwnas.supernet.vitas_twins import TwinsBlockConfig, TwinsSupernet, TwinsSupernetConfig, outline
from tests.supernet.scatter import scatter

TOY = Twins(
    name="twins-toy",
    config=TwinsConfig(
        image_size=32,
        num_classes=10,
        window=4,
        stages=tuple(
            TwinsStageConfig(
                embed_dims=widths,
                num_heads=(1, 2, 4),
                qkv_dims=qkv,
                hidden_dims=hidden,
                slots=slots,
                patch_size=patch,
                reduction=reduction,
            )
            for widths, qkv, hidden, slots, patch, reduction in (
                ((24, 32), (48, 96), (48, 96), 2, 4, 4),
                ((36, 48, 64), (96, 144), (96, 144), 3, 2, 2),
                ((64, 96), (96, 192), (128, 256), 2, 2, 1),
            )
        ),
    ),
)


def randomised(module: nn.Module) -> None:
    """Norms, biases and weights that keep the scale of what goes through them, all random."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim > 1:
                parameter.copy_(noise / sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.2 * noise + (1 if "norm" in name and name.endswith("weight") else 0))


def random_images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def random_archs(space: Twins, count: int) -> list[TwinsArch]:
    return list(space.decode(space.sample(np.random.default_rng(1), count)))


# timm.


def test_twins_svt_small() -> None:
    reference = timm.create_model("twins_svt_small", pretrained=False).eval()
    randomised(reference)
    network = Network(outline(SMALL.config, SMALL.published["Twins-SVT-S"])).eval()
    fill(network, translate(reference.state_dict(), TWINS_RULES))
    x = random_images(224)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), reference(x), rtol=0, atol=1e-5)
    assert sum(parameter.numel() for parameter in network.parameters()) == 24_060_776


def test_twins_svt_small_as_a_slice() -> None:
    reference = timm.create_model("twins_svt_small", pretrained=False).eval()
    randomised(reference)
    supernet, arch = TwinsSupernet(SMALL).eval(), SMALL.published["Twins-SVT-S"]
    scatter(supernet, arch, translate(reference.state_dict(), TWINS_RULES))
    x = random_images(224)
    with torch.inference_mode():
        expected = reference(x)
        torch.testing.assert_close(supernet(x, arch), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(supernet.subnet(arch)(x), expected, rtol=0, atol=1e-5)


def svt(image_size: int, *, window: int, widths: tuple[int, ...], reductions: tuple[int, ...]) -> tuple[Any, Twins]:
    """A network of timm, and the space that holds it alone: two heads, and three blocks a stage."""
    reference = TimmTwins(
        img_size=image_size,
        num_classes=7,
        embed_dims=widths,
        num_heads=(2,) * len(widths),
        mlp_ratios=(3,) * len(widths),
        depths=(3,) * len(widths),
        sr_ratios=reductions,
        wss=(window,) * len(widths),
    )
    stages = tuple(
        TwinsStageConfig(
            embed_dims=(width,),
            num_heads=(2,),
            qkv_dims=(3 * width,),
            hidden_dims=(3 * width,),
            slots=3,
            patch_size=2 if number else 4,
            reduction=reduction,
        )
        for number, (width, reduction) in enumerate(zip(widths, reductions, strict=True))
    )
    config = TwinsConfig(image_size=image_size, num_classes=7, window=window, stages=stages)
    return reference.eval(), Twins(name="svt", config=config)


@pytest.mark.parametrize(
    ("image_size", "window", "reductions"),
    [(80, 7, (4, 2, 1)), (80, 4, (3, 4, 2)), (96, 12, (8, 4, 2)), (48, 7, (8, 4, 3))],
)
def test_grids_that_windows_or_steps_do_not_divide(image_size: int, window: int, reductions: tuple[int, ...]) -> None:
    """Grids of 20, 10, 5; 24, 12, 6; 12, 6, 3."""
    reference, space = svt(image_size, window=window, widths=(12, 24, 30), reductions=reductions)
    randomised(reference)
    supernet = TwinsSupernet(space).eval()
    fill(supernet.shared, translate(reference.state_dict(), TWINS_RULES))
    x, arch = random_images(image_size), space.largest()
    with torch.inference_mode():
        torch.testing.assert_close(supernet(x, arch), reference(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(supernet.subnet(arch)(x), reference(x), rtol=0, atol=1e-5)


def test_it_starts_as_in_timm() -> None:
    torch.manual_seed(0)
    reference, space = svt(80, window=7, widths=(48, 96), reductions=(4, 2))
    started = dict(TwinsSupernet(space).shared.named_parameters())
    for name, tensor in translate(reference.state_dict(), TWINS_RULES).items():
        spread, wanted = started[name].std().item(), tensor.std().item()
        assert spread == pytest.approx(wanted, rel=0.25, abs=1e-12), name
        assert started[name].mean().item() == pytest.approx(tensor.mean().item(), abs=0.2 * wanted + 1e-12), name


# Sharing.


@pytest.mark.parametrize("config", [TwinsSupernetConfig(), TwinsSupernetConfig(sharing="prefix")])
def test_a_slice_is_the_extracted_network(config: TwinsSupernetConfig) -> None:
    supernet = TwinsSupernet(TOY, config).eval()
    randomised(supernet)
    x, archs = random_images(32), random_archs(TOY, 6)
    with torch.inference_mode():
        for arch in archs:
            subnet = supernet.subnet(arch)
            torch.testing.assert_close(subnet(x), supernet(x, arch), rtol=0, atol=1e-5)
            assert sum(map(Tensor.numel, subnet.parameters())) == TOY.costs(TOY.encode([arch])).params[0]


def test_every_gene_that_is_used_changes_the_output() -> None:
    supernet = TwinsSupernet(TOY).eval()
    randomised(supernet)
    x, genome = random_images(32), TOY.encode(random_archs(TOY, 1))
    with torch.inference_mode():
        output = supernet(x, *TOY.decode(genome))
        neighbours = TOY.decode(TOY.neighbours(genome).genomes)
        assert all((supernet(x, arch) - output).abs().max() > 1e-4 for arch in neighbours)


def entries(parameter: Tensor, *, axis: int) -> list[int]:
    """Where the gradient of a parameter is not 0, along one axis."""
    assert parameter.grad is not None
    return (
        parameter.grad.movedim(axis, 0).reshape(parameter.shape[axis], -1).abs().sum(dim=1).nonzero().flatten().tolist()
    )


def test_gradients_reach_the_slices() -> None:
    """Stage 1 has 48 of 64 channels, which start at 36 and go round, and q, k and v of 32 of 48 rows each."""
    supernet = TwinsSupernet(TOY)
    randomised(supernet)
    supernet(random_images(32), narrow_in_the_middle()).square().sum().backward()
    shared = dict(supernet.shared.named_parameters())
    ring, rows = [*range(20), *range(36, 64)], list(range(32))
    stage = "stages.1."
    expected = {
        ("patch_embeds.1.conv.weight", 0): ring,
        ("patch_embeds.1.conv.weight", 1): list(range(24)),
        ("patch_embeds.1.norm.weight", 0): ring,
        ("patch_embeds.2.conv.weight", 1): ring,
        (f"{stage}0.norm1.weight", 0): ring,
        (f"{stage}0.attention.qkv.weight", 0): [third + row for third in (0, 48, 96) for row in rows],
        (f"{stage}0.attention.qkv.weight", 1): ring,
        (f"{stage}0.attention.proj.weight", 0): ring,
        (f"{stage}0.attention.proj.weight", 1): rows,
        (f"{stage}0.mlp.fc1.weight", 0): list(range(96)),
        (f"{stage}0.position.conv.weight", 0): ring,
        (f"{stage}0.position.conv.bias", 0): ring,
        (f"{stage}1.attention.q.weight", 0): rows,
        (f"{stage}1.attention.kv.weight", 0): [half + row for half in (0, 48) for row in rows],
        (f"{stage}1.attention.kv.weight", 1): ring,
        (f"{stage}1.attention.reduce.conv.weight", 0): ring,
        (f"{stage}1.attention.reduce.conv.weight", 1): ring,
        (f"{stage}1.attention.reduce.norm.bias", 0): ring,
    }
    assert {key: entries(shared[key[0]], axis=key[1]) for key in expected} == expected
    untouched = {name for name, parameter in shared.items() if parameter.grad is None}
    assert untouched == {name for name in shared if name.startswith((f"{stage}2.", "stages.2.1."))}


def narrow_in_the_middle() -> TwinsArch:
    first, last = TOY.smallest().stages[0], TOY.smallest().stages[2]
    block = VitasBlock(num_heads=2, qkv_dim=96, hidden_dim=96)
    two = replace(first, embed_dim=24, blocks=first.blocks[:1] * 2)
    return TwinsArch(stages=(two, TwinsStage(embed_dim=48, blocks=(block, block)), last))


def test_drop_path_grows_over_all_slots() -> None:
    """7 slots in stages of 2, 3 and 2: a network with fewer blocks keeps the rates of its slots."""
    rates = {
        name: config.drop_path
        for name, config in outline(TOY.config, narrow_in_the_middle(), drop_path=0.6).items()
        if isinstance(config, TwinsBlockConfig)
    }
    expected = {"stages.0.0": 0.0, "stages.0.1": 0.1, "stages.1.0": 0.2, "stages.1.1": 0.3, "stages.2.0": 0.5}
    assert rates == pytest.approx(expected)
