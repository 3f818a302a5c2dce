"""Searches over Python objects: own accuracies, own metrics, tables and predictors."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas.errors import InputError
from hwnas.metrics import METRICS, Deployment
from hwnas.pipeline.optimize import CustomMetric, LatencyTable, optimize
from hwnas.search.result import SearchResult
from hwnas.search.strategies.rounds import RoundsSearch
from hwnas.space import SPACES
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import Candidate
from tests.search.toys import accuracy as toy_accuracy

SPACE = SPACES.get("autoformer-micro")


class Accuracies:
    """An accuracy that is higher for larger networks, and counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, networks: Sequence[Candidate]) -> list[float]:
        self.asked += [network.arch_id for network in networks]
        genomes = np.stack([network.genome for network in networks])
        values: list[float] = toy_accuracy(SPACE, genomes).tolist()
        return values


def milliseconds(networks: Sequence[Candidate]) -> list[float]:
    genomes = np.stack([network.genome for network in networks])
    return [float(macs) / 1e6 for macs in SPACE.costs(genomes).macs]


@pytest.fixture(scope="module")
def found() -> SearchResult:
    return optimize(SPACE, accuracy=Accuracies(), metrics={"latency_ms": milliseconds}, budget=24, seed=3)


def test_an_own_accuracy_is_evaluated_within_the_budget_and_once_a_network() -> None:
    accuracy = Accuracies()
    result = optimize("autoformer-micro", accuracy=accuracy, metrics={"latency_ms": milliseconds}, budget=20)
    assert len(accuracy.asked) == len(set(accuracy.asked)) == result.evaluations == 20
    assert [str(item) for item in result.objectives] == ["accuracy", "macs", "latency_ms"]
    for network in result.networks:
        assert network.metrics["accuracy"] == toy_accuracy(SPACE, network.candidate.genome[None])[0]
        assert network.metrics["latency_ms"] == network.metrics["macs"] / 1e6


def test_the_front_is_not_dominated_and_in_order(found: SearchResult) -> None:
    values = np.array([[-n.metrics["accuracy"], n.metrics["macs"], n.metrics["latency_ms"]] for n in found.front])
    assert (np.diff(values[:, 0]) >= 0).all()
    assert not any(((other <= row).all() and (other < row).any()) for row in values for other in values)


def test_the_best_network_under_conditions(found: SearchResult) -> None:
    limit = sorted(network.metrics["latency_ms"] for network in found.front)[len(found.front) // 2]
    chosen = found.best(latency_ms=f"<={limit:.12g}ms")
    able = [network for network in found.front if network.metrics["latency_ms"] <= limit]
    assert chosen is max(able, key=lambda network: network.metrics["accuracy"])
    assert found.best(latency_ms=limit) is chosen
    assert found.best() is found.front[0]
    with pytest.raises(InputError, match="no network on the front meets the conditions"):
        found.best(accuracy=">=0.99", macs="<=2")
    with pytest.raises(InputError, match="energy"):
        found.best(energy_j=3.0)


def test_constraints_hold_on_the_front() -> None:
    result = optimize(
        SPACE, accuracy=Accuracies(), metrics={"latency_ms": milliseconds}, constraints=["latency_ms<=1.5"], budget=20
    )
    assert result.front
    assert all(network.metrics["latency_ms"] <= 1.5 for network in result.front)


def test_metrics_of_ones_own_may_be_free_or_expensive() -> None:
    calls: list[int] = []

    def blocks(networks: Sequence[Candidate]) -> list[float]:
        calls.append(len(networks))
        return [float(len(network.arch.to_mapping()["blocks"])) for network in networks]

    free = optimize(SPACE, metrics={"num_blocks": blocks}, objectives=["num_blocks", "macs"], budget=40)
    assert min(network.metrics["num_blocks"] for network in free.front) == 2
    assert free.best(num_blocks="<=3").metrics["num_blocks"] <= 3
    assert free.pick("num_blocks<=3").id == free.best(num_blocks="<=3").id
    limited = optimize(
        SPACE, metrics={"num_blocks": blocks}, constraints=["num_blocks<=3"], accuracy=Accuracies(), budget=8
    )
    assert limited.pick("fast").metrics["macs"] == min(network.metrics["macs"] for network in limited.front)
    assert "num_blocks" not in METRICS
    with pytest.raises(InputError, match="objective 'blocks' is not known") as caught:
        optimize(SPACE, metrics={"num_blocks": blocks}, objectives=["blocks"], budget=40)
    assert "num_blocks" in caught.value.known
    calls.clear()
    metric = CustomMetric(function=blocks, goal="max", expensive=True, largest=12, batch_size=4)
    optimize(SPACE, metrics={"num_blocks_wanted": metric}, objectives=["num_blocks_wanted", "macs"], budget=16)
    assert sum(calls) == 16
    assert max(calls) <= 4


def test_a_table_in_place_of_a_predictor(tmp_path: Path) -> None:
    networks = SPACE.candidates(SPACE.sample(np.random.default_rng(0), 400))
    lines = [
        "network_id,latency_ms",
        *(f"{network.network_id},{index % 7 + 1}" for index, network in enumerate(networks)),
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    table = LatencyTable.from_csv(tmp_path / "table.csv")
    result = optimize(SPACE, metrics={"latency_ms": table}, objectives=["latency_ms", "params"], budget=300)
    assert {network.candidate.network_id for network in result.front} <= set(table.values)
    with pytest.raises(InputError, match="must have the columns arch_id and latency_ms"):
        LatencyTable.from_csv(tmp_path / "table.csv", key="arch_id")
    for text in ("network_id,latency_ms\na,fast\n", "network_id,latency_ms\na\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match="must be a CSV table of numbers"):
            LatencyTable.from_csv(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("network_id,latency_ms\n" + "a" * 200_000 + ",1\n")
    with pytest.raises(InputError, match=r"bad\.csv cannot be read"):
        LatencyTable.from_csv(tmp_path / "bad.csv")
    (tmp_path / "latin.csv").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("latin.csv", "pipe.csv", "none.csv"):
        with pytest.raises(InputError, match=name):
            LatencyTable.from_csv(tmp_path / name)


@pytest.mark.slow
def test_an_interrupted_search_resumes_in_its_folder(tmp_path: Path) -> None:
    class Interrupted(Accuracies):
        def __call__(self, networks: Sequence[Candidate]) -> list[float]:
            if len(self.asked) >= 16:
                raise KeyboardInterrupt
            return super().__call__(networks)

    first, rest = Interrupted(), Accuracies()
    with pytest.raises(KeyboardInterrupt):
        optimize(SPACE, accuracy=first, budget=26, out=tmp_path / "study")
    resumed = optimize(SPACE, accuracy=rest, budget=26, out=tmp_path / "study")
    whole = optimize(SPACE, accuracy=Accuracies(), budget=26)
    assert not set(first.asked) & set(rest.asked)
    assert len(first.asked) + len(rest.asked) == 26
    assert [n.arch_id for n in resumed.networks] == [n.arch_id for n in whole.networks]
    for changed in ({"seed": 1}, {"budget": 30}, {"strategy": RoundsSearch(explored=0.5)}):
        with pytest.raises(InputError):
            optimize(SPACE, **{"accuracy": rest, "budget": 26, "out": tmp_path / "study", **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "most"}, "goal 'most' is not known"),
        ({"largest": 0.0}, "largest must be greater than 0"),
        ({"largest": float("nan")}, "largest must be"),
        ({"batch_size": 0}, "batch_size must be between 1"),
    ],
)
def test_a_metric_has_sensible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CustomMetric(**{"function": milliseconds, **options})


def test_infinite_values_are_no_values() -> None:
    result = optimize(SPACE, metrics={"latency_ms": lambda networks: [float("inf")] * len(networks)}, budget=5)
    assert not result.front
    assert all(np.isnan(network.metrics["latency_ms"]) for network in result.networks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": ["throughput", "macs"]}, "every metric of the search needs a source"),
        ({"metrics": {"macs": milliseconds}}, "macs must not be given"),
        ({"metrics": {"throughput": CustomMetric(function=milliseconds)}}, "throughput must have the goal 'max'"),
        ({"metrics": {"latency_ms": lambda networks: [1.0]}}, "must return one number for each network"),
        ({"metrics": {"latency_ms": lambda networks: [-1.0] * len(networks)}}, "must not be negative"),
        ({"metrics": {"latency_ms": lambda networks: ["fast"] * len(networks)}}, "must return numbers"),
        ({"metrics": {"latency_ms": 5}}, "must be CustomMetric or LatencyTable or Predictor or a function"),
        ({"metrics": {"../evil": milliseconds}}, "the name of a metric must have 1 to 100 letters"),
        ({"metrics": {"speed@x": milliseconds}}, "the name of a metric must have 1 to 100 letters"),
        ({"objectives": [5]}, r"objectives\[0\] must be a text"),
        ({"objectives": []}, "at least one objective"),
        ({"constraints": ["macs<=1e400"]}, "a bound of macs must be a number"),
        ({"budget": 0}, "evaluations must be between 1 and 1000000"),
        ({"budget": 10**20}, "budget must be a whole number of at most 19 digits"),
        ({"budget": 1.5}, "budget must be a whole number"),
        ({"budget": "many"}, "budget must be a whole number"),
        ({"minutes": float("nan")}, "minutes must be"),
        ({"seed": -1}, "seed must be between 0"),
        ({"seed": 10**20}, "seed must be a whole number of at most 19 digits"),
        ({"space": 5}, "space must be a text or Space"),
        ({"out": Path(__file__)}, "cannot be locked"),
        (
            {"accuracy": milliseconds, "metrics": {"energy_j": CustomMetric(function=milliseconds, expensive=True)}},
            "at most one metric can be expensive",
        ),
    ],
)
def test_what_cannot_work_is_an_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimize(**{"space": SPACE, "budget": 5, **options})  # type: ignore[arg-type]


def test_results_are_frames_plots_and_tables(found: SearchResult) -> None:
    frame = found.to_frame()
    assert list(frame["arch_id"]) == [network.arch_id for network in found.front]
    assert len(found.to_frame(front_only=False)["arch_id"]) == len(found.networks)
    (axes,) = found.plot(x="latency_ms").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("latency_ms", "accuracy")
    assert found.front[0].arch_id in found._repr_html_()
    assert repr(found).startswith("SearchResult(autoformer-micro: ")


def test_the_objects_are_public() -> None:
    assert hwnas.optimize is optimize
    assert hwnas.SearchResult is SearchResult


def test_networks_are_searched_in_several_deployments() -> None:
    space = DeployedSpace.of(SPACE, [Deployment.parse(text) for text in ("torch/fp32", "torch/int8")])

    def accuracy(networks: Sequence[Candidate]) -> list[float]:
        genomes = np.stack([network.genome[:-1] for network in networks])
        drops = [0.01 * (network.deployment == space.deployments[1]) for network in networks]
        return [float(value) - drop for value, drop in zip(toy_accuracy(SPACE, genomes), drops, strict=True)]

    def latency(networks: Sequence[Candidate]) -> list[float]:
        macs = space.costs(np.stack([network.genome for network in networks])).macs
        return [float(count) / (1 + int(n.genome[-1])) for count, n in zip(macs, networks, strict=True)]

    result = optimize(space, accuracy=accuracy, metrics={"latency_ms": latency}, budget=20)
    columns = result._columns(result.networks)
    assert set(columns["deployment"]) == {"torch/fp32", "torch/int8"}
    assert len(set(columns["arch_id"])) == len(result.networks) == 20
    table = LatencyTable({network.id: network.metrics["latency_ms"] for network in result.networks})
    assert table([network.candidate for network in result.networks]) == columns["latency_ms"]
