from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search.ledger import Budget
from hwnas.search.objective import Metrics, exact
from hwnas.search.pareto import on_front
from hwnas.search.query import query_study
from hwnas.search.run import run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.space import Genomes
from tests.search.toys import LATENCY, evaluators, problem

SPACE = SPACES.get("resnas-micro")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    with Study.create(path, config={}) as study:
        strategy = STRATEGIES.get("nsga2")()
        run_search(problem(SPACE), evaluators(SPACE), strategy=strategy, budget=Budget(evaluations=120), study=study)
    return path


def test_other_constraints_are_answered_from_the_study(folder: Path) -> None:
    with Study.read(folder) as study:
        free = query_study(study, problem(SPACE))
        bound = float(np.median(free.metrics[LATENCY].mean))
        bounded = query_study(study, problem(SPACE, f"{LATENCY}<={bound}"))
    within = free.metrics[LATENCY].mean <= bound
    assert (bounded.front == on_front(free.scores.objectives, feasible=within)).all()
    assert 0 < bounded.front.sum() < len(within)
    accuracies = bounded.metrics["accuracy"].mean[bounded.rows]
    assert (np.diff(accuracies) <= 0).all()


def test_another_device_is_computed_anew(folder: Path) -> None:
    asked: list[int] = []

    def other(genomes: Genomes) -> Metrics:
        asked.append(len(genomes))
        return {"throughput@h200": exact(1e9 / SPACE.costs(genomes).params)}

    with Study.read(folder) as study:
        answer = query_study(study, problem(SPACE, objectives=("throughput@h200",)), recompute=other)
        with pytest.raises(InputError, match="the study must hold every requested metric") as error:
            query_study(study, problem(SPACE, objectives=("throughput@h200",)))
    assert error.value.got == "throughput@h200"
    assert asked == [120]
    expected = [
        -answer.metrics["accuracy"].mean,
        SPACE.costs(answer.genomes).macs,
        -1e9 / SPACE.costs(answer.genomes).params,
    ]
    assert (answer.front == on_front(np.stack(expected, axis=1))).all()


def test_constraints_are_checked_on_measured_values(tmp_path: Path) -> None:
    genomes = SPACE.sample(np.random.default_rng(0), 3)
    values = {"accuracy": exact([0.9, 0.8, 0.7]), "macs": exact([3, 2, 1]), LATENCY: exact([1, 2, 3])}
    with Study.create(tmp_path, config={}) as study:
        study.add(genomes, generation=0, metrics=values, sources=dict.fromkeys(values, "predicted"))
        for row, value in ((0, 5), (2, 2.2)):
            study.store_value(genomes[[row]], metric=LATENCY, value=exact([value]), source="measured")
    with Study.read(tmp_path) as study:
        answer = query_study(study, problem(SPACE, f"{LATENCY}<=2.5"))
        assert answer.rows.tolist() == [1, 2]
        assert answer.checked[LATENCY].mean.tolist() == [5, 2, 2.2]
        assert answer.metrics[LATENCY].mean.tolist() == [1, 2, 3]
        # A measured value is compared as it is, whatever the confidence.
        unmet = query_study(study, replace(problem(SPACE, f"{LATENCY}<=1"), confident=True))
        assert unmet.rows.tolist() == []
        assert unmet.closest(2).tolist() == [1, 2]
        others = query_study(study, problem(SPACE, f"{LATENCY}<=1"), within=lambda rows: np.array([True, False, True]))
        assert others.closest(3).tolist() == [2, 0]


def test_fifty_thousand_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    space = SPACES.get("autoformer-tiny")
    rows = space.sample(rng, 50_000)
    values = {name: exact(rng.random(50_000)) for name in ("accuracy", "macs", LATENCY, "params")}
    with Study.create(tmp_path, config={}) as study:
        study.add(rows, generation=0, metrics=values, sources=dict.fromkeys(values, "analytic"))
    with Study.read(tmp_path) as study:
        answer = query_study(study, problem(space, f"{LATENCY}<=0.5", "params<=0.9"))
    assert (answer.metrics["macs"].mean == values["macs"].mean).all()
