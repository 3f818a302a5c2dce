import inspect
import re
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas import errors
from hwnas.errors import HwnasError, InputError, UnknownNameError, nearest, unknown

METRICS = ("accuracy", "energy_j", "latency_ms", "macs", "memory_mb", "params", "throughput")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError, 1),
        (errors.UnknownNameError, 1),
        (errors.UsageError, 2),
        (errors.MissingError, 3),
        (errors.CheckFailedError, 4),
        (errors.HwnasError, 70),
    ],
)
def test_every_error_has_its_exit_code(error: type[HwnasError], code: int) -> None:
    assert error("no").exit_code == code


def test_exit_codes_of_what_is_no_error_of_ours() -> None:
    assert (errors.EXIT_BUG, errors.EXIT_SIGNAL + signal.SIGINT) == (70, 130)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {name: int(code) for name, code in re.findall(r"── (\w+) +(\d+)", inspect.getdoc(errors) or "")}
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass)]
    real = {item.__name__: item.exit_code for item in classes if issubclass(item, HwnasError)}
    del real["HwnasError"]
    assert drawn == real


def test_a_name_error_is_an_input_error() -> None:
    assert issubclass(UnknownNameError, InputError)


def test_message_layout() -> None:
    error = unknown("--objective", "thruput", METRICS, hint="hwnas search --objective {}")
    assert f"error: {error}" == (
        "error: --objective 'thruput' is not known\n"
        "  got     thruput\n"
        "  known   accuracy, energy_j, latency_ms, macs, memory_mb, params, throughput\n"
        "  try     hwnas search --objective throughput"
    )


def test_a_bare_message_is_one_line() -> None:
    assert str(InputError("the folder holds no images")) == "the folder holds no images"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("m", got=0), "m\n  got     0"),
        (InputError("m", got=False), "m\n  got     False"),
        (InputError("m", known=[1, 2]), "m\n  known   1, 2"),
        (InputError("m", known=iter("ab")), "m\n  known   a, b"),
        (InputError("m", hint="hwnas doctor"), "m\n  try     hwnas doctor"),
    ],
)
def test_only_what_is_given_is_printed(error: HwnasError, text: str) -> None:
    assert str(error) == text


def test_parts_are_kept_for_programs() -> None:
    error = unknown("space", "x1", ("a", "b"))
    assert (error.message, error.got, error.known, error.hint) == (
        "space 'x1' is not known",
        "x1",
        ("a", "b"),
        None,
    )


@pytest.mark.parametrize(
    ("count", "end"),
    [(24, "n22, n23"), (25, "n23, and 1 more"), (100, "n23, and 76 more")],
)
def test_a_long_list_of_choices_is_cut(count: int, end: str) -> None:
    error = InputError("m", known=[f"n{index}" for index in range(count)])
    assert str(error).startswith("m\n  known   n0, n1, ")
    assert str(error).endswith(end)


@pytest.mark.parametrize(
    ("got", "near"),
    [
        ("thruput", "throughput"),
        ("MACS", "macs"),
        ("latency", "latency_ms"),
        ("zzz", None),
        ("", None),
    ],
)
def test_nearest(got: str, near: str | None) -> None:
    assert nearest(got, METRICS) == near


def test_nearest_keeps_the_case_of_the_choice() -> None:
    assert nearest("autoformer-t", ["AutoFormer-T", "GLiT-T"]) == "AutoFormer-T"


def test_nearest_of_nothing_is_nothing() -> None:
    assert nearest("macs", []) is None


@given(known=st.lists(st.text(min_size=1, max_size=60), min_size=1, unique_by=str.casefold), data=st.data())
def test_a_name_is_nearest_to_itself(known: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(known))
    assert nearest(name, known) == name


@given(got=st.text(), known=st.lists(st.text()))
def test_what_is_proposed_can_be_chosen(got: str, known: list[str]) -> None:
    near = nearest(got, known)
    assert near is None or near in known


def test_a_message_can_be_printed_and_is_not_endless() -> None:
    error = InputError("a name\0must fit", got="\ud800" + "x" * 10**7, hint="first\n  second")
    text = str(error)
    text.encode()
    assert text.startswith("a name\\x00must fit\n  got     \\ud800xxx")
    assert text.endswith("x... (10,000,001 characters)\n  try     first\n  second")
    assert len(text) < 2_200


def test_a_name_without_end_is_like_no_other() -> None:
    assert nearest("x" * 10**7, ["x"]) is None
    assert unknown("space", "y" * 10**7, ["x"]).hint is None
