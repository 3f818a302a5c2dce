import dataclasses

import numpy as np
import pytest

from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.counting import population_features, workload_features
from hwnas.space import SPACES
from hwnas.workload import FLOAT32, ONCE, STRIDED, Attention, Elementwise, Linear, Workload
from tests.predict.synthetic import cpu_conditions, gpu_conditions
from tests.strategies import TINY

NAMES = ("autoformer-tiny", "resnas-tiny", "vitas-deit-small-shifted", "vitas-twins-small", "glit-tiny")


@pytest.mark.parametrize("conditions", [cpu_conditions(), gpu_conditions()], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", NAMES)
def test_a_population_and_its_networks_one_by_one_have_equal_features(name: str, conditions: Conditions) -> None:
    space = SPACES.get(name)
    workloads = space.workloads(space.sample(np.random.default_rng(0), 12))
    many = population_features(workloads, conditions)
    singles = workload_features([workloads.workload(row) for row in range(12)], conditions)
    assert set(many.cost_names) <= set(singles.cost_names)
    np.testing.assert_allclose(singles.costs_by(many.cost_names), many.costs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(singles.shapes_by(many.shape_names), many.shapes, rtol=1e-9, atol=1e-9)
    extra = [name for name in singles.cost_names if name not in many.cost_names]
    assert not singles.costs_by(extra).any()


@pytest.mark.parametrize("space", TINY, ids=lambda space: space.name)
def test_small_awkward_spaces_have_finite_features(space) -> None:  # type: ignore[no-untyped-def]
    workloads = space.workloads(space.sample(np.random.default_rng(1), 40))
    many = population_features(workloads, gpu_conditions())
    singles = workload_features([workloads.workload(row) for row in range(40)], gpu_conditions())
    np.testing.assert_allclose(singles.costs_by(many.cost_names), many.costs, rtol=1e-9, atol=1e-12)


def test_compute_is_that_of_the_macs_at_the_peak_rate() -> None:
    space = SPACES.get("vitas-deit-small-shifted")
    workloads = space.workloads(space.sample(np.random.default_rng(0), 5))
    conditions = cpu_conditions(batch=3)
    features = population_features(workloads, conditions)
    compute = [name for name in features.cost_names if ".macs" in name]
    expected = 1e3 * 2 * 3 * workloads.macs / conditions.op_per_s
    np.testing.assert_allclose(features.costs_by(compute).sum(axis=1), expected, rtol=1e-9)


def test_parameters_are_those_of_the_weights() -> None:
    space = SPACES.get("vitas-deit-small-shifted")
    workloads = space.workloads(space.sample(np.random.default_rng(0), 5))
    features = population_features(workloads, cpu_conditions(batch=8))
    rows = [name for name in features.cost_names if name.endswith(".params") or name == "table.bytes"]
    weights = workloads.total(lambda row: row.params if row.kind != "norm" else 0)
    np.testing.assert_allclose(features.costs_by(rows).sum(axis=1), 1e3 * weights * 4 / 2e10, rtol=1e-9)


def test_a_linear_by_hand() -> None:
    workload = Workload((Linear(name="fc", tokens=10, inputs=100, outputs=300),))
    conditions = dataclasses.replace(gpu_conditions(batch=20), op_per_s=1e12, byte_per_s=1e10, num_sms=4)
    features = workload_features([workload], conditions)
    costs = dict(zip(features.cost_names, features.costs[0], strict=True))
    per_mac_ms = 1e3 * 2 / 1e12
    assert costs["linear.macs<=128"] == pytest.approx(200 * 100 * 300 * per_mac_ms)
    assert costs["linear.macs>512"] == 0
    assert costs["linear.padding"] == pytest.approx((256 * 384 * 128 - 200 * 100 * 300) * per_mac_ms)
    assert costs["linear.waves"] == pytest.approx((8 - 2 * 3) * 128 * 128 * 128 * per_mac_ms)
    assert costs["linear.bytes"] == pytest.approx(1e3 * 2 * 200 * 400 / 1e10)
    assert costs["linear.params"] == pytest.approx(1e3 * 2 * 101 * 300 / 1e10)
    moving = 1e3 * 2 * (200 * 400 + 101 * 300) / 1e10
    assert moving > costs["linear.macs<=128"]
    assert costs["linear.memory_bound"] == pytest.approx(moving - costs["linear.macs<=128"])
    shapes = dict(zip(features.shape_names, features.shapes[0], strict=True))
    assert shapes["mean.linear.rows"] == pytest.approx(np.log2(200))
    assert shapes["mean.linear.depth"] == pytest.approx(np.log2(100))
    assert shapes["mean.linear.columns"] == pytest.approx(np.log2(300))
    assert shapes["mean.batch"] == pytest.approx(np.log2(20))


def test_what_no_image_enters_runs_once_for_a_whole_batch() -> None:
    table = Linear(name="table", tokens=10, inputs=128, outputs=64, traits=(ONCE,))
    one, many = (workload_features([Workload((table,))], cpu_conditions(batch=batch)) for batch in (1, 32))
    np.testing.assert_allclose(many.costs, one.costs)
    costs = dict(zip(many.cost_names, many.costs[0], strict=True))
    assert set(costs) == {"once.macs", "once.bytes", "calls.linear", "runs"}
    assert costs["once.macs"] == pytest.approx(1e3 * 2 * 10 * 128 * 64 / 1e11)
    assert costs["once.bytes"] == pytest.approx(1e3 * 4 * (10 * (128 + 64) + 129 * 64) / 2e10)


def test_layouts_of_torch_cost_where_torch_runs() -> None:
    added = Elementwise(name="add", variant="add", elements=100, operands=2, traits=(STRIDED, FLOAT32))
    plain = gpu_conditions(batch=2)
    seen = {}
    for name, conditions in {
        "other": plain,
        "torch": dataclasses.replace(plain, torch_layouts=True),
        "autocast": dataclasses.replace(plain, torch_layouts=True, autocast=True),
    }.items():
        features = workload_features([Workload((added,))], conditions)
        seen[name] = dict(zip(features.cost_names, features.costs[0], strict=True))
    assert set(seen["torch"]) - set(seen["other"]) == {"strided.bytes"}
    assert set(seen["autocast"]) - set(seen["torch"]) == {"float32.bytes"}
    assert seen["autocast"]["float32.bytes"] == pytest.approx(seen["other"]["add.bytes"])


def test_only_operations_count_and_not_their_names_or_order() -> None:
    first = Workload(
        (Linear(name="a", tokens=4, inputs=8, outputs=8), Elementwise(name="b", variant="gelu", elements=9))
    )
    second = Workload(
        (Elementwise(name="x", variant="gelu", elements=9), Linear(name="y", tokens=4, inputs=8, outputs=8))
    )
    features = workload_features([first, second], cpu_conditions())
    np.testing.assert_array_equal(features.costs[0], features.costs[1])


def test_batches_may_differ_from_network_to_network() -> None:
    workload = Workload((Attention(name="a", heads=2, width=16, queries=9, keys=9),))
    one = workload_features([workload], gpu_conditions(batch=7))
    conditions = dataclasses.replace(gpu_conditions(), batch=np.array([1, 7]))
    both = workload_features([workload, workload], conditions)
    np.testing.assert_allclose(both.costs[1], one.costs_by(both.cost_names)[0])
    assert both.costs[0].sum() < both.costs[1].sum()


def test_distinct_blocks_are_counted() -> None:
    space = SPACES.get("autoformer-tiny")
    genomes = space.sample(np.random.default_rng(0), 6)
    features = population_features(space.workloads(genomes), cpu_conditions(), counts=True)
    depths = [len(arch.blocks) for arch in space.decode(genomes)]
    np.testing.assert_array_equal(features.counts.sum(axis=1), depths)
    distinct = {
        (arch.embed_dim, block.num_heads, block.mlp_ratio) for arch in space.decode(genomes) for block in arch.blocks
    }
    assert len(features.count_names) == len(distinct)


def test_block_names_do_not_depend_on_the_population() -> None:
    space = SPACES.get("autoformer-tiny")
    genomes = space.sample(np.random.default_rng(0), 6)
    all_rows = population_features(space.workloads(genomes), cpu_conditions(), counts=True)
    last = population_features(space.workloads(genomes[5:]), cpu_conditions(), counts=True)
    np.testing.assert_array_equal(last.counts_by(all_rows.count_names)[0], all_rows.counts[5])


@pytest.mark.parametrize("name", ["vitas-twins-small", "resnas-tiny"])
def test_some_blocks_are_counted_as_all_are(name: str) -> None:
    space = SPACES.get(name)
    workloads = space.workloads(space.sample(np.random.default_rng(0), 20))
    every = population_features(workloads, cpu_conditions(), counts=True)
    wanted = every.count_names[3::7]
    some = population_features(workloads, cpu_conditions(), counts=wanted)
    assert set(some.count_names) == set(wanted)
    np.testing.assert_array_equal(some.counts_by(wanted), every.counts_by(wanted))


def test_a_population_has_one_batch() -> None:
    space = SPACES.get("autoformer-tiny")
    conditions = dataclasses.replace(cpu_conditions(), batch=np.array([1, 8]))
    with pytest.raises(ValueError, match="must have one batch size"):
        population_features(space.workloads(space.sample(np.random.default_rng(0), 2)), conditions)
