import json
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.search.hypervolume import Box
from hwnas.search.record import (
    FILE,
    Landmark,
    SearchRecord,
    SpentBudget,
    UsedPredictor,
    read_record,
    searched_space,
    write_record,
)

RECORD = SearchRecord(
    created_utc="2026-01-02T03:04:05+00:00",
    space="autoformer-micro",
    space_config={"image_size": 32, "channels": 3, "num_classes": 7},
    objectives=("accuracy", "macs"),
    constraints=("macs<=3e+06",),
    confidence=None,
    interval_confidence=0.9,
    strategy="nsga2",
    seed=3,
    budget=SpentBudget(evaluations=40, minutes=None),
    stop="evaluations",
    evaluations=40,
    candidates=60,
    satisfiable="satisfiable: yes, the smallest network",
    elapsed_s=1.5,
    box=Box(ideal=(-1.0, 0.0), reference=(0.0, 3.3e6)),
    history=((20, 20, 0.25), (60, 40, 0.5)),
    random_history=None,
    supernet="runs/train",
    supernet_digest="abc",
    data="digits",
    num_pictures=360,
    supernet_health=None,
    predictors=(UsedPredictor(metric="latency_ms@x-4c", path="predictors/x", card={"a": [1, {"b": None}]}),),
    front=("0a", "0b"),
    measured_front=None,
    landmarks=(
        Landmark(name="DeiT-Ti", macs=1, params=2, metrics={"latency_ms@x-4c": 1.5}, measured=False, accuracy=None),
    ),
    verification=None,
    kit=(),
    seeds=None,
    notes=("a note",),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    data = json.loads((tmp_path / FILE).read_text())
    assert data["schema"] == "hwnas.search/1"
    assert data["verification"] is None
    assert data["history"] == [[20, 20, 0.25], [60, 40, 0.5]]


def test_the_space_is_that_of_the_images_and_classes(tmp_path: Path) -> None:
    assert searched_space(RECORD).config.num_classes == 7
    assert searched_space(RECORD).name == "autoformer-micro"


def test_a_search_that_has_not_ended_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a search that has ended") as caught:
        read_record(tmp_path)
    assert caught.value.hint == f"hwnas search --resume {tmp_path}"


@pytest.mark.parametrize("text", ['{"schema": "hwnas.search/2"}', "[]", '{"objectives": []}'])
def test_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match="has another form"):
        read_record(tmp_path)


def test_a_value_of_another_type_is_named(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    data = json.loads((tmp_path / FILE).read_text())
    data["landmarks"][0]["metrics"]["latency_ms@x-4c"] = "fast"
    (tmp_path / FILE).write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"landmarks\[0\].metrics.latency_ms@x-4c must be a number"):
        read_record(tmp_path)
