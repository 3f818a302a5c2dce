import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.config import (
    Above,
    Between,
    FileName,
    UtcTime,
    dump_toml,
    from_mapping,
    load_json,
    load_toml,
    parse_json,
    require_valid,
    shown,
    to_mapping,
)
from hwnas.errors import InputError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    name: Literal["adamw", "sgd"] = "adamw"
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class Stage:
    width: int
    kernels: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Training:
    epochs: int
    data: Path
    resume: bool = False
    note: str = ""
    limit_ms: float | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)
    stages: tuple[Stage, ...] = ()
    steps: int = field(default=0, init=False)


MINIMAL = {"epochs": 3, "data": "images"}


def message(error: pytest.ExceptionInfo[InputError]) -> str:
    return str(error.value)


def refusal(data: object) -> str:
    with pytest.raises(InputError) as caught:
        from_mapping(Training, data)
    return message(caught)


# ------------------------------------------------------------------------------------------- reading


def test_defaults_fill_what_is_not_given() -> None:
    assert from_mapping(Training, MINIMAL) == Training(epochs=3, data=Path("images"))


def test_every_kind_of_value_is_read() -> None:
    data = {
        "epochs": 300,
        "data": "/sets/pets",
        "resume": True,
        "note": "first",
        "limit_ms": 2,
        "optimiser": {"name": "sgd", "rate": 0.5, "betas": [0, 1]},
        "stages": [{"width": 64}, {"width": 128, "kernels": [17, 31, 45]}],
    }
    assert from_mapping(Training, data) == Training(
        epochs=300,
        data=Path("/sets/pets"),
        resume=True,
        note="first",
        limit_ms=2.0,
        optimiser=Optimiser(name="sgd", rate=0.5, betas=(0.0, 1.0)),
        stages=(Stage(width=64), Stage(width=128, kernels=(17, 31, 45))),
    )


def test_a_whole_number_becomes_a_float_where_one_is_wanted() -> None:
    rate = from_mapping(Optimiser, {"rate": 1}).rate
    assert type(rate) is float
    assert rate == 1.0


def test_an_optional_value_may_be_null() -> None:
    assert from_mapping(Training, {**MINIMAL, "limit_ms": None}).limit_ms is None


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        from_mapping(Optimiser, {"beta": [0.9, 0.9]})
    assert message(caught) == (
        "Optimiser: key 'beta' is not known\n  got     beta\n  known   name, rate, betas\n  try     betas"
    )


def test_an_unknown_key_inside_is_named_with_its_path() -> None:
    assert refusal({**MINIMAL, "stages": [{"width": 1}, {"widht": 2}]}) == (
        "stages[1]: key 'widht' is not known\n  got     widht\n  known   width, kernels\n  try     width"
    )


def test_a_field_that_is_not_settable_is_not_a_key() -> None:
    assert refusal({**MINIMAL, "steps": 3}).startswith("Training: key 'steps' is not known")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "epochs is missing\n  got     only nothing"),
        ({"epochs": 1, "note": ""}, "data is missing\n  got     only epochs, note"),
        ({**MINIMAL, "stages": [{"kernels": []}]}, "stages[0].width is missing\n  got     only kernels"),
    ],
)
def test_a_missing_key_is_refused(data: object, text: str) -> None:
    assert refusal(data) == text


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"epochs": 3.0}, "epochs must be a whole number\n  got     3.0"),
        ({"epochs": True}, "epochs must be a whole number\n  got     true"),
        ({"epochs": "3"}, 'epochs must be a whole number\n  got     "3"'),
        ({"epochs": None}, "epochs must be a whole number\n  got     null"),
        ({"data": 7}, "data must be a path\n  got     7"),
        ({"resume": 1}, "resume must be true or false\n  got     1"),
        ({"note": ["a"]}, 'note must be a text\n  got     ["a"]'),
        ({"limit_ms": "fast"}, 'limit_ms must be a number\n  got     "fast"'),
        ({"limit_ms": False}, "limit_ms must be a number\n  got     false"),
        ({"optimiser": 3}, "optimiser must be a table of named values\n  got     3"),
        ({"optimiser": {"rate": "x"}}, 'optimiser.rate must be a number\n  got     "x"'),
        ({"optimiser": {"betas": [0.9]}}, "optimiser.betas must have 2 values\n  got     [0.9]"),
        ({"optimiser": {"betas": 0.9}}, "optimiser.betas must be a list\n  got     0.9"),
        ({"optimiser": {"betas": [0.9, "x"]}}, 'optimiser.betas[1] must be a number\n  got     "x"'),
        ({"stages": {"width": 3}}, 'stages must be a list\n  got     {"width": 3}'),
        ({"stages": [[]]}, "stages[0] must be a table of named values\n  got     []"),
        (
            {"stages": [{"width": 1, "kernels": [1, 2.5]}]},
            "stages[0].kernels[1] must be a whole number\n  got     2.5",
        ),
        (
            {"optimiser": {"name": "adam"}},
            "optimiser.name: 'adam' is not known\n  got     adam\n  known   adamw, sgd\n  try     adamw",
        ),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_path(changed: dict[str, object], text: str) -> None:
    assert refusal({**MINIMAL, **changed}) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_must_be_finite(value: float) -> None:
    assert refusal({**MINIMAL, "limit_ms": value}).startswith("limit_ms must be a finite number")


@pytest.mark.parametrize("data", [None, 3, "epochs", [("epochs", 3)]])
def test_settings_must_be_a_table(data: object) -> None:
    assert refusal(data).startswith("Training must be a table of named values")


def test_where_is_the_path_in_messages() -> None:
    with pytest.raises(InputError, match=r"^profiles\[3\].rate must be a number"):
        from_mapping(Optimiser, {"rate": "x"}, where="profiles[3]")


# ------------------------------------------------------------------------------------------- writing


def test_what_is_none_or_not_settable_is_not_written() -> None:
    assert to_mapping(Training(epochs=1, data=Path("a"))) == {
        "epochs": 1,
        "data": "a",
        "resume": False,
        "note": "",
        "optimiser": {"name": "adamw", "rate": 1e-3, "betas": [0.9, 0.999]},
        "stages": [],
    }


def test_toml_text() -> None:
    assert dump_toml(Training(epochs=1, data=Path("a"), note='say "x"', limit_ms=2.0)) == (
        'epochs = 1\ndata = "a"\nresume = false\nnote = "say \\"x\\""\nlimit_ms = 2.0\nstages = []\n\n'
        '[optimiser]\nname = "adamw"\nrate = 0.001\nbetas = [\n    0.9,\n    0.999,\n]\n'
    )


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
whole = st.integers(-(2**63) + 1, 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
optimisers = st.builds(
    Optimiser, name=st.sampled_from(["adamw", "sgd"]), rate=numbers, betas=st.tuples(numbers, numbers)
)
stages = st.builds(Stage, width=whole, kernels=st.lists(whole).map(tuple))
trainings = st.builds(
    Training,
    epochs=whole,
    data=st.from_regex(r"\A[a-z]+(/[a-z.]+[a-z])*\Z").map(Path),
    resume=st.booleans(),
    note=texts,
    limit_ms=st.none() | numbers,
    optimiser=optimisers,
    stages=st.lists(stages, max_size=3).map(tuple),
)


@given(trainings)
def test_toml_is_read_back_to_an_equal_value(tmp_path_factory: pytest.TempPathFactory, settings: Training) -> None:
    path = tmp_path_factory.getbasetemp() / "training.toml"
    path.write_text(dump_toml(settings), encoding="utf-8", newline="")
    assert load_toml(Training, path) == settings


@given(trainings)
def test_json_is_read_back_to_an_equal_value(settings: Training) -> None:
    text = json.dumps(to_mapping(settings))
    assert from_mapping(Training, parse_json(text, source="here")) == settings


@dataclass(frozen=True, kw_only=True)
class WithDefaultLimit:
    limit: int | None = 5


def test_none_in_place_of_a_default_is_read_back() -> None:
    settings = WithDefaultLimit(limit=None)
    assert from_mapping(WithDefaultLimit, to_mapping(settings)) == settings


# --------------------------------------------------------------------------------------------- files


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text("width = 64\nkernels = [3, 5]\n")
    assert load_toml(Stage, path) == Stage(width=64, kernels=(3, 5))


@pytest.mark.parametrize("text", ["width = ", "width = 1\nwidth = 2\n", "[a\n"])
def test_what_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stage.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_toml(Stage, path)
    assert caught.value.message == f"{path} is not TOML"
    assert re.search(r"at line \d|at end of document", str(caught.value.got))


def test_a_toml_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "optimiser.toml"
    path.write_text("rate = nan\n")
    with pytest.raises(InputError, match="rate must be a finite number\n  got     NaN"):
        load_toml(Optimiser, path)


@pytest.mark.parametrize("load", [load_json, lambda path: load_toml(Stage, path)])
def test_a_missing_file_is_named(tmp_path: Path, load: Any) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path / "gone")
    assert message(caught) == f"there is no file {tmp_path / 'gone'}"


@pytest.mark.parametrize("load", [load_json, lambda path: load_toml(Stage, path)])
def test_what_cannot_be_read_is_named(tmp_path: Path, load: Any) -> None:
    latin = tmp_path / "latin"
    latin.write_bytes("naïve".encode("latin-1"))
    for path in (tmp_path, latin):
        with pytest.raises(InputError) as caught:
            load(path)
        assert caught.value.message.startswith(f"{path} ")


def test_a_json_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, "é"]}', encoding="utf-8")
    assert load_json(path) == {"a": [1, 2.5, None, "é"]}


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^rows is empty, but it must hold JSON$"):
        parse_json(text, source="rows")


@pytest.mark.parametrize("text", ["{", "[1,]", "{'a': 1}", "nope", "1 2"])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text, source="rows")
    assert caught.value.message == "rows is not JSON"
    assert "line 1" in str(caught.value.got)


def test_json_too_deep_is_refused() -> None:
    with pytest.raises(InputError, match=r"^rows is nested too deeply to be read$"):
        parse_json("[" * 200_000, source="rows")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": 0}, {"a": 1, "b": 2, "a": 3}]'])
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="key 'a' occurs twice in one table"):
        parse_json(text, source="rows")


def test_the_same_key_in_two_tables_is_fine() -> None:
    assert parse_json('{"a": {"a": 1}, "b": {"a": 2}}', source="rows") == {"a": {"a": 1}, "b": {"a": 2}}


# -------------------------------------------------------------------------------------------- known bugs


def test_a_key_that_stands_twice_is_named_with_its_source() -> None:
    with pytest.raises(InputError, match="rows"):
        parse_json('{"a": 1, "a": 1}', source="rows")


def test_a_json_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(InputError, match="rows"):
        parse_json("1" * 5000, source="rows")


def test_a_toml_number_of_too_many_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text(f"width = {'1' * 5000}\n")
    with pytest.raises(InputError, match=r"stage\.toml"):
        load_toml(Stage, path)


def test_toml_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text(f"width = {'[' * 50_000}\n")
    with pytest.raises(InputError, match=r"stage\.toml"):
        load_toml(Stage, path)


def test_a_whole_number_beyond_floats_is_refused() -> None:
    assert refusal({**MINIMAL, "limit_ms": 10**400}).startswith("limit_ms must be a finite number")


@dataclass(frozen=True, kw_only=True)
class WithBits:
    bits: Literal[0, 1] = 0


@pytest.mark.parametrize("value", [True, 1.0])
def test_a_choice_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="bits"):
        from_mapping(WithBits, {"bits": value})


# ------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        (None, "null"),
        ({"a": [1]}, '{"a": [1]}'),
        (Path("a"), repr(Path("a"))),
        ({1, 2}, "{1, 2}"),
        ("x" * 78, f'"{"x" * 78}"'),
        ("x" * 79, f'"{"x" * 76}...'),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


@given(st.recursive(st.none() | st.text() | st.floats(), lambda inner: st.lists(inner)))
def test_what_is_shown_fits_a_line(value: object) -> None:
    assert len(shown(value)) <= 80
    assert "\n" not in shown(value)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_mapping(Optimiser, {}).rate = 2  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class Tables:
    sizes: Mapping[str, int]
    stages: Mapping[str, Stage] = field(default_factory=dict)
    anything: Mapping[str, Any] = field(default_factory=dict)


def test_tables_of_named_values_are_read_by_the_type_of_their_values() -> None:
    data = {"sizes": {"a": 1}, "stages": {"one": {"width": 3}}, "anything": {"x": [1, {"y": None}]}}
    read = from_mapping(Tables, data)
    assert read == Tables(sizes={"a": 1}, stages={"one": Stage(width=3)}, anything={"x": [1, {"y": None}]})
    assert from_mapping(Tables, to_mapping(read)) == read


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"a": "b"}, "sizes.a must be a whole number"), ([1], "sizes must be a table of named values")],
)
def test_a_wrong_value_in_a_table_is_named(sizes: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(Tables, {"sizes": sizes})


# -------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, kw_only=True)
class Bounded:
    device: FileName = "cpu"
    started: UtcTime = "2026-01-01T00:00:00+00:00"
    epochs: Annotated[int, Between(1, 100)] = 1
    rate: Annotated[float, Above(0)] | None = None
    shares: tuple[Annotated[float, Between(0, 1)], ...] = ()
    budget: Annotated[int, Between(1, 9)] | Literal["all"] = "all"

    def __post_init__(self) -> None:
        require_valid(self)


HOSTILE: list[tuple[str, object, str]] = [
    ("device", "../evil", "device must have 1 to 100 letters"),
    ("started", "yesterday", "started must be a time"),
    ("started", "9999-99-99", "started must be a time"),
    ("epochs", "3", "epochs must be a whole number"),
    ("epochs", 1.5, "epochs must be a whole number"),
    ("epochs", 0, "epochs must be between 1 and 100"),
    ("epochs", 10**30, "whole number|between"),
    ("rate", 0.0, "rate must be greater than 0"),
    ("rate", math.nan, "rate must be"),
    ("rate", math.inf, "rate must be"),
    ("shares", (0.5, 1.5), r"shares\[1\] must be between 0 and 1"),
    ("budget", 10, "budget must be between 1 and 9"),
]


@pytest.mark.parametrize(("name", "value", "text"), HOSTILE)
def test_rules_of_fields_hold_for_files_and_for_objects(name: str, value: Any, text: str) -> None:
    plain = list(value) if isinstance(value, tuple) else value
    with pytest.raises(InputError, match=text):
        from_mapping(Bounded, {name: plain})
    with pytest.raises(InputError, match=text):
        Bounded(**{name: value})


def test_values_within_the_rules_are_accepted() -> None:
    values = {"device": "a100", "epochs": 100, "rate": 0.1, "shares": [0, 1.0], "budget": 9}
    assert from_mapping(Bounded, values) == Bounded(device="a100", epochs=100, rate=0.1, shares=(0.0, 1.0), budget=9)


def test_a_whole_number_has_at_most_64_bits() -> None:
    with pytest.raises(InputError, match="epochs must be a whole number of at most 19 digits"):
        from_mapping(Training, {**MINIMAL, "epochs": 10**19})
    with pytest.raises(InputError, match="kernels"):
        from_mapping(Stage, {"width": 1, "kernels": [1, -(10**19)]})


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', r'{"a": "\u0000"}', r'["\ud800"]', "1" * 5000])
def test_json_that_no_file_of_ours_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not JSON"):
        parse_json(text, source="file")


def test_escaped_characters_are_read() -> None:
    assert parse_json(r'["\ud83d\ude00", "\\u0000"]', source="file") == ["\U0001f600", r"\u0000"]
