"""Several searches in one figure: groups, bands and common bounds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.pipeline.study_comparison import compare_searches
from hwnas.report.comparison import Curve, Group, compare
from hwnas.search.pareto import HypervolumeBounds, hypervolume
from hwnas.search.record import read_record, write_record
from hwnas.search.study import Study
from hwnas.search.study_files import STUDY_FILE
from tests.report.example import LATENCY, THROUGHPUT, Example, make_run

SMALL = Example(space="autoformer-micro", count=120, objectives=("accuracy", LATENCY))


def with_strategy(run: Path, strategy: str) -> Path:
    record = read_record(run)
    write_record(run, replace(record, spec=replace(record.spec, strategy=strategy)))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    rounds = [make_run(folder / f"rounds-{seed}", replace(SMALL, seed=seed)) for seed in range(3)]
    random = [make_run(folder / f"random-{seed}", replace(SMALL, seed=seed)) for seed in range(3, 5)]
    return [*rounds, *(with_strategy(run, "random") for run in random)]


def test_searches_that_differ_in_their_seeds_are_a_group(runs: list[Path]) -> None:
    comparison = compare(runs)
    assert [(group.label, len(group.searches)) for group in comparison.groups] == [("rounds", 3), ("random", 2)]
    assert comparison.notes == ()


def test_a_band_holds_its_curves_and_ends_with_the_shortest() -> None:
    curves = (
        Curve(evaluations=np.array([10, 20, 30]), values=np.array([0.1, 0.2, 0.4])),
        Curve(evaluations=np.array([15, 25]), values=np.array([0.3, 0.5])),
    )
    grid, band = Group(label="a", searches=(), curves=curves).band()
    assert grid.tolist() == [10, 15, 20, 25]
    np.testing.assert_allclose(band, [[0, 0.1, 0.2, 0.2], [0.05, 0.2, 0.25, 0.35], [0.1, 0.3, 0.3, 0.5]])


def test_all_hypervolumes_are_in_the_same_bounds(runs: list[Path]) -> None:
    alone = compare(runs[:1]).groups[0].curves[0].values[-1]
    assert alone == pytest.approx(read_record(runs[0]).history[-1][2])
    boxes = [read_record(run).bounds for run in runs]
    bounds = HypervolumeBounds(
        ideal=tuple(min(box.ideal[at] for box in boxes) for at in range(2)),
        reference=tuple(max(box.reference[at] for box in boxes) for at in range(2)),
    )
    comparison = compare(runs)
    for search, curve in zip(comparison.groups[1].searches, comparison.groups[1].curves, strict=True):
        scores = search.spec.make_problem(search.data.space).scores(search.data.candidates.metrics)
        assert curve.values[-1] == pytest.approx(hypervolume(scores.objectives, bounds, feasible=scores.feasible))


def test_the_further_seeds_of_a_run_count_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-a", SMALL)
    other = make_run(tmp_path / "search-b", replace(SMALL, seed=1))
    (run / "seeds" / "1").mkdir(parents=True)
    (other / STUDY_FILE).rename(run / "seeds" / "1" / STUDY_FILE)
    (group,) = compare([run]).groups
    assert [search.name for search in group.searches] == ["search-a", "search-a, seed 1"]
    assert [search.spec.seed for search in group.searches] == [0, 1]


def test_other_objectives_are_noted(tmp_path: Path, runs: list[Path]) -> None:
    other = make_run(tmp_path / "fast", replace(SMALL, objectives=("accuracy", THROUGHPUT)))
    comparison = compare([runs[0], other])
    assert "objectives differ" in comparison.notes[0]
    assert [group.label for group in comparison.groups] == [LATENCY, THROUGHPUT]


def test_figures_and_curves_are_written(runs: list[Path], tmp_path: Path) -> None:
    written = compare_searches(runs, out=tmp_path / "out")
    assert {path.name for path in written.files} == {
        "hypervolume.png", "hypervolume.svg", "fronts.png", "fronts.svg", "hypervolume.csv",
    }  # fmt: skip
    assert all(path.stat().st_size for path in written.files)
    assert (tmp_path / "out" / "hypervolume.svg").read_text().count("median of") == 2
    first = written.groups[0]
    assert first.smallest <= first.median <= first.largest
    assert first.evaluations == 120
    lines = (tmp_path / "out" / "hypervolume.csv").read_text().splitlines()
    assert lines[0] == "group,search,seed,evaluations,hypervolume"
    assert len(lines) == 1 + 5 * 3


def test_what_cannot_be_compared_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named twice"):
        compare_searches([runs[0], runs[0]], out=tmp_path)
    empty = make_run(tmp_path / "empty", replace(SMALL, count=0, finished=False))
    with pytest.raises(InputError, match="must have candidates"):
        compare_searches([empty], out=tmp_path)
    with Study.read(runs[0]) as study:
        assert len(study) == 120
