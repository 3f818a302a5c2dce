"""The command that fine-tunes a network of a search."""

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.cli.app import run as hwnas
from hwnas.report.compact import run_values
from hwnas.report.finetuning import finetuning_command, finetuning_epochs
from hwnas.report.gather import gather
from hwnas.runs import Run
from hwnas.search.record import read_record, write_record
from tests.docs.test_pages import require_parsed
from tests.report.example import Example, add_training, make_run

SMALL = Example(space="autoformer-micro", count=40)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search in the working folder, with the run of its supernet beside it."""
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "search", SMALL)
    (run / "accuracies.jsonl").write_text("")
    describe(add_training(run, losses=[1.0]), {"recipe": {"epochs": 31}})
    return Path("runs/search")


def describe(training: Path, config: Mapping[str, object]) -> None:
    """Write the manifest of a training, which may have files already."""
    made = Run.create(training.parent / f"made-{time.time_ns()}", command=["hwnas", "train"], config=config)
    (made.path / "manifest.json").rename(training / "manifest.json")


def command(run: Path, arch_id: str = "2630918dcd7ef74e") -> str:
    return shlex.join(finetuning_command(run, read_record(run), arch_id))


TRAIN = "hwnas train --arch 2630918dcd7ef74e --supernet runs/search-training"


def test_the_command_has_the_supernet_and_a_run_of_its_own(run: Path) -> None:
    assert command(run) == f"{TRAIN} --epochs 20 --out runs/tuned-2630918d"
    require_parsed(shlex.split(command(run))[1:])


@pytest.mark.parametrize(("epochs", "expected"), [(1, 1), (12, 12), (20, 20), (500, 20)])
def test_a_fine_tuning_has_no_more_epochs_than_its_supernet(epochs: int, expected: int) -> None:
    assert finetuning_epochs(epochs) == expected


def test_epochs_are_those_that_the_supernet_was_trained_for_in_the_end(run: Path) -> None:
    training = run.parent / "search-training"
    config = {"recipe": {"epochs": 31}, "epochs_changes": [{"step": 5, "epochs": 7, "ends": False}]}
    describe(training, config)
    assert " --epochs 7 " in command(run)


def test_images_of_the_search_are_those_of_the_training(run: Path) -> None:
    record = read_record(run)
    assert record.spec.supernet is not None
    supernet = replace(record.spec.supernet, data="/images")
    write_record(run, replace(record, spec=replace(record.spec, supernet=supernet)))
    assert command(run) == f"{TRAIN} --data /images --epochs 20 --out runs/tuned-2630918d"


def test_a_search_elsewhere_names_the_file_of_an_exported_network(run: Path) -> None:
    (run / "accuracies.jsonl").unlink()
    assert command(run) == ""
    exported = run / "networks" / "2630918dcd7ef74e" / "arch.json"
    exported.parent.mkdir(parents=True)
    exported.write_text("{}")
    assert command(run).startswith(f"hwnas train --arch {exported} --supernet ")


def test_what_has_no_labels_or_is_retrained_is_not_fine_tuned(run: Path) -> None:
    record = read_record(run)
    winner = replace(record.winners[0], test_accuracy=0.5)
    assert finetuning_command(run, record, winner.arch_id)
    assert finetuning_command(run, replace(record, winners=(winner,)), winner.arch_id) == ()
    in_int8 = replace(winner, arch_id=f"{winner.arch_id}-openvino-int8")
    assert finetuning_command(run, replace(record, winners=(in_int8,)), winner.arch_id) == ()
    spec = replace(record.spec, objectives=("divergence", *record.spec.objectives[1:]))
    assert finetuning_command(run, replace(record, spec=spec), winner.arch_id) == ()
    spec = replace(record.spec, supernet=None, objectives=("params", *record.spec.objectives[1:]))
    assert finetuning_command(run, replace(record, spec=spec), winner.arch_id) == ()


def test_the_page_has_the_command_of_each_network(run: Path) -> None:
    data = gather(run)
    found = run_values(data)["finetuning"]
    assert found == [command(run, member.arch_id) for member in data.front]
    assert all(found)


def test_a_report_suggests_it_first_and_then_the_export_of_the_tuned_network(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def suggested() -> list[str]:
        assert hwnas(["report"]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("next: ", "or: "))]

    text = '[search]\nout = "runs/search"\n[train]\ndata = "digits-clutter"\nepochs = 20\n'
    Path("hwnas.toml").write_text(text)
    first, second = suggested()
    arch_id = second.split()[5]
    assert first == f"next: {command(run, arch_id)}"
    assert second == f"or: hwnas export runs/search --arch {arch_id} --out exported"
    Path("hwnas.toml").write_text(text.replace("-clutter", ""))  # these are not the images of the supernet
    assert suggested()[0] == f"next: {command(run, arch_id)} --data digits-clutter"
    tuned, supernet = run.parent / f"tuned-{arch_id[:8]}", read_record(run).spec.supernet
    assert supernet is not None
    tuned.mkdir()
    describe(tuned, {"supernet_digest": "of another supernet"})
    assert suggested()[0] == f"next: {command(run, arch_id)} --data digits-clutter"
    assert command(run, arch_id).endswith(f" --out runs/{tuned.name}-2")
    describe(tuned, {"supernet_digest": supernet.digest})
    assert suggested()[0] == f"next: hwnas train --out runs/{tuned.name} --resume"
    (tuned / "network.safetensors").write_bytes(b"weights")
    assert suggested()[0] == f"next: hwnas export runs/{tuned.name} --out exported-{tuned.name}"


def test_what_an_evaluation_suggests_after_a_search_is_its_report(run: Path) -> None:
    from hwnas.cli.following import finished_search

    training = run.parent / "search-training"
    assert finished_search(training) is None  # the manifest names another supernet
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["config"]["supernet"]["path"] = str(training.resolve())
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert finished_search(training) == run
    (run / "search.json").unlink()
    assert finished_search(training) is None
