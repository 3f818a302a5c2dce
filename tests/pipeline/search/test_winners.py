"""The choose_winners: which they are, and that their files are the networks that were judged."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from hwnas.pipeline.search import verify, winners
from hwnas.pipeline.search.references import known_accuracies
from hwnas.pipeline.search.run import search_networks
from hwnas.pipeline.search.winners import SPREAD, choose_winners
from hwnas.runs import Run
from hwnas.search.choice import Pick
from hwnas.search.objective import exact, parse_objective
from hwnas.search.pareto import HypervolumeBounds
from hwnas.search.problem import Problem
from hwnas.search.spec import PostSearch
from hwnas.search.verification import FrontMember
from hwnas.space import SPACES
from hwnas.supernet.store import load_network
from hwnas.train.data.sources import DataConfig, open_data
from hwnas.train.evaluation import make_eval_loader
from hwnas.train.evaluator import evaluate_module
from tests.pipeline.campaigns import FakeEnvironment
from tests.pipeline.search.workbench import DATA, free, options, write_bench
from tests.search.test_record import RECORD

SPACE = SPACES.get("autoformer-micro")
PROBLEM = Problem(space=SPACE, objectives=(parse_objective("accuracy"), parse_objective("macs")))


def member(name: str, accuracy: float, macs: float) -> FrontMember:
    (candidate,) = SPACE.candidates(SPACE.sample(np.random.default_rng(0), 1))
    searched = {"accuracy": exact([accuracy]), "macs": exact([macs])}
    return FrontMember(candidate=replace(candidate, arch_id=name, network_id=name), searched=searched)


def chosen(count: int, *, pick: str = "balanced", **changes: Any) -> list[tuple[str, str]]:
    members = [
        member("large", 0.9, 9.0),
        member("middle", 0.85, 2.0),
        member("beside", 0.84, 1.9),
        member("small", 0.5, 1.0),
    ]
    values = {
        "front": ("large", "middle", "beside", "small"),
        "bounds": HypervolumeBounds(ideal=(-1.0, 0.0), reference=(0.0, 10.0)),
    }
    record = _replaced(**{**values, **changes})
    return [
        (item.candidate.arch_id, why)
        for item, why in choose_winners(PROBLEM, record, members, count, pick=Pick.parse(pick))
    ]


def _replaced(**changes: Any) -> Any:
    return replace(RECORD, **changes)


def test_the_balanced_network_is_first_and_the_others_are_spread() -> None:
    assert chosen(1) == [("middle", "balanced: few errors for its speed")]
    assert [name for name, _ in chosen(3)] == ["middle", "small", "large"]
    assert {why for _, why in chosen(4)[1:]} == {SPREAD}
    assert len(chosen(9)) == 4


def test_they_are_of_the_measured_front_where_there_is_one() -> None:
    assert chosen(1, measured_front=("large", "small"))[0][0] == "large"
    assert chosen(2, measured_front=()) == []
    assert chosen(0) == []


def test_the_first_winner_is_the_picked_one() -> None:
    assert chosen(1, pick="accuracy") == [("large", "the most accurate")]
    assert [name for name, _ in chosen(2, pick="fast")] == ["small", "middle"]
    assert chosen(1, pick="macs<=1.95") == [("beside", "the best accuracy with macs<=1.95")]
    assert chosen(3, pick="macs<=0.5") == []


def test_a_reference_network_trained_on_the_same_images_has_an_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.pipeline import evaluate

    class Judged:
        networks = (type("Row", (), {"top1": 0.75, "count": 360})(),)

    monkeypatch.setattr(evaluate, "evaluate", lambda run: Judged())
    model = "timm:deit_tiny_patch16_224"
    for name, pictures in (("same", "digits"), ("other", "cifar")):
        run = Run.create(
            tmp_path / name, command=(), config={"model": model, "data": {"name": pictures, "seed": 0}}
        ).path
        (run / "model.safetensors").touch()
    data: dict[str, object] = {"name": "digits", "seed": 0}
    assert known_accuracies(tmp_path, data=data, num_images=360) == {model: 0.75}
    assert known_accuracies(tmp_path, data=data, num_images=100) == {}
    assert known_accuracies(tmp_path / "nowhere", data=data, num_images=360) == {}


def test_a_folder_of_somebody_else_beside_the_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private").mkdir()

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert known_accuracies(tmp_path, data={"name": "digits", "seed": 0}, num_images=360) == {}


@pytest.mark.slow
def test_the_files_of_a_winner_are_the_network_that_was_judged(tmp_path: Path) -> None:
    # Its batch norms must have statistics of their own: those of the supernet are another network's.
    bench = write_bench(tmp_path, "resnas-micro")
    wanted = options(bench, budget=6, strategy="random", post_search=PostSearch(verify=False, export_top=1))
    found = search_networks(wanted, out=tmp_path / "run")
    (item,) = found.record.winners
    folder = found.run / item.folder
    assert item.failure is None
    assert {Path(name).suffix for name in item.files} == {".safetensors", ".onnx", ".pt2", ".json"}
    assert all((folder / name).is_file() for name in item.files)
    (graph,) = [name for name in item.files if name.endswith("-bany.onnx")]
    assert json.loads((folder / f"{graph}.parity.json").read_text())["batches"] == [1, 3]
    stored = load_network(folder / "network.safetensors")
    data = open_data(DataConfig(name=DATA), image_shape=stored.space.config.input_shape)
    batches = make_eval_loader(data, stored.space.config.input_shape, split="heldout")
    rows = (found.run / "accuracies.jsonl").read_text().splitlines()
    judged = {row["arch_id"]: row["top1"] for row in map(json.loads, rows)}
    assert evaluate_module(stored.network, batches).top1 == judged[item.arch_id]
    assert "weights: inherited from" in (folder / "card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("retrain_from", ["inherited", "scratch"])
def test_a_winner_is_trained_on_and_tested_once(tmp_path: Path, retrain_from: Literal["inherited", "scratch"]) -> None:
    bench = write_bench(tmp_path, "autoformer-micro")
    finish = PostSearch(verify=False, export_top=0, retrain=1, retrain_epochs=1, retrain_from=retrain_from)
    found = search_networks(options(bench, budget=6, strategy="random", post_search=finish), out=tmp_path / "run")
    (item,) = found.record.winners
    assert item.failure is None
    assert item.test_accuracy is not None
    assert 0 <= item.test_accuracy <= 1
    training = found.run / item.folder / "training"
    assert len((training / "test-uses.jsonl").read_text().splitlines()) == 1
    assert (training / "heldout.txt").read_text() == ""  # it was trained on all training images
    assert search_networks(resume=found.run).record.winners == found.record.winners


def test_winners_are_chosen_again_when_the_front_is_measured_later(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []

    def export(exporter: Any, member: Any, folder: Path, weights: Any) -> winners.WinnerGraphs:
        exported.append(member.candidate.arch_id)
        return winners.WinnerGraphs(files=(folder / "network.onnx",))

    monkeypatch.setattr(winners.WinnerExporter, "_export_graphs", export)
    run, place = tmp_path / "run", FakeEnvironment().make()
    with monkeypatch.context() as patched:
        patched.setattr(verify, "unavailable_reason", lambda group, **options: "it is elsewhere")
        first = search_networks(
            free(bench, post_search=PostSearch(pairs=8, export_top=3)), out=run, campaign_environment=place
        ).record
    assert exported == [item.arch_id for item in first.winners]
    record = search_networks(resume=run, campaign_environment=place).record
    assert record.measured_front is not None
    assert {item.arch_id for item in record.winners} <= set(record.measured_front)
    assert sorted(exported) == sorted({item.arch_id for item in (*first.winners, *record.winners)})
    assert "measured on" in (run / record.winners[0].folder / "card.md").read_text()


def test_without_onnxruntime_winners_have_no_graphs_and_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    exporter = SimpleNamespace(reporter=SimpleNamespace(message=texts.append))
    formats: Any = winners.WinnerExporter._onnx_formats
    assert formats(exporter, [1, 8]) == (("onnx", 1), ("onnx", 8))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert formats(exporter, [1, 8]) == ()
    (text,) = texts
    assert text.startswith("no ONNX graphs of the winners: onnxruntime must be installed")
    assert "hwnas[cpu]" in text
