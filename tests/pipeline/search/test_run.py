"""Searches from predictors and a supernet to a verified front, in every family, at toy size."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError, UsageError
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.query import query
from hwnas.pipeline.search.run import SearchRun, dry_run_search, search_networks
from hwnas.progress import EvaluationProgress, NullReporter, ProgressEvent
from hwnas.report.gather import gather
from hwnas.runs import Run
from hwnas.search.pareto import on_front
from hwnas.search.record import read_record, write_record
from hwnas.search.spec import PostSearch
from hwnas.search.study import Study
from hwnas.space import SPACES
from tests.marks import slow_but
from tests.pipeline import measured_profiles
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.pipeline.search.workbench import (
    FIRST,
    MICROS,
    SPEED,
    free,
    options,
    write_bench,
    write_predictor,
    write_supernet,
)


@pytest.mark.parametrize("space", slow_but([name for name in MICROS if name != FIRST], "glit-micro"))
def test_every_family_is_searched_and_verified(space: str, tmp_path: Path) -> None:
    bench = write_bench(tmp_path, space)
    found = search_networks(
        options(bench, budget=8), out=tmp_path / "run", campaign_environment=FakeEnvironment().make()
    )
    record = found.record
    assert record.spec.strategy == ("hierarchical" if SPACES.get(space).family == "glit" else "rounds")
    assert (record.stop, record.evaluations) == ("evaluations", 8)
    assert record.front
    assert record.verification is not None
    assert record.verification.status == "verified"
    assert [member.arch_id for member in record.verification.members] == list(record.front)


def test_the_front_is_that_of_the_candidates(searched: SearchRun) -> None:
    record = searched.record
    assert record.spec.objectives == ("accuracy", "macs", SPEED)
    assert record == read_record(searched.run)
    assert record.spec.supernet is not None
    assert record.spec.supernet.num_images == 360
    assert record.history[-1][:2] == (record.candidates, record.evaluations)
    space = SPACES.get(FIRST).adapted(num_classes=10)
    with Study.read(searched.run) as study:
        table = study.table()
    values = np.column_stack([-table.metrics["accuracy"].mean, table.metrics["macs"].mean, -table.metrics[SPEED].mean])
    expected = {space.arch_id(arch) for arch in space.decode(table.genomes[on_front(values)])}
    assert set(record.front) == expected
    assert len(record.front) == len(expected)


def test_a_supernet_that_hardly_separates_its_networks_is_noted(searched: SearchRun) -> None:
    # Nobody trained the supernet of these tests.
    assert searched.record.supernet_health is not None
    assert any(note.startswith("the supernet hardly separates its networks") for note in searched.record.notes)


def test_networks_of_other_images_than_the_measured_ones_are_noted_with_the_command_that_measures_them(
    bench: dict[str, Any], tmp_path: Path
) -> None:
    supernet = write_supernet(tmp_path, FIRST, image_size=64)
    quick = FakeEnvironment().make()
    found = search_networks(
        options(bench, supernet=supernet, budget=4), out=tmp_path / "run", campaign_environment=quick
    )
    (note,) = [note for note in found.record.notes if "lie outside what the predictor was fitted to" in note]
    assert note.endswith(f"; hwnas profile --space {FIRST} --image-size 64 measures such images")


def test_the_tables_are_in_the_run(searched: SearchRun) -> None:
    lines = (searched.run / "front.csv").read_text().splitlines()
    assert len(lines) == 1 + len(searched.record.front)
    config = Run.open(searched.run).manifest.config
    assert config["objectives"] == ["accuracy", "macs", SPEED]
    assert (searched.run / config["predictors"][0]["path"] / "card.json").is_file()


def test_a_search_goes_on_where_it_was_interrupted(searched: SearchRun, bench: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"

    class Impatient(NullReporter):
        def update(self, event: ProgressEvent) -> None:
            if isinstance(event, EvaluationProgress) and event.done == 7:
                raise KeyboardInterrupt

    place = FakeEnvironment().make()
    with pytest.raises(KeyboardInterrupt, match=f"try     hwnas search --resume {run}"):
        search_networks(options(bench), out=run, reporter=Impatient(), campaign_environment=place)
    with pytest.raises(InputError, match="a search that has ended"):
        read_record(run)
    again = search_networks(resume=run, campaign_environment=place)
    assert again.record.front == searched.record.front
    assert [row[:2] for row in again.record.history] == [row[:2] for row in searched.record.history]
    assert again.record.verification == searched.record.verification


def test_a_search_that_has_ended_is_given_more_evaluations(
    searched: SearchRun, bench: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched.run, run)
    had = searched.record.spec.budget.evaluations
    assert had is not None
    with pytest.raises(InputError, match=f"must be more than the {had} evaluations"):
        search_networks(resume=run, budget=had)
    place = FakeEnvironment().make()
    more = search_networks(resume=run, budget=had + 5, campaign_environment=place).record
    assert more.spec.budget == searched.record.spec.budget.extended(had + 5)
    assert more.evaluations == had + 5
    old = searched.record.history
    assert more.history[: len(old)] == old
    assert more.verification is not None
    assert {row.arch_id for row in more.verification.members} == set(more.front)
    assert Study.read(run).config == more.spec.study_config
    assert search_networks(resume=run, campaign_environment=place).record == more
    with pytest.raises(UsageError, match="for a search that is resumed"):
        search_networks(options(bench), budget=7)


def test_a_run_of_another_configuration_is_refused(searched: SearchRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched.run, run)
    (run / "search.json").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["config"]["seed"] = 5
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="holds a study of another configuration") as caught:
        search_networks(resume=run)
    assert "seed: stored 0, given 5" in str(caught.value.got)


def test_a_space_that_has_changed_in_code_is_refused(
    bench: dict[str, Any], searched: SearchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_run = tmp_path / "free"
    search_networks(
        free(
            {"predictors": None, "runs": tmp_path},
            objectives=("params",),
            post_search=PostSearch(verify=False),
        ),
        out=free_run,
    )
    space = SPACES.get(FIRST)
    other = replace(space.config, mlp_ratios=tuple(ratio + 0.5 for ratio in space.config.mlp_ratios))
    monkeypatch.setitem(SPACES._entries, space.name, replace(space, config=other))
    message = f"must be of {FIRST} as it is now"
    for act in (lambda: search_networks(resume=free_run), lambda: query(free_run), lambda: gather(free_run)):
        with pytest.raises(InputError, match=message) as caught:
            act()
        assert "the space has changed since" in str(caught.value.got)
    with pytest.raises(InputError, match=f"must hold a supernet of {FIRST} as it is now"):
        search_networks(options(bench), out=tmp_path / "old supernet")


def test_only_a_search_is_gone_on_with(tmp_path: Path) -> None:
    Run.create(tmp_path / "train", command=("hwnas", "train"), config={"recipe": {}})
    with pytest.raises(InputError, match="must be the run of a search"):
        search_networks(resume=tmp_path / "train")
    with pytest.raises(UsageError, match="takes options and folder from its run"):
        search_networks(SearchOptions(), resume=tmp_path / "train")


def test_without_accuracy_evaluations_are_free_and_random_search_stands_beside(bench: dict[str, Any]) -> None:
    wanted = free(bench, constraints=("macs<=3M",), post_search=PostSearch(verify=False, export_top=0), num_seeds=2)
    record = search_networks(wanted, out=bench["runs"] / "free").record
    assert record.spec.strategy == "nsga2"
    assert record.spec.supernet is None
    assert record.random_history is not None
    assert record.random_history[-1][1] == record.evaluations == 60
    assert record.seeds is not None
    assert record.seeds.seeds == (0, 1)
    assert record.seeds.hypervolume.values[0] == record.history[-1][2]
    assert record.verification is not None
    assert (record.verification.status, record.measured_front) == ("skipped", None)
    assert "--no-verify" in record.verification.reason


def test_another_supernet_in_place_of_the_searched_one_is_refused(searched: SearchRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched.run, run)
    spec = searched.record.spec
    assert spec.supernet is not None
    other = replace(spec, supernet=replace(spec.supernet, digest="another"))
    write_record(run, replace(searched.record, spec=other))
    with pytest.raises(InputError, match="must be the one that was searched"):
        search_networks(resume=run, campaign_environment=FakeEnvironment().make())


def test_one_predictor_for_any_batch_can_be_behind_two_metrics(bench: dict[str, Any], tmp_path: Path) -> None:
    write_predictor(tmp_path, FIRST, batch=None)
    asked = ("throughput@cpu/onnxruntime/fp32/b1", "throughput@cpu/onnxruntime/fp32/b8")
    wanted = free(
        {**bench, "predictors": tmp_path}, objectives=asked, post_search=PostSearch(verify=False, export_top=0)
    )
    record = search_networks(wanted, out=tmp_path / "run").record
    assert [used.metric[-3:] for used in record.spec.predictors] == ["/b1", "/b8"]
    assert len({used.path for used in record.spec.predictors}) == 1


def test_a_folder_that_holds_something_is_no_new_run(bench: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="must be a new or an empty folder"):
        search_networks(free(bench), out=tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("count", [24, 2])
def test_a_profile_of_the_space_comes_before_a_predictor_of_any_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Two networks are too few for a predictor."""
    measured_profiles.fast_fits(monkeypatch)
    predictors, profiles = tmp_path / "predictors", tmp_path / "profiles"
    write_predictor(predictors, FIRST, of_any=True)
    measured_profiles.make_profile(profiles, FIRST, device=CPU, count=count)
    asked = free({"predictors": predictors, "runs": tmp_path / "runs"}, profiles=profiles)
    spec = dry_run_search(asked).spec
    (used,) = spec.predictors
    assert used.metric == SPEED
    notes = " ".join(spec.notes)
    assert f"{count} networks of {FIRST}" in notes if count > 2 else "24 networks of all kinds" in notes
    assert ("could be fitted" in notes) == (count == 2)


def test_a_dry_run_that_must_fit_a_predictor_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_profiles.fast_fits(monkeypatch)
    monkeypatch.chdir(tmp_path)
    measured_profiles.make_profile(tmp_path / "profiles", FIRST, device=CPU)
    (tmp_path / "none").mkdir()
    before = sorted(tmp_path.rglob("*"))
    asked = free({"predictors": tmp_path / "none", "runs": tmp_path / "runs"}, objectives=("latency_ms",))
    found = dry_run_search(replace(asked, profiles=tmp_path / "profiles"))
    assert sorted(tmp_path.rglob("*")) == before
    assert found.spec.objectives[-1] == f"latency_ms@{CPU}/onnxruntime/fp32/b1"
    assert any("fitted one to" in note for note in found.spec.notes)
    assert any(note.endswith("; fitted for this dry run and not kept") for note in found.spec.notes)


def test_a_dry_run_writes_nothing(bench: dict[str, Any]) -> None:
    found = dry_run_search(options(bench, constraints=("macs<=3M",), minutes=2.0, budget=None))
    assert found.constraint_check.satisfiable
    assert found.spec.supernet is not None
    assert found.spec.supernet.num_images == 360
    assert found.seconds_per_evaluation is not None
    assert (found.spec.budget.evaluations, found.spec.budget.minutes) == (None, 2.0)
    assert any(note.startswith("predictor throughput@") for note in found.spec.notes)
