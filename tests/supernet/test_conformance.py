"""What holds for the supernet of every family: one suite, run on all of them."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.space.glit import Glit, GlitConfig
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_network, make_supernet
from hwnas.supernet.supernet import AnySupernet, SupernetConfig
from tests.marks import slow_but
from tests.strategies import repeats_a_mini_space

MICRO = (
    "autoformer-micro",
    "resnas-micro",
    "vitas-micro",
    "vitas-twins-micro",
    "glit-micro",
    "elastic:timm:test_vit",
    "elastic:timm:test_vit3",
)
NUM_ARCHS = 6
MAY_BE_ZERO = re.compile(
    r"(attention|pool)\.(.*\.)?(qkv|qk\.\d+|kv)\.bias$"  # a bias of keys shifts all scores of a query alike
    r"|^stem\.conv"  # behind a ReLU that these images never activate
    r"|depthwise\.weight$"  # in the last block only the class token counts: its left taps see padding
)
"""Shared tensors that a network uses in part without effect on its output."""


@pytest.fixture(params=MICRO)
def space(request: pytest.FixtureRequest) -> AnySpace:
    return SPACES.get(request.param)


@pytest.fixture
def supernet(space: AnySpace) -> AnySupernet:
    torch.manual_seed(0)
    supernet = make_supernet(space)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return supernet.eval()


def archs(space: AnySpace, count: int = NUM_ARCHS) -> list[Any]:
    """The smallest and the largest network, and random ones between."""
    random = space.decode(space.sample(np.random.default_rng(0), count - 2))
    return [space.smallest(), space.largest(), *random]


def images(space: AnySpace, count: int = 4) -> Tensor:
    side = space.config.image_size
    return torch.randn(count, space.config.channels, side, side, generator=torch.Generator().manual_seed(0))


def logits(output: Any) -> Tensor:
    """The logits alone, where training has a second head."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


def test_a_slice_is_the_extracted_network(space: AnySpace, supernet: AnySupernet) -> None:
    x = images(space)
    for arch in archs(space):
        torch.testing.assert_close(supernet.subnet(arch)(x), logits(supernet(x, arch)), rtol=0, atol=1e-5)


def test_an_extracted_network_has_its_own_weights(space: AnySpace, supernet: AnySupernet) -> None:
    arch, x = space.largest(), images(space)
    subnet = supernet.subnet(arch)
    before = subnet(x)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    torch.testing.assert_close(subnet(x), before, rtol=0, atol=0)
    pointers = {tensor.data_ptr() for tensor in supernet.parameters()}
    assert not pointers & {tensor.data_ptr() for tensor in subnet.parameters()}


def test_parameters_are_the_closed_form(space: AnySpace, supernet: AnySupernet) -> None:
    chosen = archs(space)
    built = [sum(parameter.numel() for parameter in supernet.subnet(arch).parameters()) for arch in chosen]
    assert built == space.costs(space.encode(chosen)).params.tolist()


def test_macs_are_half_of_torchs_flops(space: AnySpace) -> None:
    for arch in archs(space):
        assert half_flops(space, arch) == space.workload(arch).macs_executed


FULL_SIZE = [name for name in SPACES if "micro" not in name and not repeats_a_mini_space(name)]


@pytest.mark.parametrize("name", slow_but(FULL_SIZE, "autoformer-tiny", "resnas-tiny", "vitas-deit-small", "glit-tiny"))
def test_macs_at_full_size(name: str) -> None:
    space = SPACES.get(name)
    for arch in (*space.published.values(), space.smallest(), space.largest()):
        assert half_flops(space, arch) == space.workload(arch).macs_executed


def half_flops(space: AnySpace, arch: Any) -> int:
    """Half of what torch counts for one image, on the device where nothing is computed."""
    side = space.config.image_size
    with torch.device("meta"):
        network, image = make_network(space, arch).eval(), torch.randn(1, space.config.channels, side, side)
    with FlopCounterMode(display=False) as counter:
        network(image)
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return int(flops // 2)


def test_another_arch_gives_another_output(space: AnySpace, supernet: AnySupernet) -> None:
    x = images(space)
    outputs = [logits(supernet(x, arch)) for arch in archs(space)]
    for index, output in enumerate(outputs):
        assert all((output - other).abs().max() > 1e-4 for other in outputs[:index])


def test_gradients_reach_the_slices_alone(space: AnySpace, supernet: AnySupernet) -> None:
    for arch in archs(space, count=3):
        supernet.zero_grad(set_to_none=True)
        logits(supernet(images(space), arch)).square().sum().backward()  # type: ignore[no-untyped-call]
        parameters = dict(supernet.shared.named_parameters())
        used = used_entries(supernet, arch)
        for name, parameter in parameters.items():
            reached = marks(parameter)
            assert not (reached & ~used[name]).any(), name
            assert MAY_BE_ZERO.search(name) or reached.equal(used[name]), name


def used_entries(supernet: AnySupernet, arch: Any) -> dict[str, Tensor]:
    """Which entries of each shared parameter the network's sources name."""
    marked = {name: torch.zeros_like(tensor) for name, tensor in supernet.shared.named_parameters()}
    numbers = {name: torch.arange(tensor.numel()).reshape(tensor.shape) for name, tensor in marked.items()}
    for piece in supernet.path(arch).values():
        for source in piece.sources.values():
            for part in source:
                if part.name in marked:
                    marked[part.name].view(-1)[part.take(numbers).reshape(-1)] = 1
    return {name: tensor.bool() for name, tensor in marked.items()}


def marks(parameter: nn.Parameter) -> Tensor:
    """Which entries have a gradient."""
    return torch.zeros_like(parameter).bool() if parameter.grad is None else parameter.grad != 0


def test_networks_side_by_side_are_networks_one_by_one(space: AnySpace, supernet: AnySupernet) -> None:
    x, chosen = images(space, 5), archs(space)[2:4]
    together = logits(supernet(x, chosen))
    for index, arch in enumerate(chosen):
        torch.testing.assert_close(together[index::2], logits(supernet(x[index::2], arch)), rtol=0, atol=1e-5)


def test_bfloat16_runs_forward_and_backward(space: AnySpace, supernet: AnySupernet) -> None:
    x, arch = images(space), archs(space)[2]
    supernet.train()
    with torch.autocast("cpu", torch.bfloat16):
        output = logits(supernet(x, arch))
    output.float().square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in supernet.parameters())
    supernet.eval()
    with torch.autocast("cpu", torch.bfloat16):
        output = logits(supernet(x, arch)).float()
    exact = logits(supernet(x, arch))
    assert (output - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.slow  # tests/supernet/test_glit.py compiles one family in every run
def test_a_compiled_network_gives_the_same(space: AnySpace, supernet: AnySupernet) -> None:
    x, arch = images(space), archs(space)[2]
    subnet = supernet.subnet(arch)
    for function in (subnet, supernet.bind(arch)):
        torch.compiler.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(logits(compiled(x)), logits(function(x)), rtol=0, atol=1e-5)


def test_an_exported_slice_leaves_no_trace(space: AnySpace) -> None:
    torch.manual_seed(0)
    supernet, arch, x = make_supernet(space).eval(), archs(space)[3], images(space)

    class Slice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.supernet = supernet

        def forward(self, x: Tensor) -> Any:
            return self.supernet.bind(arch)(x)

    torch.export.export(supernet.subnet(arch), (x,))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        Slice()(torch.zeros(x.shape))
    assert type(supernet(x, arch)) is Tensor
    torch.testing.assert_close(supernet(x, arch), supernet.subnet(arch)(x), rtol=0, atol=1e-5)


def test_another_familys_config_is_refused(space: AnySpace) -> None:
    with pytest.raises(InputError, match="takes a"):
        make_supernet(space, SupernetConfig())


def wrong_images(space: AnySpace) -> Iterator[Tensor]:
    side = space.config.image_size
    yield torch.zeros(1, 3, side + 1, side + 1)
    yield torch.zeros(1, 1, side, side)
    yield torch.zeros(3, side, side)


def test_wrong_images_are_refused(space: AnySpace, supernet: AnySupernet) -> None:
    arch = space.smallest()
    sliced = partial(supernet, archs=arch)
    for x in wrong_images(space):
        for network in (sliced, supernet.bind(arch), supernet.subnet(arch), make_network(space, arch)):
            with pytest.raises(InputError, match="must have the shape") as caught:
                network(x)
            assert caught.value.got == tuple(x.shape)


def test_another_familys_arch_is_refused(space: AnySpace, supernet: AnySupernet) -> None:
    other = SPACES.get("glit-micro" if space.family == "autoformer" else "autoformer-micro")
    with pytest.raises(InputError, match=space.arch_type.__name__):
        supernet(images(space), other.largest())


def test_a_width_that_floats_miss_by_a_hair_is_whole_in_both_definitions() -> None:
    config = GlitConfig(
        image_size=32, embed_dim=90, num_heads=9, depth=1, value_ratios=(0.7,), fixed_value_ratio=0.7, form="paper"
    )
    space = Glit(name="nine-heads", config=config)
    arch = space.parse({"blocks": [{"groups": 3, "value_ratio": 0.7, "mlp_ratio": 4}]})
    network = make_network(space, arch)
    assert sum(parameter.numel() for parameter in network.parameters()) == space.workload(arch).params
    assert network.eval()(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_feature_maps_of_a_slice_are_those_of_the_extracted_network(space: AnySpace, supernet: AnySupernet) -> None:
    x = images(space)
    for arch in archs(space, 3):
        network = supernet.subnet(arch)
        found = network.forward_intermediates(x, intermediates_only=True)
        sliced = supernet.forward_intermediates(x, arch)
        assert [(map_.shape[1], space.config.image_size // map_.shape[-1]) for map_ in found] == [
            (entry["num_chs"], entry["reduction"]) for entry in network.feature_info
        ]
        torch.testing.assert_close(sliced, found, rtol=0, atol=1e-5)


def test_feature_maps_are_the_tokens_that_the_head_gets(space: AnySpace, supernet: AnySupernet) -> None:
    network, x = supernet.subnet(space.largest()), images(space)
    tokens, maps = network.forward_intermediates(x)
    *_, head = network.segments().values()

    torch.testing.assert_close(head(tokens), network(x))
    last = maps[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens[:, -last.shape[1] :], last)
    (as_tokens,) = network.forward_intermediates(x, 1, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(as_tokens, last)


def test_networks_are_backbones_of_timm(space: AnySpace, supernet: AnySupernet) -> None:
    from timm.models._features import FeatureGetterNet

    network, x = supernet.subnet(space.largest()), images(space)
    maps = network.forward_intermediates(x, intermediates_only=True)
    backbone = FeatureGetterNet(network, out_indices=(0, len(maps) - 1))

    torch.testing.assert_close(backbone(x), [maps[0], maps[-1]])
    assert backbone.feature_info.channels() == [maps[0].shape[1], maps[-1].shape[1]]
    assert backbone.feature_info.reduction() == [x.shape[-1] // maps[0].shape[-1], x.shape[-1] // maps[-1].shape[-1]]


def test_only_feature_maps_that_exist_are_taken(space: AnySpace, supernet: AnySupernet) -> None:
    network, x = supernet.subnet(space.smallest()), images(space)
    count = len(network.feature_info)
    for indices in (count + 1, 0, [count], [-count - 1], []):
        with pytest.raises(InputError, match="feature maps must be some of"):
            network.forward_intermediates(x, indices)


@pytest.mark.parametrize(
    ("name", "ends", "strides"),
    [
        ("autoformer-tiny", ["blocks.3", "blocks.6", "blocks.10", "blocks.13"], [16, 16, 16, 16]),
        ("resnas-small", ["stages.0.6", "stages.1.6", "stages.2.6"], [14, 28, 56]),
        ("vitas-twins-small", ["stages.0.3", "stages.1.3", "stages.2.11", "stages.3.5"], [4, 8, 16, 32]),
    ],
)
def test_feature_maps_end_stages_or_are_evenly_spaced(name: str, ends: list[str], strides: list[int]) -> None:
    space = SPACES.get(name)
    with torch.device("meta"):
        info = make_network(space, space.largest()).feature_info
    assert [entry["module"] for entry in info] == ends
    assert [entry["reduction"] for entry in info] == strides
