import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search.objective import (
    Estimate,
    exact,
    make_objectives,
    parse_constraint,
    parse_objective,
    require_consistent,
    require_objectives,
)


def test_accuracy_and_macs_are_always_there() -> None:
    assert [str(o) for o in make_objectives(["throughput@h200"])] == ["accuracy", "macs", "throughput@h200"]
    assert [str(o) for o in make_objectives(["macs"], accuracy=False)] == ["macs"]
    assert [str(o) for o in make_objectives(["latency_ms"], accuracy=False, macs=False)] == ["latency_ms"]


def test_the_sign_flips_for_what_is_maximised() -> None:
    values = exact([1.0, 2.0])
    assert parse_objective("throughput").minimised(values).tolist() == [-1.0, -2.0]
    assert parse_objective("latency_ms").minimised(values).tolist() == [1.0, 2.0]
    assert parse_objective("throughput").value(-2.0) == 2.0
    assert parse_objective("macs").value(2.0) == 2.0


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("latency_ms<=8", "latency_ms<=8"),
        (" latency_ms@cpu <= 8 ms ", "latency_ms@cpu<=8"),
        ("macs<=1.4G", "macs<=1.4e+09"),
        ("accuracy>=75%", "accuracy>=0.75"),
        ("throughput@h200/b64>=1k", "throughput@h200/b64>=1000"),
    ],
)
def test_constraints_are_read(text: str, written: str) -> None:
    assert str(parse_constraint(text)) == written


def test_violation_is_a_share_of_the_bound() -> None:
    estimate = Estimate(np.array([8.0, 12.0, 4.0]), np.array([7.0, 11.0, 3.0]), np.array([9.0, 13.0, 5.0]))
    upper, lower = parse_constraint("latency_ms<=8"), parse_constraint("latency_ms>=8")
    assert upper.violation(estimate).tolist() == [0.0, 0.5, -0.5]
    assert upper.violation(estimate, confident=True).tolist() == [0.125, 0.625, -0.375]
    assert lower.violation(estimate).tolist() == [0.0, -0.5, 0.5]
    assert lower.violation(estimate, confident=True).tolist() == [0.125, -0.375, 0.625]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("latency_ms", "a constraint must be METRIC<=BOUND or METRIC>=BOUND", "latency_ms<=8"),
        ("latency_ms<8", "a constraint must be METRIC<=BOUND or METRIC>=BOUND", "latency_ms<=8"),
        ("throughput=>8", "a constraint must be METRIC<=BOUND or METRIC>=BOUND", "throughput>=8"),
        ("latency<=8", "metric of a constraint 'latency' is not known", "latency_ms<=8"),
        ("latency@cpu<8", "metric of a constraint 'latency' is not known", "latency_ms@cpu<=8"),
        ("1<=macs<=2", "a constraint must be METRIC<=BOUND or METRIC>=BOUND", "latency_ms<=8"),
        ("accuracy>=75", "no network has accuracy above 1", "accuracy>=75%"),
        ("accuracy>=101", "no network has accuracy above 1", "accuracy>=99%"),
        ("latency_ms<=3sec", "unit of latency_ms: 'sec' is not known", "latency_ms<=3s"),
        ("throughput@cpu>=3 parsec", "unit of throughput: 'parsec' is not known", "throughput@cpu>=3"),
        ("latency_ms<=0", "no network has latency_ms of 0 or less", None),
        ("params<=-3M", "no network has params of -3e+06 or less", None),
        ("speed<=8", "metric of a constraint 'speed' is not known", None),
    ],
)
def test_wrong_constraints_say_why(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(InputError) as error:
        parse_constraint(text)
    assert error.value.message == message
    assert error.value.hint == hint


def test_constraints_must_not_exclude_each_other() -> None:
    window = [parse_constraint("macs<=2G"), parse_constraint("macs>=2G")]
    require_consistent(window)
    with pytest.raises(InputError) as error:
        require_consistent([*window, parse_constraint("macs>=3G")])
    assert error.value.got == "macs>=3e+09 and macs<=2e+09"
    require_consistent([parse_constraint("latency_ms@cpu<=2"), parse_constraint("latency_ms@h200>=3")])


def test_objectives_are_distinct_and_there_is_one() -> None:
    with pytest.raises(InputError, match="a search needs at least one objective"):
        require_objectives(())
    with pytest.raises(InputError, match="an objective must not be named twice"):
        require_objectives([parse_objective("macs"), parse_objective("macs")])
