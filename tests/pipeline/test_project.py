"""The options that are proposed for images, a machine and a time."""

import pytest

from hwnas.devices import detect
from hwnas.pipeline import project
from hwnas.pipeline.project import Project, propose_project
from hwnas.pipeline.proposal import Proposal
from hwnas.pipeline.train import TrainingEstimate
from hwnas.progress import format_duration
from hwnas.train.options import TrainOptions, resolve_config

EPOCH_S = {"vitas-twins-mini-96": 600.0, "vitas-twins-mini-64": 580.0, "vitas-twins-micro": 20.0}
IMAGES, HELDOUT = 8000, 900


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The spaces that were timed, with images of 112 pixels."""
    spaces: list[str] = []

    def estimate(options: TrainOptions) -> TrainingEstimate:
        config = resolve_config(options, num_classes=10, num_images=IMAGES)
        spaces.append(str(config.space))
        steps = IMAGES // config.recipe.batch_size
        return TrainingEstimate(
            config=config,
            params=1,
            train_images=IMAGES,
            heldout_images=HELDOUT,
            test_images=0,
            steps_per_epoch=steps,
            seconds_per_step=EPOCH_S[spaces[-1]] / steps,
            memory_mb=1.0,
            notes=(),
        )

    monkeypatch.setattr(project, "estimate_training", estimate)
    monkeypatch.setattr(project, "open_images", lambda options: None)
    proposal = Proposal(space="vitas-twins-mini-96", image_side=112, on_gpu=False)
    monkeypatch.setattr(project, "propose_space", lambda data, machine: proposal)
    return spaces


def proposed(minutes: float) -> tuple[Project, str, int, int, int]:
    found = propose_project("digits", minutes=minutes, machine=detect())
    train, profile, search = (found.options[name] for name in ("train", "profile", "search"))
    assert found.options["fit"]["space"] == train["space"]
    assert found.options["fit"]["metric"] == ["latency_ms", *search["objective"]]  # type: ignore[misc]
    numbers = [table[key] for table, key in ((train, "epochs"), (profile, "samples"), (search, "budget"))]
    epochs, samples, budget = (int(str(number)) for number in numbers)
    return found, str(train["space"]), epochs, samples, budget


def test_all_commands_fit_into_the_time(timed: list[str]) -> None:
    for minutes in (14, 20, 40, 240):
        found, _, epochs, samples, budget = proposed(minutes)
        assert found.total_minutes <= minutes
        assert (epochs >= 10, samples >= 24, budget >= 24) == (True, True, True)


def test_a_smaller_space_is_timed_only_where_the_larger_one_has_no_ten_epochs(timed: list[str]) -> None:
    assert proposed(240)[1] == "vitas-twins-mini-96"
    assert timed == ["vitas-twins-mini-96"]
    timed.clear()
    found, space, epochs, _, _ = proposed(14)
    assert (space, found.proposal.space) == ("vitas-twins-micro", "vitas-twins-micro")
    assert 10 <= epochs < 20
    assert timed == ["vitas-twins-mini-96", "vitas-twins-micro"]  # mini-64 has nearly as many MACs as mini-96
    (note,) = [note for note in found.notes if note.startswith("vitas-twins-mini-96 suits the images, but takes about")]
    needed = float(note.rpartition(" ")[2])
    assert proposed(needed)[1] == "vitas-twins-mini-96"
    assert proposed(needed)[2] >= 10
    assert proposed(needed - 1)[1] == "vitas-twins-mini-64"


def test_the_time_of_all_epochs_is_named(timed: list[str]) -> None:
    found = proposed(14)[0]
    (note,) = [note for note in found.notes if note.startswith("epochs that fit into 14 minutes")]
    assert " of 20, all of them with --minutes " in note
    assert proposed(float(note.rpartition(" ")[2]))[2] == 20


def test_the_time_that_is_needed_is_named_where_nothing_fits(timed: list[str]) -> None:
    found, space, *numbers = proposed(3)
    assert (space, numbers) == ("vitas-twins-micro", [10, 24, 24])
    (note,) = [note for note in found.notes if note.startswith("3 minutes do not suffice: 10 epochs, 24 measured")]
    needed = float(note.rpartition(" ")[2])
    assert needed - 1 < found.total_minutes <= needed
    assert proposed(needed)[0].total_minutes <= needed


def test_a_network_of_the_search_can_be_fine_tuned_within_the_time(timed: list[str]) -> None:
    for minutes in (3, 240, 2400):
        found, _, epochs, _, _ = proposed(minutes)
        epoch = found.minutes["train"] / epochs
        assert found.minutes["train --arch"] == pytest.approx(min(20, epochs) * epoch)
        assert found.total_minutes == pytest.approx(sum(found.minutes.values()))


def test_the_file_has_the_times_that_are_printed(timed: list[str]) -> None:
    found = proposed(40)[0]
    line = found.to_toml().splitlines()[2]
    for name, minutes in {**found.minutes, "in all": found.total_minutes}.items():
        assert f"{name} {format_duration(60 * minutes)}" in line


@pytest.mark.parametrize(
    ("space", "side", "smaller"),
    [
        ("autoformer-tiny", 300, ["vitas-twins-mini-128", "vitas-twins-mini-96", "vitas-twins-mini-64"]),
        ("vitas-twins-mini-96", 112, ["vitas-twins-mini-64"]),
        ("vitas-twins-mini-64", 50, []),
    ],
)
def test_smaller_spaces_go_from_the_largest_images_to_the_smallest(space: str, side: int, smaller: list[str]) -> None:
    found = Proposal(space=space, image_side=side, on_gpu=False).smaller_spaces
    assert found == (*smaller, "vitas-twins-micro")
    assert Proposal(space="vitas-twins-micro", image_side=28, on_gpu=False).smaller_spaces == ()
