from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.report.facts import facts_of
from hwnas.report.gather import gather
from hwnas.report.page import render
from hwnas.report.training import MAX_POINTS
from hwnas.report.verdict import front_size, sentence, standing
from hwnas.search.record import read_record, write_record
from tests.report.example import Example, add_training, make_run

SMALL = Example(space="autoformer-micro", count=30)


def test_the_loss_of_the_supernet_is_read_from_its_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search", SMALL)
    assert gather(run).trainings == ()
    training = add_training(run, losses=[3.0, 2.0, 1.0])
    (curve,) = gather(run).trainings
    assert (curve.name, curve.steps, curve.losses) == ("supernet", (1, 2, 3), (3.0, 2.0, 1.0))

    with (training / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": "low"}\n{"step": 5, "loss": 1e300}\n{"step": 6, "loss": NaN}\n')
    assert gather(run).trainings == (curve,)
    (training / "supernet.safetensors").write_bytes(b"another training")
    assert gather(run).trainings == ()


def test_a_missing_training_is_noted_on_the_page_and_one_that_is_there_is_not(tmp_path: Path) -> None:
    run, note = make_run(tmp_path / "search", SMALL), "are not where the search recorded the supernet"
    add_training(run, losses=[2.0, 1.0])
    data = gather(run)
    assert note not in render([data])
    assert note in render([replace(data, trainings=())])


def test_a_point_of_a_long_training_is_the_mean_of_several_steps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search", SMALL)
    add_training(run, losses=[float(step % 2) for step in range(4 * MAX_POINTS)])
    (curve,) = gather(run).trainings
    assert curve.losses == (0.5,) * MAX_POINTS
    assert curve.steps[0] == 4


def test_networks_that_were_retrained_have_curves_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "search", SMALL)
    training = add_training(run, losses=[3.0])
    record = read_record(run)
    (winner,) = record.winners
    write_record(run, replace(record, winners=(replace(winner, test_accuracy=0.5),)))
    (run / winner.folder).mkdir(parents=True)
    training.rename(run / winner.folder / "training")
    assert [(curve.name, curve.losses) for curve in gather(run).trainings] == [(f"{winner.arch_id} retrained", (3.0,))]


def test_weights_that_cannot_be_read_leave_out_their_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "search", SMALL)
    add_training(run, losses=[3.0])
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "supernet.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    assert len(gather(run).trainings) == 1
    monkeypatch.setattr(Path, "open", refuse)
    assert gather(run).trainings == ()


@pytest.mark.parametrize(
    ("steps_s", "tile"),
    [
        ({}, ("time of the search", "14 min")),
        ({"search": 17.0, "measuring": 40.0, "exporting": 0.2}, ("time: search 17 s, measuring 40 s", "57 s")),
    ],
)
def test_the_time_of_a_run_is_that_of_all_its_steps(
    tmp_path: Path, steps_s: dict[str, float], tile: tuple[str, str]
) -> None:
    run = make_run(tmp_path / "search", SMALL)
    write_record(run, replace(read_record(run), steps_s=steps_s))
    assert tile in facts_of(gather(run)).summary


def test_the_front_has_one_size(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "search", Example(count=100)))
    count, searched = len(standing(data)), len(data.front)
    assert count < searched
    assert (f"on the measured front, of {searched}", str(count)) in facts_of(data).summary
    assert front_size(data) == f"{count} of the {searched} networks on the searched front are on the measured one"
    assert f"found {count} on the Pareto front" in sentence(data)
