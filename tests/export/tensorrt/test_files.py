import dataclasses
import json
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.export.tensorrt import (
    BuiltEngine,
    EngineSettings,
    TimingCache,
    build_engine,
    load_engine,
    read_engine,
    save_engine,
)
from tests.export.tensorrt.conftest import GPU, Double
from tests.export.tensorrt.graphs import small_graph


@pytest.fixture
def built(double: Double, tmp_path: Path) -> BuiltEngine:
    settings = EngineSettings(batch=2, timing_cache=TimingCache(path=tmp_path / "timing.cache"))
    return build_engine(small_graph(), settings, gpu=GPU)


def test_an_engine_comes_back_as_it_was(built: BuiltEngine, tmp_path: Path) -> None:
    files = save_engine(built, tmp_path / "new" / "small.engine")
    assert sorted(path.name for path in files.engine.parent.iterdir()) == [
        "small.engine",
        "small.engine.json",
        "small.engine.layers.json",
    ]
    assert read_engine(files.engine) == built
    assert load_engine(files.engine, gpu=GPU) == built


def test_an_engine_without_a_card_is_not_loaded(newest: Double, tmp_path: Path) -> None:
    path = tmp_path / "foreign.engine"
    path.write_bytes(b"an engine of another tool")
    with pytest.raises(InputError, match=r"must have its card foreign\.engine\.json next to it"):
        load_engine(path, gpu=GPU)


@pytest.mark.parametrize("suffix", ["", ".layers.json"])
def test_a_changed_file_is_not_loaded(built: BuiltEngine, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "small.engine"
    save_engine(built, path)
    changed = path.with_name(path.name + suffix)
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="must have the hash on its card"):
        load_engine(path, gpu=GPU)


def test_a_set_that_was_left_half_written_is_not_loaded(built: BuiltEngine, tmp_path: Path) -> None:
    path = tmp_path / "small.engine"
    save_engine(built, path)
    path.write_bytes(built.engine + b"a newer engine, whose card was not written")
    with pytest.raises(InputError, match="must have the hash on its card"):
        load_engine(path, gpu=GPU)


@pytest.mark.parametrize("name", ["small.engine", "small.engine.layers.json"])
def test_a_missing_file_is_named(built: BuiltEngine, tmp_path: Path, name: str) -> None:
    save_engine(built, tmp_path / "small.engine")
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"there is no file .*{name}"):
        load_engine(tmp_path / "small.engine", gpu=GPU)


def test_an_engine_of_another_version_is_not_loaded(built: BuiltEngine, tmp_path: Path) -> None:
    card = dataclasses.replace(built.card, tensorrt="10.9.0.34")
    save_engine(dataclasses.replace(built, card=card), tmp_path / "small.engine")
    with pytest.raises(InputError, match="must be built by the installed TensorRT") as caught:
        load_engine(tmp_path / "small.engine", gpu=GPU)
    assert caught.value.got == "10.9.0.34"


@pytest.mark.parametrize("change", [{"reported": "NVIDIA A100-SXM4-80GB"}, {"compute_capability": "8.0"}])
def test_an_engine_of_another_gpu_is_not_loaded(built: BuiltEngine, tmp_path: Path, change: dict[str, str]) -> None:
    save_engine(built, tmp_path / "small.engine")
    other = dataclasses.replace(GPU, **change)
    with pytest.raises(InputError, match="must be built for the GPU of this machine"):
        load_engine(tmp_path / "small.engine", gpu=other)


def test_another_driver_is_no_reason(built: BuiltEngine, tmp_path: Path) -> None:
    save_engine(built, tmp_path / "small.engine")
    other = dataclasses.replace(GPU, driver="610.2", cuda="13.3")
    assert load_engine(tmp_path / "small.engine", gpu=other) == built


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", "is not the card of an engine that hwnas built"),
        ('{"schema": "hwnas.engine/9"}', 'has an unsupported schema\n  got     "hwnas.engine/9"\n'),
        ('{"schema": "hwnas.engine/1"}', "created_utc is missing"),
    ],
)
def test_a_bad_card_is_refused(built: BuiltEngine, tmp_path: Path, text: str, message: str) -> None:
    files = save_engine(built, tmp_path / "small.engine")
    files.card.write_text(text)
    with pytest.raises(InputError, match=message):
        load_engine(files.engine, gpu=GPU)


def test_the_card_is_plain_json(built: BuiltEngine, tmp_path: Path) -> None:
    files = save_engine(built, tmp_path / "small.engine")
    card = json.loads(files.card.read_text())
    assert card["schema"] == "hwnas.engine/1"
    assert card["settings"]["precision"] == "fp32"
    assert card["settings"]["timing_cache"]["use"] == "extend"
    assert card["timing_cache"]["before"] is None or len(card["timing_cache"]["before"]) == 64


def test_a_folder_that_cannot_be_made_is_named(built: BuiltEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be a folder"):
        save_engine(built, tmp_path / "file" / "small.engine")
