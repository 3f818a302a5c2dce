import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.report.data import slug
from hwnas.report.gather import gather
from hwnas.runs import Run
from hwnas.search.record import RECORD_FILE, read_record
from hwnas.space import SPACES
from hwnas.space.autoformer import AutoFormer
from tests.report.example import LATENCY, MEMORY, OBJECTIVES, THROUGHPUT, Example, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "search-a", Example(count=120))


def test_a_finished_run_is_read_whole(run: Path) -> None:
    data = gather(run)
    record = read_record(run)
    assert (data.name, data.finished, data.verified) == ("search-a", True, True)
    assert [member.arch_id for member in data.front] == list(record.front)
    assert len(data.candidates) == 120
    assert data.candidates.on_front.sum() == len(record.front)
    assert [metric.key for metric in data.metrics] == [*OBJECTIVES, "params"]
    assert [metric.role for metric in data.metrics] == ["objective"] * 3 + ["other"]
    assert [metric.predicted for metric in data.metrics] == [False, False, True, False]
    assert data.metrics[2].where == "amd-epyc-9b45-1c-avx512bf16, onnxruntime, fp32, batch 1"
    assert data.history[-1].candidates == 120
    assert set(data.hashes) == {"search.json", "study.sqlite"}


def test_a_member_knows_its_values(run: Path) -> None:
    data = gather(run)
    first = data.front[0]
    costs = data.space.costs(data.candidates.genomes[[first.row]])
    assert (first.params, first.macs) == (costs.params[0], costs.macs[0])
    assert first.metrics["macs"].predicted == first.macs
    check = first.metrics[LATENCY]
    assert check.predicted is not None
    assert check.lower == pytest.approx(0.97 * check.predicted)
    assert check.measured == pytest.approx(check.predicted)  # the first one is measured as predicted
    assert first.value(LATENCY) == check.measured
    assert first.exported_to == "winners/best"


def test_a_member_that_failed_keeps_its_prediction(run: Path) -> None:
    failed = gather(run).front[3]
    assert failed.failure is not None
    assert not failed.measured
    assert failed.value(LATENCY) == failed.metrics[LATENCY].predicted


def test_a_search_that_goes_on_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    finished = gather(make_run(tmp_path / "b", Example(count=100)))
    data = gather(make_run(tmp_path / "a", Example(count=100, finished=False)))
    assert not data.finished
    assert [member.arch_id for member in data.front] == [member.arch_id for member in finished.front]
    assert [item.candidates for item in data.history] == [50, 100]
    assert [item.hypervolume for item in data.history] == [item.hypervolume for item in finished.history]
    assert data.front[0].on_measured_front is None


def test_a_search_that_has_just_begun_is_read(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=0, finished=False)))
    assert (len(data.candidates), data.front, data.history) == (0, (), ())


def test_what_violates_a_constraint_is_told_from_what_is_beaten(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=100, constraints=("macs<=1.4G",))))
    macs = data.candidates.metrics["macs"].mean
    np.testing.assert_array_equal(data.candidates.feasible, macs <= 1.4e9)
    assert 0 < data.candidates.feasible.sum() < 100
    accuracy = data.candidates.metrics["accuracy"].mean
    np.testing.assert_array_equal(np.isnan(accuracy), macs > 1.4e9)


def test_unknown_values_stand_on_no_front(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=100, unknown_share=0.5)))
    unknown = np.isnan(data.candidates.metrics["accuracy"].mean)
    assert unknown.any()
    assert not data.candidates.on_front[unknown].any()
    assert data.candidates.feasible[unknown].all()


def test_equal_networks_are_all_on_the_front(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=200, ties=True)))
    values = {tuple(member.metrics[key].predicted for key in OBJECTIVES) for member in data.front}
    assert len(values) < len(data.front)


@pytest.mark.parametrize("objectives", [("accuracy",), (*OBJECTIVES, THROUGHPUT, MEMORY)])
def test_one_objective_and_five(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=80, objectives=objectives)))
    assert tuple(metric.key for metric in data.objectives) == objectives
    assert len(data.front) == 1 if len(objectives) == 1 else len(data.front) > 10


def test_costs_are_there_even_if_nobody_asked_for_them(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=60, objectives=("accuracy",))))
    assert {metric.key for metric in data.metrics} == {"accuracy", "macs", "params"}


def test_the_baseline_is_deit_ti(run: Path, tmp_path: Path) -> None:
    baseline = gather(run).baseline
    assert baseline is not None
    assert baseline.name == "DeiT-Ti"
    assert gather(make_run(tmp_path / "a", Example(count=60, references=False))).baseline is None


def test_a_name_becomes_part_of_a_column() -> None:
    assert slug("DeiT-Ti") == "deit_ti"
    assert slug("a <b> c") == "a__b__c"


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run"):
        gather(tmp_path)


def test_another_run_is_no_search(tmp_path: Path) -> None:
    Run.create(tmp_path / "train", command=["hwnas", "train"], config={})
    with pytest.raises(InputError, match="must be the run of a search"):
        gather(tmp_path / "train")


def test_a_record_of_another_study_is_refused(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", Example(count=60))
    other = make_run(tmp_path / "other", Example(count=60, seed=1))
    (one / RECORD_FILE).write_bytes((other / RECORD_FILE).read_bytes())
    with pytest.raises(InputError, match="must be of one search"):
        gather(one)


def test_a_space_that_has_changed_since_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "one", Example(count=60, space="autoformer-micro"))
    space = SPACES.get("autoformer-micro")
    shorter = AutoFormer(name=space.name, config=replace(space.config, depths=space.config.depths[:-1]))
    monkeypatch.setitem(SPACES._entries, space.name, shorter)
    with pytest.raises(InputError, match="the space has changed since") as error:
        gather(run)
    assert "autoformer-micro as it is now" in str(error.value)


def test_a_broken_record_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", Example(count=60))
    (run / RECORD_FILE).write_text(json.dumps({"schema": "hwnas.search/99"}))
    with pytest.raises(InputError, match=r"search\.json"):
        gather(run)


def damaged(run: Path, **changes: object) -> Path:
    """The run with other values in its record."""
    values = json.loads((run / RECORD_FILE).read_text())
    (run / RECORD_FILE).write_text(json.dumps({**values, **changes}))
    return run


@pytest.mark.parametrize(
    "cards",
    [
        {LATENCY: None},
        {LATENCY: []},
        {LATENCY: {"held_out": 3}},
        {LATENCY: {"schema": "hwnas.predictor/3", "ranking": "x"}},
        {"../x": {"schema": ["hwnas.predictor/3"]}},
    ],
)
def test_a_card_in_a_record_is_read_strictly(tmp_path: Path, cards: object) -> None:
    run = damaged(make_run(tmp_path / "a", Example(count=60)), predictor_cards=cards)
    with pytest.raises(InputError, match=r"search\.json[.:] ?predictor_cards"):
        gather(run)


def test_values_that_no_figure_holds_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", Example(count=60))
    with closing(sqlite3.connect(run / "study.sqlite")) as connection, connection:
        first = "candidate = (SELECT MIN(candidate) FROM evaluations)"
        connection.execute(f"UPDATE evaluations SET value = 1e300, lower = NULL, upper = NULL WHERE {first}")
    with pytest.raises(InputError, match=r"study\.sqlite"):
        gather(run)


@pytest.mark.parametrize("bounds", [{"ideal": [0.0], "reference": [1.0]}, {"ideal": "x", "reference": [1.0]}, [1], 3])
def test_bounds_of_a_study_are_one_for_each_objective(tmp_path: Path, bounds: object) -> None:
    run = make_run(tmp_path / "a", Example(count=60))
    (run / RECORD_FILE).unlink()
    with closing(sqlite3.connect(run / "study.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'bounds'", (json.dumps(bounds),))
    with pytest.raises(InputError, match=r"study\.sqlite: bounds"):
        gather(run)
