from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.report.anatomy import (
    MAX_ANATOMIES,
    PARTS,
    CostConditions,
    anatomies,
    anatomy,
    blocks_of,
    conditions_of,
    spread_indices,
)
from hwnas.report.facts import facts_of, why_fast
from hwnas.report.gather import gather
from hwnas.search.record import SeedRuns, Spread
from hwnas.space import SPACES
from tests.report.example import Example, make_run


def test_the_blocks_of_a_published_network() -> None:
    space = SPACES.get("autoformer-tiny")
    arch = space.published["AutoFormer-T"]
    blocks = blocks_of(space.workload(arch))
    assert [block.heads for block in blocks] == [block.num_heads for block in arch.blocks]
    assert [block.hidden for block in blocks] == [int(192 * block.mlp_ratio) for block in arch.blocks]
    assert {(block.width, block.tokens, block.stage, block.locality) for block in blocks} == {(192, 197, 0, 0)}


@pytest.mark.parametrize("name", [space.name for space in SPACES.values() if space.name.endswith("-micro")])
def test_every_family_is_analysed(name: str) -> None:
    space = SPACES.get(name)
    workload = space.workload(space.smallest())
    found = anatomy(workload, CostConditions())
    assert found.blocks
    assert all(block.width and block.heads and block.hidden for block in found.blocks)
    assert sum(found.shares.macs) == workload.macs_executed
    assert dict(zip(PARTS, found.shares.macs, strict=True))["attention"] > 0


def test_locality_is_seen() -> None:
    space = SPACES.get("glit-tiny")
    block = blocks_of(space.workload(space.smallest()))[0]
    assert (block.heads, block.locality, block.kernel) == (1, 128, 31)


def test_times_by_part_need_the_rates_of_the_device(tmp_path: Path) -> None:
    here = gather(make_run(tmp_path / "a", Example(count=50)))
    assert conditions_of(here).rates is None
    there = Example(count=50, objectives=("accuracy", "latency_ms@h200/torch-graph/bf16/b64"))
    data = gather(make_run(tmp_path / "b", there))
    conditions = conditions_of(data)
    assert (conditions.precision, conditions.batch) == ("bf16", 64)
    found = anatomies(data)[0]
    assert found.shares.time_ms is not None
    assert sum(found.shares.time_ms) > 0


def test_of_a_large_front_evenly_spread_networks_are_analysed() -> None:
    indices = spread_indices(1000)
    assert len(indices) == MAX_ANATOMIES
    assert (indices[0], indices[-1]) == (0, 999)
    assert spread_indices(0) == []


def test_why_the_fastest_is_fast(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=200)))
    text = why_fast(data)
    assert text.startswith("Compared with the network of the best accuracy, the fastest has ")
    assert "fewer MACs" in text


def test_the_tables_of_a_run(tmp_path: Path) -> None:
    facts = facts_of(gather(make_run(tmp_path / "a", Example(count=120))))
    (predictor,) = facts.predictors
    rows = dict(predictor.rows)
    assert rows["noise floor of the measurements that it was fitted to"] == "0.85 %"
    assert rows["error on the measured front"] == "1.23 % on average"
    assert rows["measured values inside intervals of 90%"] == "93.0 %"
    assert dict(facts.profiles[0].rows)["noise floor of these measurements"] == "0.7 %"
    assert dict(facts.supernet)["largest network"] == "70.2 % top-1"
    assert dict(facts.reproduce)["seeds"] == "search 0"
    assert facts.command == "hwnas search --space autoformer-tiny --data digits-clutter"
    assert facts.range_note.startswith("It is unknown whether the front lies inside")


def test_the_spread_over_seeds_and_the_box_are_told(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=60)))
    assert data.record is not None
    seeds = SeedRuns(seeds=(0, 1), hypervolume=Spread(mean=0.5, std=0.01, values=(0.49, 0.51)))
    facts = facts_of(replace(data, record=replace(data.record, seeds=seeds)))
    assert ("hypervolume of 2 seeds", "0.500 ± 0.010") in facts.summary
    (bounds,) = [text for name, text in facts.reproduce if name == "bounds of the hypervolume"]
    assert bounds.startswith("from (-1.00, 0, 0) to (0, ")
