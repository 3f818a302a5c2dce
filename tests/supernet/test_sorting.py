"""Sorting of channels: the network stays what it is, and so does its training."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.space.resnas import MICRO
from hwnas.supernet.autoformer import AutoFormerBlockConfig
from hwnas.supernet.resnas import ResNasSupernet
from hwnas.supernet.sorting import UnitGroup, UnitWeights, block_groups, importance, sort_units

ARCH = MICRO.largest()


def supernet() -> ResNasSupernet:
    torch.manual_seed(0)
    net = ResNasSupernet(MICRO)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def random_images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def head_norms(net: ResNasSupernet, slot: str) -> list[float]:
    """The importance of each head, in other words: q, k and v rows, their biases, columns of the projection."""
    shared = net.shared.state_dict()
    qkv, bias, proj = (shared[f"{slot}.attention.{name}"] for name in ("qkv.weight", "qkv.bias", "proj.weight"))
    width, norms = proj.shape[1], []
    for head in range(width // 16):
        norm = proj[:, 16 * head : 16 * head + 16].abs().sum()
        for start in range(16 * head, 3 * width, width):
            norm += qkv[start : start + 16].abs().sum() + bias[start : start + 16].abs().sum()
        norms.append(norm.item())
    return norms


def hidden_norms(net: ResNasSupernet, slot: str) -> list[float]:
    """The importance of each hidden unit: its row of the first linear, its bias, its column of the second."""
    shared = net.shared.state_dict()
    norms = shared[f"{slot}.mlp.fc1.weight"].abs().sum(1) + shared[f"{slot}.mlp.fc1.bias"].abs()
    listed: list[float] = (norms + shared[f"{slot}.mlp.fc2.weight"].abs().sum(0)).tolist()
    return listed


def test_the_whole_network_computes_the_same_and_the_first_units_are_the_largest() -> None:
    net, x = supernet().eval().double(), random_images().double()
    with torch.inference_mode():
        whole, part = net(x, ARCH), net(x, MICRO.smallest())
        heads, hidden = head_norms(net, "stages.1.0"), hidden_norms(net, "stages.2.1")
        sort_units(net.shared, net.sortable())
        torch.testing.assert_close(net(x, ARCH), whole, rtol=0, atol=1e-12)
        assert not torch.allclose(net(x, MICRO.smallest()), part, rtol=0, atol=1e-3)
    assert heads != sorted(heads, reverse=True)
    assert head_norms(net, "stages.1.0") == pytest.approx(sorted(heads, reverse=True))
    assert hidden_norms(net, "stages.2.1") == pytest.approx(sorted(hidden, reverse=True))
    assert len(net.sortable()) == 12


def test_sorting_twice_changes_nothing() -> None:
    net = supernet()
    sort_units(net.shared, net.sortable())
    before = copy.deepcopy(net.state_dict())
    sort_units(net.shared, net.sortable())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    ],
)
def test_training_goes_on_as_without_sorting(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    plain, _, _ = _trained(optimizer, sort_at=())
    moved, net, average = _trained(optimizer, sort_at=(2, 4))
    torch.testing.assert_close(moved, plain, rtol=1e-5, atol=1e-5)
    _, untouched, expected = _trained(optimizer, sort_at=())
    x = random_images(9)
    with torch.inference_mode():
        torch.testing.assert_close(net(x, ARCH), untouched(x, ARCH), rtol=0, atol=1e-4)
        torch.testing.assert_close(average(x, ARCH), expected(x, ARCH), rtol=0, atol=1e-4)


def test_without_the_optimizer_training_goes_another_way() -> None:
    def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    plain, _, _ = _trained(adam, sort_at=())
    forgetful, _, _ = _trained(adam, sort_at=(2, 4), with_optimizer=False)
    assert (plain - forgetful).abs().max() > 1e-3


def _trained(
    make: Callable[..., torch.optim.Optimizer], *, sort_at: tuple[int, ...], with_optimizer: bool = True
) -> tuple[Tensor, ResNasSupernet, ResNasSupernet]:
    """The losses of a few steps with the whole network, the network, and a moving average of it."""
    net = supernet().train()
    average = copy.deepcopy(net)
    optimizer = make(list(net.parameters()))
    losses = []
    for step in range(7):
        if step in sort_at:
            kept = optimizer if with_optimizer else None
            sort_units(net.shared, net.sortable(), optimizer=kept, averages=[average.shared.state_dict()])
        loss = F.cross_entropy(net(random_images(step), ARCH), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(parameter, 0.3)
    return torch.stack(losses), net.eval(), average.eval()


def test_gradients_move_along() -> None:
    net = supernet()
    net(random_images(), ARCH).square().sum().backward()
    sort_units(net.shared, net.sortable())
    moved = [parameter.grad for parameter in net.shared.parameters()]
    net.zero_grad()
    net(random_images(), ARCH).square().sum().backward()
    for before, parameter in zip(moved, net.shared.parameters(), strict=True):
        torch.testing.assert_close(before, parameter.grad, rtol=1e-3, atol=1e-3)


def test_interleaved_rows() -> None:
    """AutoFormer's q, k and v: a head is rows side by side; its block as a network has them in thirds."""
    torch.manual_seed(0)
    width, order = 3 * 8, torch.arange(72).reshape(3, 24).t().flatten()
    block = AutoFormerBlockConfig(embed_dim=12, num_heads=3, head_dim=8, hidden_dim=20, grid=2, relative_clip=1).build()
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        expected = block(x)
        _set_rows(block, order)
        holder = nn.ModuleDict({"block": block})
        sort_units(holder, block_groups("block", num_heads=3, parts=1))
        _set_rows(block, order.argsort())
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-6)
    assert order.tolist()[:3] == [0, width, 2 * width]


def _set_rows(block: nn.Module, order: Tensor) -> None:
    for name in ("attention.qkv.weight", "attention.qkv.bias"):
        parameter = block.get_parameter(name)
        parameter.copy_(parameter[order])


def test_ties_keep_their_order() -> None:
    module = nn.Linear(1, 4, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0], [-2.0], [2.0], [-1.0]]))
    group = UnitGroup(members=(UnitWeights(name="weight"),))
    assert importance(module.state_dict(), group).tolist() == [1, 2, 2, 1]
    sort_units(module, [group])
    assert module.weight.flatten().tolist() == [-2, 2, 1, -1]


def test_an_optimizer_that_factors_its_state_is_refused() -> None:
    net = supernet()
    optimizer = torch.optim.Adafactor(net.parameters())
    net(random_images(), ARCH).sum().backward()
    optimizer.step()  # type: ignore[no-untyped-call]
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match="keeps its state entry for entry"):
        sort_units(net.shared, net.sortable(), optimizer=optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
