from dataclasses import replace

import pytest

from hwnas.devices import DEVICES
from hwnas.errors import InputError
from hwnas.profile.roofline import (
    PeakRates,
    bottlenecks,
    matmul_widths,
    network_part,
    operation_costs,
    peak_rates,
    total_ms,
)
from hwnas.space import SPACES
from hwnas.workload import ONCE, Attention, Elementwise, Linear, Workload

A100 = DEVICES.get("a100")
NAMED = ("attention", "locality", "mlp", "other")
RATES = PeakRates(flop_per_s=1e12, byte_per_s=1e11)
LINEAR = Linear(name="blocks.0.fc1", tokens=100, inputs=64, outputs=80)
ADD = Elementwise(name="blocks.0.add1", variant="add", elements=6400, operands=2)
ATTENTION = Attention(name="blocks.0.attention", heads=2, width=100, queries=10, keys=10)


def test_a_product_costs_its_work_or_its_bytes() -> None:
    (cost,) = operation_costs(Workload((LINEAR,)), rates=RATES, precision="fp16", batch=4)
    assert cost.macs == 4 * 100 * 64 * 80
    moved = 2 * (4 * (100 * 64 + 100 * 80) + 65 * 80)  # activations of 4 images, parameters once
    assert cost.bytes_moved == moved
    assert cost.intensity == pytest.approx(2 * cost.macs / moved)
    assert cost.compute_ms == pytest.approx(2 * cost.macs / 1e12 * 1e3)
    assert cost.memory_ms == pytest.approx(moved / 1e11 * 1e3)
    assert cost.time_ms == max(cost.compute_ms or 0.0, cost.memory_ms or 0.0)
    assert cost.memory_bound is (cost.intensity < RATES.ridge)


def test_what_no_image_enters_costs_the_same_for_every_batch() -> None:
    table = Workload((replace(LINEAR, traits=(ONCE,)),))
    assert operation_costs(table, rates=RATES, precision="fp16", batch=8) == operation_costs(
        table, rates=RATES, precision="fp16", batch=1
    )


def test_an_elementwise_operation_is_bound_by_memory() -> None:
    (cost,) = operation_costs(Workload((ADD,)), rates=RATES, precision="fp32", batch=1)
    assert (cost.macs, cost.bytes_moved, cost.memory_bound) == (0, 4 * 3 * 6400, True)


def test_without_rates_there_is_no_time() -> None:
    costs = operation_costs(Workload((LINEAR,)), rates=None, precision="fp32", batch=1)
    assert (costs[0].time_ms, costs[0].memory_bound) == (None, None)
    with pytest.raises(InputError, match="peak rates"):
        total_ms(costs)


def test_rates_are_those_of_the_datasheet() -> None:
    assert peak_rates(A100, "bf16") == PeakRates(flop_per_s=312e12, byte_per_s=2039e9)
    assert peak_rates(A100, "bf16").ridge == pytest.approx(153.0, rel=1e-3)  # type: ignore[union-attr]
    assert peak_rates(DEVICES.get("v100"), "bf16") is None


@pytest.mark.parametrize("name", list(SPACES))
def test_every_operation_of_every_space_has_its_part(name: str) -> None:
    space = SPACES.get(name)
    operations = space.workload(space.largest()).operations
    parts = {part: [item for item in operations if network_part(item) == part] for part in NAMED}
    assert parts["attention"] or parts["locality"]
    assert parts["mlp"]
    products = sum(int(item.macs) for item in parts["other"])
    assert products <= 0.15 * sum(int(item.macs) for item in operations)


def sentences(*operations: object, precision: str = "fp16", rates: PeakRates | None = RATES) -> str:
    workload = Workload(operations)  # type: ignore[arg-type]
    costs = operation_costs(workload, rates=rates, precision=precision, batch=1)
    return "\n".join(bottlenecks(workload, costs, device=A100, rates=rates, precision=precision))


def test_widths_are_listed_by_their_share() -> None:
    found = matmul_widths(Workload((LINEAR, ATTENTION)))
    assert [(width.size, width.num_operations) for width in found] == [(80, 1), (50, 1)]
    assert sum(width.share for width in found) == pytest.approx(1.0)


def test_a_width_that_fits_the_tile_badly_is_told_with_what_it_wastes() -> None:
    assert "are 80 wide: tiles of 64 make 128 of it, 60% more work than is needed" in sentences(LINEAR)
    fitting = Linear(name="blocks.0.fc1", tokens=100, inputs=64, outputs=128)
    assert "wide" not in sentences(fitting)


def test_a_width_that_cannot_use_tensor_cores_is_told() -> None:
    odd = Linear(name="blocks.0.fc1", tokens=100, inputs=64, outputs=81)
    assert "are 81 wide, no multiple of 8, which fp16 on a100 needs" in sentences(odd)


def test_parts_and_memory_are_told() -> None:
    text = sentences(LINEAR, ATTENTION, ADD)
    assert "attention takes" in text
    assert "of the time is bound by memory" in text
    assert "norms, sums and moves take" in text


def test_without_a_time_shares_are_of_the_products() -> None:
    text = sentences(LINEAR, ATTENTION, rates=None)
    assert "attention takes 4% of the MACs, the MLPs take 96%" in text
    assert "memory" not in text
