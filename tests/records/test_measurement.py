import json
from dataclasses import replace

import pytest

from hwnas.errors import InputError
from hwnas.records import from_line, to_line
from tests.records.rows import failed, row


@pytest.mark.parametrize("measurement", [row(), failed(), replace(row(), subject=replace(row().subject, arch=None))])
def test_a_line_is_read_back_to_an_equal_measurement(measurement: object) -> None:
    assert from_line(to_line(measurement), source="x") == measurement  # type: ignore[arg-type]


def test_a_line_is_one_line_of_plain_json_with_raw_samples() -> None:
    line = to_line(row(ns=5))
    data = json.loads(line)
    assert "\n" not in line
    assert data["schema"] == "hwnas.measurement/2"
    assert data["samples"]["cpu_ns"][:4] == [5, 6, 7, 5]
    assert data["subject"]["arch"] == {"embed_dim": 8, "blocks": [{"num_heads": 1, "mlp_ratio": 2.5}, None]}
    assert "failure" not in data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("schema"), "line 3 must hold a measurement"),
        (lambda data: data.update(schema="hwnas.measurement/1"), "line 3 has an unsupported schema"),
        (lambda data: data.update(colour="red"), "line 3: measurement: key 'colour' is not known"),
        (lambda data: data.pop("seed"), r"line 3: measurement\.seed is missing"),
        (lambda data: data.update(seed=True), r"line 3: measurement\.seed must be a whole number"),
        (lambda data: data["subject"].update(arch=[1]), r"line 3: measurement\.subject\.arch must be a table"),
        (
            lambda data: data["samples"].update(wall_ns=[1.5]),
            r"line 3: measurement\.samples\.wall_ns\[0\] must be a whole number",
        ),
        (lambda data: data.update(subject=None), "line 3: measurement.subject must be a table"),
        (lambda data: data["samples"].update(wall_ns=[]), "line 3 must have a time for each run"),
        (lambda data: data["reference"].update(switches=[0]), "line 3 must have a time for each run"),
    ],
)
def test_a_wrong_line_is_an_error_that_names_it(change: object, message: str) -> None:
    data = json.loads(to_line(row()))
    change(data)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        from_line(json.dumps(data), source="line 3")


def test_what_is_no_json_is_an_error() -> None:
    with pytest.raises(InputError, match="line 3 is not JSON"):
        from_line("{", source="line 3")
