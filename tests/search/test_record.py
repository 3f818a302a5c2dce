import json
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.search.ledger import Budget
from hwnas.search.pareto import HypervolumeBounds
from hwnas.search.record import RECORD_FILE, ReferenceNetwork, SearchRecord, read_record, write_record
from hwnas.search.spec import PostSearch, PredictorSpec, SearchSpec, SupernetSpec, space_digest
from hwnas.space import SPACES
from hwnas.space.space import AnySpace

SPACE: AnySpace = SPACES.get("autoformer-micro").adapted(image_size=32, channels=3, num_classes=7)

SPEC = SearchSpec(
    space="autoformer-micro",
    image_size=32,
    channels=3,
    num_classes=7,
    space_digest=space_digest(SPACE),
    objectives=("accuracy", "macs"),
    constraints=("macs<=3e+06",),
    interval_confidence=0.9,
    strategy="nsga2",
    settings={"pool": 5},
    budget=Budget(evaluations=40),
    seed=3,
    predictors=(PredictorSpec(metric="latency_ms@x-4c", path=Path("predictors/x"), card_sha256="ab"),),
    supernet=SupernetSpec(
        path=Path("runs/train"),
        digest="abc",
        data_name="digits",
        data_fingerprint="f",
        num_images=360,
        compute="cpu",
        threads=1,
        matmul_backend="default",
    ),
    versions=("hwnas==0.1",),
    post_search=PostSearch(),
)

RECORD = SearchRecord(
    created_utc="2026-01-02T03:04:05+00:00",
    spec=SPEC,
    stop="evaluations",
    evaluations=40,
    candidates=60,
    satisfiable="constraints can be met: 1.0% of 2,000 sampled networks do",
    elapsed_s=1.5,
    bounds=HypervolumeBounds(ideal=(-1.0, 0.0), reference=(0.0, 3.3e6)),
    history=((20, 20, 0.25), (60, 40, 0.5)),
    random_history=None,
    supernet_health=None,
    predictor_cards={"latency_ms@x-4c": {"a": [1, {"b": None}]}},
    front=("0a", "0b"),
    measured_front=None,
    reference_networks=(
        ReferenceNetwork(
            name="DeiT-Ti", macs=1, params=2, metrics={"latency_ms@x-4c": 1.5}, measured=False, accuracy=None
        ),
    ),
    verification=None,
    winners=(),
    seeds=None,
    notes=("a note",),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    data = json.loads((tmp_path / RECORD_FILE).read_text())
    assert data["schema"] == "hwnas.search/2"
    assert data["spec"]["budget"] == {"evaluations": 40, "earlier": []}
    assert data["verification"] is None
    assert data["history"] == [[20, 20, 0.25], [60, 40, 0.5]]


def test_a_search_that_has_not_ended_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a search that has ended") as caught:
        read_record(tmp_path)
    assert caught.value.hint == f"hwnas search --resume {tmp_path}"


@pytest.mark.parametrize("text", ['{"schema": "hwnas.search/1"}', "[]", '{"objectives": []}'])
def test_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD_FILE).write_text(text)
    with pytest.raises(InputError, match=r"must be a record of schema hwnas\.search/2"):
        read_record(tmp_path)


def test_a_value_of_another_type_is_named(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    data = json.loads((tmp_path / RECORD_FILE).read_text())
    data["reference_networks"][0]["metrics"]["latency_ms@x-4c"] = "fast"
    (tmp_path / RECORD_FILE).write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"reference_networks\[0\].metrics.latency_ms@x-4c must be a number"):
        read_record(tmp_path)
