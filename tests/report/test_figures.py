from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.report.figures import axes_of, axis_factor, axis_title, write_figures
from hwnas.report.gather import gather
from tests.report.example import LATENCY, OBJECTIVES, THROUGHPUT, Example, make_run


def names(paths: tuple[Path, ...]) -> list[str]:
    return sorted(path.name for path in paths)


def test_the_figures_of_a_run(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=120)))
    written = write_figures([data], tmp_path / "figures")
    assert names(written) == [
        "front.png",
        "front.svg",
        "hypervolume.png",
        "hypervolume.svg",
        "parity.png",
        "parity.svg",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written if path.suffix == ".png")
    text = (tmp_path / "figures" / "front.svg").read_text()
    assert "accuracy (%)" in text
    assert "front, measured" in text
    assert "DeiT-Ti" in text


def test_the_same_values_give_the_same_figure(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=60)))
    write_figures([data], tmp_path / "one")
    write_figures([data], tmp_path / "two")
    assert (tmp_path / "one" / "front.svg").read_bytes() == (tmp_path / "two" / "front.svg").read_bytes()


@pytest.mark.parametrize(
    ("example", "figures"),
    [
        (Example(count=60, objectives=("accuracy",), verified=False), ["front", "hypervolume"]),
        (Example(count=60, constraints=("macs<=1M",), verified=False), ["hypervolume", "parity"]),
        (Example(count=0, finished=False), []),
        (
            Example(count=60, objectives=(*OBJECTIVES, THROUGHPUT), label="$x_1$"),
            ["front", "hypervolume", "parity", "parity2"],
        ),
        (Example(count=60, references=False, predictor=False, verified=False), ["front", "hypervolume"]),
    ],
    ids=["one objective", "empty front", "nothing yet", "two device metrics", "no predictor"],
)
def test_what_a_run_has_is_drawn(tmp_path: Path, example: Example, figures: list[str]) -> None:
    data = gather(make_run(tmp_path / "run $1$", example))
    written = write_figures([data], tmp_path / "figures")
    assert [path.stem for path in written if path.suffix == ".svg"] == figures


@pytest.mark.parametrize(
    ("space", "title", "factor"), [("autoformer-tiny", "MACs (G)", 1e-9), ("autoformer-micro", "MACs (M)", 1e-6)]
)
def test_the_unit_of_an_axis_is_that_of_its_largest_value(
    tmp_path: Path, space: str, title: str, factor: float
) -> None:
    example = Example(
        space=space, count=30, objectives=("accuracy", "macs"), verified=False, predictor=False, references=False
    )
    _, across = axes_of(gather(make_run(tmp_path / "run", example)))
    assert axis_title(across) == title
    assert axis_factor(across) == factor
    assert axis_title(replace(across, largest=999.0)) == "MACs"


def test_several_runs_lie_over_each_other(tmp_path: Path) -> None:
    names = ["run_0", "a-very-long-name-" * 4 + "end", *(f"run_{number}" for number in range(2, 6))]
    runs = [gather(make_run(tmp_path / name, Example(count=60, seed=seed))) for seed, name in enumerate(names)]
    write_figures(runs, tmp_path / "figures")
    text = (tmp_path / "figures" / "front.svg").read_text()
    assert ">run_0<" in text
    assert "-very-long-name-end<" in text
    assert ">run_5<" in text


def test_a_run_of_another_device_is_not_left_out_in_silence(tmp_path: Path) -> None:
    speeds = {"one": LATENCY, "two": THROUGHPUT}
    runs = [
        gather(make_run(tmp_path / name, Example(count=60, objectives=("accuracy", speed))))
        for name, speed in speeds.items()
    ]
    write_figures(runs, tmp_path / "figures")
    assert ">two: other metrics or devices<" in (tmp_path / "figures" / "front.svg").read_text()


def test_known_networks_of_larger_pictures_do_not_stretch_the_axis(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "a", Example(count=60, space="autoformer-micro")))
    write_figures([data], tmp_path / "figures")
    assert data.record is not None
    assert data.record.reference_networks
    assert "DeiT" not in (tmp_path / "figures" / "front.svg").read_text()


def test_known_networks_of_all_runs_are_drawn_and_named_where_they_differ(tmp_path: Path) -> None:
    runs = [gather(make_run(tmp_path / name, Example(count=60, seed=seed))) for seed, name in enumerate(("one", "two"))]
    write_figures(runs, tmp_path / "same")
    same = (tmp_path / "same" / "front.svg").read_text()
    assert ">DeiT-Ti<" in same
    assert "DeiT-Ti (" not in same
    record = runs[1].record
    assert record is not None
    slower = tuple(
        replace(reference, metrics={key: 1.1 * value for key, value in reference.metrics.items()})
        for reference in record.reference_networks
    )
    write_figures([runs[0], replace(runs[1], record=replace(record, reference_networks=slower))], tmp_path / "other")
    other = (tmp_path / "other" / "front.svg").read_text()
    assert {f">DeiT-Ti ({name})<" in other for name in ("one", "two")} == {True}
