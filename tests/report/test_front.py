import csv
import json
from pathlib import Path

import pytest

from hwnas.report.front import front_rows, write_front
from tests.report.example import LATENCY, Example, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "search-a", Example(count=120))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_columns_are_exactly_these(run: Path) -> None:
    names = list(front_rows(run)[0].cells())
    assert names == [
        "arch_id",
        "network_id",
        "accuracy",
        "macs",
        LATENCY,
        f"{LATENCY}_lower",
        f"{LATENCY}_upper",
        f"{LATENCY}_measured",
        "params",
        "macs_vs_deit_ti",
        f"{LATENCY}_vs_deit_ti",
        "params_vs_deit_ti",
        "outside",
        "verified",
        "arch",
    ]


def test_the_three_files_hold_the_same_rows(run: Path) -> None:
    paths = write_front(run)
    assert [path.name for path in paths] == ["front.csv", "front.json", "front.md"]
    rows = table(run / "front.csv")
    documents = json.loads((run / "front.json").read_text())
    lines = (run / "front.md").read_text().splitlines()
    assert len(rows) == len(documents) == len(front_rows(run))
    assert lines.count("## Reference networks") == 1
    assert sum(line.startswith("| ") for line in lines) == len(rows) + 2 + 4  # and DeiT-Ti and DeiT-S below
    for row, document in zip(rows, documents, strict=True):
        assert list(row) == list(document)
        assert row["arch_id"] == document["arch_id"]
        assert float(row[LATENCY]) == document[LATENCY]
        assert int(row["macs"]) == document["macs"]
        assert json.loads(row["arch"]) == document["arch"]


def test_relative_columns_take_the_measured_value(run: Path) -> None:
    row = front_rows(run)[1]
    measured = row.metrics[f"{LATENCY}_measured"]
    assert measured is not None
    assert row.relative[f"{LATENCY}_vs_deit_ti"] == pytest.approx(measured / 14.2)
    assert row.relative["params_vs_deit_ti"] == pytest.approx(row.params / 5_526_346)


def test_the_verdict_of_measuring_is_told(run: Path) -> None:
    verdicts = [row.verified for row in front_rows(run)]
    assert verdicts[:5] == [
        "measured",
        "measured",
        "measured, dominated",
        "failed: time-limit: the worker was ended ",
        "violates latency_ms<=99",
    ]


def test_without_verification_and_reference_networks_there_are_fewer_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", Example(count=60, verified=False, references=False, predictor=False))
    row = front_rows(run)[0]
    assert list(row.metrics) == ["accuracy", "macs", LATENCY, f"{LATENCY}_lower", f"{LATENCY}_upper"]
    assert row.relative == {}
    assert row.verified == "no"


def test_an_empty_front_has_a_header_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", Example(count=60, constraints=("macs<=1M",), verified=False))
    write_front(run)
    assert front_rows(run) == ()
    assert (run / "front.csv").read_text().startswith("arch_id,network_id,accuracy,macs,")
    assert len((run / "front.csv").read_text().splitlines()) == 1
    assert json.loads((run / "front.json").read_text()) == []


def test_a_table_in_markdown_survives_its_texts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a|b", Example(count=60, label="x | <b>\n"))
    write_front(run)
    text = (run / "front.md").read_text()
    assert "# Front of a\\|b" in text
    assert "the worker was ended x \\| &lt;b>" in text


def test_networks_of_small_pictures_are_not_set_beside_deit(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", Example(count=60, space="autoformer-micro"))
    assert not any("_vs_" in name for name in front_rows(run)[0].cells())
    write_front(run)
    said = "Nothing is compared with DeiT-Ti and DeiT-S, which take images of 224 pixels, these networks of 32."
    assert said in (run / "front.md").read_text()
