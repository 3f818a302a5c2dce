"""States of runs that are being written."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.files import WriterLock, is_being_written
from hwnas.records import Store
from hwnas.report.live.state import MAX_POINTS, StateReader, make_series
from hwnas.report.live.views import open_view
from hwnas.runs import Run, read_error, record_error
from hwnas.search.objective import exact
from hwnas.search.study import Study
from hwnas.space import SPACES
from tests.records.rows import MANIFEST, SESSION, failed, row
from tests.report.example import Example, make_run

UNFINISHED = Example(space="autoformer-micro", count=40, finished=False)


def test_a_search_is_followed_while_it_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-a", replace(UNFINISHED, predictor=False, objectives=("accuracy", "macs")))
    view = open_view(run)
    before = view.read()
    assert (before.kind, before.done, dict(before.facts)["candidates"]) == ("search", 1.0, "40")
    space = SPACES.get("autoformer-micro").adapted(num_classes=10)
    with Study.read(run) as study:
        config, known = study.config, study.table().genomes
    genomes = space.sample(np.random.default_rng(9), 60)
    _, first = np.unique(genomes, axis=0, return_index=True)
    seen = {genome.tobytes() for genome in known}
    fresh = np.array([genome for genome in genomes[np.sort(first)] if genome.tobytes() not in seen][:5])
    with Study.resume(run, config=config) as study:
        costs = space.costs(fresh)
        study.add(fresh, generation=1, metrics={"macs": exact(costs.macs)}, sources={"macs": "analytic"})
        study.store_value(fresh[:1], metric="accuracy", value=exact(np.array([0.99])), source="supernet")
        during = view.read()  # while it is open for writing
        study.store_value(fresh[1:2], metric="accuracy", value=exact(np.array([0.5])), source="supernet")
    assert dict(during.facts)["candidates"] == "45"
    after = view.read()
    hypervolumes = [chart.series[0].y[-1] for state in (before, after) for chart in state.charts[1:]]
    assert hypervolumes[1] > hypervolumes[0]


def test_a_search_without_a_study_has_not_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search-a", UNFINISHED)
    (run / "study.sqlite").unlink()
    state = open_view(run).read()
    assert (state.charts, state.done) == ((), None)
    assert state.sentence == "The search has not evaluated anything yet."


def test_a_campaign_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "toy-2c" / "profile"
    with Store(path, manifest=MANIFEST, session=replace(SESSION, planned=4)) as store:
        store.append(row(0, ns=2_000_000))
        view = open_view(path)
        first = view.read()
        assert (first.kind, first.status, first.done) == ("campaign", "running", 0.25)
        store.append(row(1, ns=3_000_000))
        store.append(failed(2))
        state = view.read()
    assert state.name == "toy-2c/profile"
    assert state.done == 0.75
    assert dict(state.facts)["failed"] == "1"
    assert state.error is not None
    assert state.error.message.endswith("12 of 1000 outputs are NaN")
    (chart,) = state.charts
    assert chart.series[0].x == [1.0, 2.0]
    assert chart.series[0].y[0] < chart.series[0].y[1]
    assert len(chart.series[0].labels) == 2


def test_a_damaged_row_is_named_and_those_behind_it_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "toy-2c" / "profile"
    with Store(path, manifest=MANIFEST, session=SESSION) as store:
        store.append(row(0, ns=2_000_000))
    good = (path / "measurements.jsonl").read_bytes()
    (path / "measurements.jsonl").write_bytes(b'{"schema": 1\n' + good)
    state = open_view(path).read()
    assert dict(state.facts)["measured"].startswith("1")
    assert state.error is not None
    assert "measurements.jsonl" in state.error.message


def training(path: Path, *, epochs: int = 4) -> Run:
    return Run.create(path, command=["hwnas", "train"], config={"recipe": {"epochs": epochs}})


def test_a_training_is_followed_and_a_line_in_part_is_waited_for(tmp_path: Path) -> None:
    run = training(tmp_path / "train-a").path
    view = open_view(run)
    assert view.read().sentence == "No step is complete yet."
    metrics = run / "metrics.jsonl"
    rows = [json.dumps({"step": step, "epoch": step // 4, "loss": 4.0 - step / 4, "lr": 0.1}) for step in range(1, 9)]
    metrics.write_text("\n".join(rows[:3]) + "\n" + rows[3][:5])
    assert dict(view.read().facts)["step"] == "3"
    metrics.write_text("\n".join(rows) + "\nno json\n" + '{"step": 9, "loss": NaN}\n')
    state = view.read()
    assert dict(state.facts) == {"step": "8", "epoch": "3 of 4", "loss": "2.0000", "learning rate": "0.1"}
    assert state.charts[0].series[0].y[-1] == 2.0
    assert state.done is not None
    assert 0.5 <= state.done < 1
    (run / "result.json").write_text("{}")
    assert (view.read().status, view.read().done) == ("finished", 1.0)


def test_a_training_has_the_epochs_that_it_was_last_resumed_with(tmp_path: Path) -> None:
    changes = [{"step": 4, "epochs": 6, "ends": False}]
    config = {"recipe": {"epochs": 4}, "epochs_changes": changes}
    run = Run.create(tmp_path / "train-a", command=["hwnas", "train"], config=config).path
    (run / "metrics.jsonl").write_text(json.dumps({"step": 5, "epoch": 4, "loss": 1.0}) + "\n")
    assert dict(open_view(run).read().facts)["epoch"] == "5 of 6"


def test_metrics_that_were_written_anew_are_read_from_the_beginning(tmp_path: Path) -> None:
    run = training(tmp_path / "train-a").path
    lines = [json.dumps({"step": step, "epoch": 0, "loss": 1.0}) + "\n" for step in range(1, 6)]
    (run / "metrics.jsonl").write_text("".join(lines))
    view = open_view(run)
    view.read()
    (run / "new").write_text("".join(lines[:2]))
    (run / "new").replace(run / "metrics.jsonl")
    assert dict(view.read().facts)["step"] == "2"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run folder"):
        open_view(tmp_path / "nowhere")
    Run.create(tmp_path / "other", command=["hwnas", "demo"], config={})
    with pytest.raises(InputError, match="must be the run of a search or a training"):
        open_view(tmp_path / "other")


def test_the_error_that_ended_a_command_is_kept_until_one_succeeds(tmp_path: Path) -> None:
    run = training(tmp_path / "train-a").path
    with pytest.raises(InputError), record_error(run):
        raise InputError("images must be readable", got="a.png", hint="--max-bad 1")
    error = open_view(run).read().error
    assert error is not None
    assert error.kind == "InputError"
    assert "--max-bad 1" in error.message
    with record_error(run):
        pass
    assert read_error(run) is None
    (run / "error.json").write_text('{"kind": 1}')
    assert read_error(run) is None


def test_the_writer_of_a_folder_is_known_by_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert is_being_written(lock) is None
    with WriterLock(lock, activity="search"):
        assert is_being_written(lock) is True
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    for pid, host, known in ((gone, socket.gethostname(), False), (gone, "elsewhere", None), (-1, "x", None)):
        lock.write_text(json.dumps({"pid": pid, "host": host, "since": "now"}))
        assert is_being_written(lock) is known


def test_long_series_keep_their_ends() -> None:
    series = make_series("a", "line", range(10 * MAX_POINTS), [float("nan"), *range(1, 10 * MAX_POINTS)])
    assert len(series.x) == MAX_POINTS
    assert (series.x[0], series.x[-1]) == (1, 10 * MAX_POINTS - 1)


def test_runs_are_not_read_more_often_than_asked(tmp_path: Path) -> None:
    run = training(tmp_path / "train-a").path
    now = [0.0]
    reader = StateReader([open_view(run)], clock=lambda: now[0])
    first = reader.read()
    assert reader.read() is first
    now[0] = 1.5
    assert reader.read() is not first
