"""Repair of cut networks by least squares: what it must not change, the formula, and what it makes up for."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from hwnas.space.elastic import ElasticArch, ElasticBlock
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.network import Network
from hwnas.train import repair
from hwnas.train.pretrained import supernet_of
from hwnas.train.repair import repair_network

SIDE, DEPTH = 48, 3
NORMS = "test_vit with norms"
KINDS = ("test_vit", "test_vit3", NORMS, "eva02_tiny_patch14_224")
"""Plain, with LayerScale, with norms in attention and MLP, and with rotary positions and SwiGLU."""


def make_supernet(kind: str = "test_vit", *, sizes: bool = False) -> ElasticSupernet:
    torch.manual_seed(0)
    name, side = kind.split()[0], 42 if "patch14" in kind else SIDE
    norms: dict[str, Any] = {"scale_attn_norm": True, "scale_mlp_norm": True} if kind == NORMS else {}
    model = timm.create_model(name, img_size=side, depth=DEPTH, num_classes=5, **norms).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.05))
    supernet = supernet_of(model, name=name, sizes=sizes)
    supernet.eval()
    return supernet


def images(supernet: ElasticSupernet, count: int = 24, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *supernet.space.config.input_shape, generator=generator)


def cut(supernet: ElasticSupernet, *changes: dict[str, int]) -> ElasticArch:
    """The model with changed first blocks."""
    blocks = list(supernet.space.largest().blocks)
    for slot, change in enumerate(changes):
        blocks[slot] = replace(blocks[slot], **change)
    return ElasticArch(blocks=tuple(blocks))


def narrow(supernet: ElasticSupernet) -> ElasticArch:
    """Fewer heads and hidden units in all blocks."""
    config = supernet.space.config
    block = ElasticBlock(num_heads=config.num_heads[1], hidden_dim=config.hidden_dims[-2])
    return ElasticArch(blocks=(block,) * config.depth)


@torch.inference_mode()
def tokens(network: Network, x: Tensor) -> Tensor:
    """The tokens behind the last block."""
    *blocks, _ = network.segments().values()
    for block in blocks:
        x = block(x)
    return x


def error(network: Network, model: Network, x: Tensor) -> float:
    return float((tokens(network, x) - tokens(model, x)).square().mean())


def repaired(supernet: ElasticSupernet, arch: ElasticArch, *batches: Tensor, **options: Any) -> Network:
    network, model = supernet.subnet(arch), supernet.subnet(supernet.space.largest())
    repair_network(network, model, batches, **options)
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_network_does_not_change(kind: str) -> None:
    supernet = make_supernet(kind)
    x = images(supernet)
    original = supernet.space.largest()
    found, model = repaired(supernet, original, x), supernet.subnet(original)
    expected = tokens(model, x)
    assert (tokens(found, x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_network_comes_closer_to_the_model_on_other_images(kind: str) -> None:
    supernet = make_supernet(kind)
    arch, x = narrow(supernet), images(supernet, 96)
    model = supernet.subnet(supernet.space.largest())
    before = error(supernet.subnet(arch), model, images(supernet, seed=2))
    assert error(repaired(supernet, arch, x), model, images(supernet, seed=2)) < 0.9 * before


def test_weights_are_those_of_a_ridge_regression() -> None:
    supernet = make_supernet()
    arch = cut(supernet, {}, {}, {"hidden_dim": supernet.space.config.hidden_dims[1]})
    x = images(supernet, 8)
    network, model = supernet.subnet(arch), supernet.subnet(supernet.space.largest())
    inputs: list[Tensor] = []
    block: Any = network.get_submodule("blocks.2")
    block.mlp.fc2.register_forward_pre_hook(lambda _, given: inputs.append(given[0].flatten(0, 1).double()))
    lacking = (tokens(model, x) - tokens(network, x)).flatten(0, 1).double()
    inputs_2d = torch.cat([inputs[0], torch.ones(len(inputs[0]), 1)], dim=1).double()
    centred = inputs[0] - inputs[0].mean(dim=0)
    penalty = 0.01 * centred.square().sum(dim=0).mean() * torch.eye(inputs_2d.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0.0  # biases are free
    change = torch.linalg.solve(inputs_2d.T @ inputs_2d + penalty, inputs_2d.T @ lacking)
    found: Any = repaired(supernet, arch, x).get_submodule("blocks.2")
    torch.testing.assert_close(found.mlp.fc2.weight, (block.mlp.fc2.weight + change[:-1].T).float())
    torch.testing.assert_close(found.mlp.fc2.bias, (block.mlp.fc2.bias + change[-1]).float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        ({"num_heads": 0},),
        ({}, {"hidden_dim": 0}),
        ({}, {"num_heads": 0, "hidden_dim": 0}),
        ({}, {}, {"num_heads": 0, "hidden_dim": 0}),
    ],
)
def test_other_layers_make_up_for_what_is_skipped(changes: tuple[dict[str, int], ...]) -> None:
    supernet = make_supernet()
    arch, x = cut(supernet, *changes), images(supernet, 96)
    model = supernet.subnet(supernet.space.largest())
    before = error(supernet.subnet(arch), model, images(supernet, seed=2))
    assert error(repaired(supernet, arch, x), model, images(supernet, seed=2)) < before


def test_only_the_last_layers_change_and_batches_do_not_matter() -> None:
    supernet = make_supernet("test_vit3")
    arch, x = narrow(supernet), images(supernet)
    before, whole = supernet.subnet(arch).state_dict(), repaired(supernet, arch, x).state_dict()
    changed = {name for name, value in whole.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".attention.proj." in name or ".mlp.fc2." in name for name in changed)
    parts = repaired(supernet, arch, *torch.split(x, 5)).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-4, rtol=1e-3)
    again = repaired(supernet, arch, x).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_a_larger_penalty_changes_less() -> None:
    supernet = make_supernet()
    arch, x = narrow(supernet), images(supernet)
    before = supernet.subnet(arch).state_dict()["blocks.0.mlp.fc2.weight"]
    free, bound = (
        repaired(supernet, arch, x, damping=damping).state_dict()["blocks.0.mlp.fc2.weight"]
        for damping in ("mean", "max")
    )
    assert (bound - before).norm() < (free - before).norm()


def test_networks_of_smaller_images_are_compared_with_the_model_at_their_size() -> None:
    supernet = make_supernet(sizes=True)
    arch, x = replace(supernet.space.largest(), image_size=32), images(supernet)
    network = supernet.subnet(arch)
    expected = tokens(network, x)
    repair_network(network, supernet.subnet(arch), [x])
    assert (tokens(network, x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_images_beyond_the_limit_of_memory_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = make_supernet()
    arch, x = narrow(supernet), images(supernet)
    network, model = supernet.subnet(arch), supernet.subnet(supernet.space.largest())
    assert repair_network(deepcopy(network), model, torch.split(x, 6)) == 24
    monkeypatch.setattr(repair, "_STREAM_BYTES", 1)
    assert repair_network(network, model, torch.split(x, 6)) == 6


def test_scales_of_zero_and_inputs_that_do_not_vary_leave_finite_weights() -> None:
    supernet = make_supernet("test_vit3")
    arch, x = narrow(supernet), images(supernet)
    shared = dict(supernet.shared.named_parameters())
    with torch.no_grad():
        shared["blocks.0.mlp.scale"][:3] = 0
        shared["blocks.1.mlp.fc1.weight"].zero_()
    before, after = supernet.subnet(arch).state_dict(), repaired(supernet, arch, x).state_dict()
    assert all(value.isfinite().all() for value in after.values())
    name = "blocks.0.mlp.fc2.weight"
    assert torch.equal(after[name][:3], before[name][:3])
    assert not torch.equal(after[name][3:], before[name][3:])
