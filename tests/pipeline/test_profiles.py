from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.metrics import Deployment
from hwnas.pipeline.profiles import list_profiles, load_profile
from hwnas.records import Store
from tests.records.rows import MANIFEST, SESSION, failed, row

ROWS = (row(0), row(1), failed(2), *(row(number, process_id="b") for number in range(2)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "toy-2c" / "autoformer-micro", manifest=MANIFEST, session=SESSION) as store:
        for measurement in ROWS:
            store.append(measurement)
    Store(tmp_path / "toy-2c" / "empty", manifest=MANIFEST, session=SESSION).close()
    return tmp_path


def test_profiles_are_listed_with_what_they_hold(folder: Path) -> None:
    first, second = list_profiles(folder)
    assert (first.name, first.origin, first.num_networks, first.num_failed) == ("toy-2c/autoformer-micro", "own", 2, 1)
    assert (str(first.deployment), first.noise_floor) == ("toy-2c/onnxruntime/fp32/b1/t1", None)
    assert (second.name, second.num_networks) == ("toy-2c/empty", 0)


def test_a_profile_is_shown_in_full(folder: Path) -> None:
    details = load_profile("autoformer-micro", profiles=folder)
    assert details.manifest.sessions == (SESSION,)
    assert details.quality.num_repeated == 2
    assert [item.latency_ms for item in details.measurements] == pytest.approx([2.0] * 4, rel=1e-4)
    frame = load_profile(folder / "toy-2c" / "autoformer-micro").to_frame()
    assert list(frame["latency_ms"]) == [item.latency_ms for item in details.measurements]
    assert list(frame["network_id"]) == [item.subject.network_id for item in details.measurements]
    assert "4 measurements of 2 networks" in details._repr_html_()


def test_the_variable_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_PROFILES", str(folder))
    assert [item.name for item in list_profiles()] == ["toy-2c/autoformer-micro", "toy-2c/empty"]


def test_a_profile_of_another_name_is_an_error_with_the_nearest(folder: Path) -> None:
    with pytest.raises(InputError, match="profile 'autoformer-mikro' is not known") as caught:
        load_profile("autoformer-mikro", profiles=folder)
    assert caught.value.hint == "hwnas profiles show toy-2c/autoformer-micro"


def test_what_is_broken_is_a_row_with_its_problem(folder: Path) -> None:
    broken = folder / "toy-2c" / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    (folder / "rtx 4090" / "table").mkdir(parents=True)
    (folder / "rtx 4090" / "table" / "table.json").write_text("[]")
    old = folder / "toy-2c" / "empty"
    (old / "measurements.jsonl").write_text("{}\n")
    good, first, second, table = list_profiles(folder)
    assert (table.name, table.deployment) == ("rtx 4090/table", Deployment())
    assert "is not the manifest of a table" in str(table.problem)
    assert (good.name, good.problem) == ("toy-2c/autoformer-micro", None)
    assert (str(first.deployment), first.num_networks, first.created_utc) == ("toy-2c", 0, "")
    assert "manifest.json is not JSON" in str(first.problem)
    assert (second.deployment.runtime, second.num_networks) == ("onnxruntime", 0)
    assert "line 1 must hold a measurement" in str(second.problem)
    assert load_profile("autoformer-micro", profiles=folder).quality.num_networks == 2


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        list_profiles(tmp_path / "nowhere")
