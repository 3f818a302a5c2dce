import json
from dataclasses import replace

import pytest

from hwnas.errors import InputError
from hwnas.records import from_line, to_line
from tests.records.rows import failed, row


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value, 1] if level % 2 else {"a": value}
    return value


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
        (lambda data: data["samples"].update(wall_ns=[]), r"line 3: measurement\.samples: samples must have a time of"),
        (lambda data: data["reference"].update(switches=[0]), "reference: samples must have a time of each clock"),
        (lambda data: data["samples"]["wall_ns"].__setitem__(0, 0), "the time of a run must be between 1 and"),
        (lambda data: data["samples"]["cpu_ns"].__setitem__(0, -5), "the time of a run must be between 1 and"),
        (lambda data: data["samples"]["wall_ns"].__setitem__(0, 10**18), "the time of a run must be between 1 and"),
        (lambda data: data["samples"]["wall_ns"].__setitem__(0, 10**30), "must be a whole number of at most 19 digits"),
        (lambda data: data["samples"]["switches"].__setitem__(0, -1), "context switches must be at least 0"),
        (lambda data: data["samples"].update(loop_ns=[1]), "samples must have a time of each clock"),
        (lambda data: data["samples"].update(quickest_loop_ns=1), "the times of the loop and the shortest of all"),
        (lambda data: data["samples"].update(runs_per_sample=0), r"samples\.runs_per_sample must be between"),
        (
            lambda data: data.update(samples=None),
            "must have samples of the network and the reference",
        ),
        (lambda data: data["subject"]["arch"].update(a=nested(70)), "line 3 is nested too deeply"),
        (lambda data: data.update(seed=-1), r"measurement\.seed must be between 0 and"),
        (lambda data: data.update(seed=2**64), r"measurement\.seed must be a whole number of at most 19 digits"),
        (lambda data: data.update(started_utc="yesterday"), r"measurement\.started_utc must be a time such as"),
        (lambda data: data.update(started_utc="9999-99-99"), r"measurement\.started_utc must be a time such as"),
        (lambda data: data.update(duration_s=-1.0), r"measurement\.duration_s must be between 0 and"),
        (
            lambda data: data["subject"].update(image_size=10**19),
            r"subject\.image_size must be a whole number of",
        ),
        (lambda data: data["subject"].update(num_classes=0), r"subject\.num_classes must be between 1 and"),
        (lambda data: data["parity"].update(top1_agreement=1.5), r"parity\.top1_agreement must be between 0 and 1"),
        (lambda data: data["setting"].update(exporter="a/b"), r"setting\.exporter must have 1 to 100 letters"),
        (
            lambda data: data["setting"]["deployment"].update(device="../x"),
            r"deployment\.device must have 1 to 100",
        ),
        (lambda data: data["setting"]["deployment"].update(batch=10**9), r"deployment\.batch must be between 1 and"),
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
