"""An executor with the answers of workers, and with workers that it loses."""

from collections.abc import Mapping
from typing import Any

import pytest

from hwnas.errors import InputError, MissingError
from hwnas.pipeline.workers.executor import Answer, SameFacts, WorkerExecutor, WorkerLostError
from hwnas.train.executor import Measure
from tests.pipeline.workers.pools import VALUE, CalledPool, loses, networks
from tests.pipeline.workers.stub import FACTS, answer, value


def lost(request: Mapping[str, Any]) -> Answer:
    raise WorkerLostError("its machine is gone")


def crashes(request: Mapping[str, Any]) -> Answer:
    """A worker that a network without widths ends."""
    if any(not arch["widths"] for arch in request["batch"]["archs"]):
        raise WorkerLostError("the process was killed by SIGSEGV")
    return answer(dict(request))


def evaluated(pool: CalledPool, archs: dict[str, Any], *, batch_size: int = 4) -> dict[str, Any]:
    return {name: row["value"] for name, row in WorkerExecutor(pool, batch_size=batch_size).evaluate(archs, VALUE)}


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_network_gets_its_own_row_in_batches_that_do_not_depend_on_the_workers(workers: int) -> None:
    pool, archs = CalledPool([loses(crashes) for _ in range(workers)]), networks(*range(1, 11))
    assert evaluated(pool, archs) == {name: value(arch.to_mapping()) for name, arch in archs.items()}
    assert pool.sent == [4, 4, 2]


def test_a_lost_worker_costs_its_batch_alone() -> None:
    pool = CalledPool([loses(crashes, 1), loses(crashes)])
    archs = networks(*range(1, 13))
    assert evaluated(pool, archs) == {name: value(arch.to_mapping()) for name, arch in archs.items()}
    assert sum(pool.sent) == 12 + 4


def test_a_network_that_ends_its_workers_is_named_and_those_beside_it_are_evaluated() -> None:
    pool, archs = CalledPool([crashes]), networks(1, 2, 0, 3, 4)
    found: dict[str, Any] = {}
    with pytest.raises(InputError, match="network n2 ends the workers that evaluate it, 3 of them") as caught:
        found.update(WorkerExecutor(pool, batch_size=4).evaluate(archs, VALUE))
    assert "killed by SIGSEGV" in str(caught.value.got)
    assert pool.sent[:2] == [4, 4]
    assert set(pool.sent[2:]) == {1}


def test_networks_on_machines_that_are_lost_now_and_then_are_evaluated_all_the_same() -> None:
    pool, archs = CalledPool([loses(crashes, 1, 2, 4, 6)]), networks(1, 2)
    assert evaluated(pool, archs, batch_size=1) == {"n0": 1.0, "n1": 2.0}


def test_workers_that_never_start_are_an_error() -> None:
    def fails_to_start(request: Mapping[str, Any]) -> Answer:
        raise WorkerLostError("no module named hwnas", started=False)

    with pytest.raises(InputError, match="a worker must be able to start") as caught:
        evaluated(CalledPool([fails_to_start]), networks(1))
    assert str(caught.value.got) == "no module named hwnas"


def test_an_error_of_a_network_is_that_of_the_command() -> None:
    with pytest.raises(InputError, match="13 is not finite") as caught:
        evaluated(CalledPool([crashes]), networks(12, 13))
    assert caught.value.hint == "12"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"rows": []}, "must answer with 1 rows"),
        ({"rows": [{"value": "1"}]}, "must answer with finite numbers"),
        ({"rows": [{"value": None}]}, "must answer with finite numbers"),
        ({"rows": 3}, "rows"),
        (None, "result"),
    ],
)
def test_rows_are_checked_like_those_of_a_file(result: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluated(CalledPool([lambda _: {"result": result}]), networks(1))


def test_figures_of_accuracy_are_checked() -> None:
    row = {"top1": 0.5, "top5": 1.0, "loss": 1.0, "count": 4}
    for changed, measure, message in (
        ({}, Measure(), None),
        ({"top1": 1.5}, Measure(), "top1 must be a number from 0 to 1"),
        ({}, Measure(keep_hits=True), "which images are classified correctly"),
        ({"hits": "f0"}, Measure(keep_hits=True), None),
    ):
        pool = CalledPool([lambda _, row={**row, **changed}: {"result": {"rows": [row]}}])  # type: ignore[misc]
        rows = WorkerExecutor(pool, batch_size=4).evaluate(networks(1), measure)
        if message is None:
            assert dict(rows)["n0"]["top1"] == 0.5
        else:
            with pytest.raises(InputError, match=message):
                dict(rows)


def test_progress_counts_networks() -> None:
    pool, seen = CalledPool([crashes]), list[tuple[int, int]]()
    executor = WorkerExecutor(pool, batch_size=2)
    dict(executor.evaluate(networks(1, 2, 3), VALUE, progress=lambda done, images: seen.append((done, images))))
    assert seen == [(2, 0), (3, 0)]


def test_rows_that_are_no_longer_wanted_do_not_mix_with_the_next_ones() -> None:
    pool = CalledPool([loses(crashes), loses(crashes)])
    executor = WorkerExecutor(pool, batch_size=1)
    rows = executor.evaluate(networks(1, 2, 3), VALUE)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert {name: row["value"] for name, row in executor.evaluate(networks(5, 6), VALUE)} == {"n0": 5.0, "n1": 6.0}
    executor.close()
    assert pool.closed


def test_workers_that_differ_are_refused() -> None:
    facts = SameFacts()
    facts.require({"facts": FACTS})
    facts.require({"facts": FACTS})
    with pytest.raises(InputError, match="the same versions and devices") as caught:
        facts.require({"facts": {**FACTS, "device": "another"}})
    assert caught.value.got == "hwnas 1, torch 2, stub; and hwnas 1, torch 2, another"
    with pytest.raises(MissingError, match="no GPU"):
        facts.require({"error": {"kind": "MissingError", "message": "no GPU"}})
