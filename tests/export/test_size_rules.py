"""Inferred numbers of graphs, compared with the formulas that made them."""

from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwnas.export.size_rules import SizeRules

Sizes = Mapping[str, int | float]
WIDTHS = [
    {"embed": 192, "heads": 3, "hidden": 768, "tokens": 197, "rate": 0.0},
    {"embed": 216, "heads": 4, "hidden": 756, "tokens": 197, "rate": 0.1},
    {"embed": 240, "heads": 3, "hidden": 840, "tokens": 197, "rate": 0.2},
    {"embed": 192, "heads": 4, "hidden": 672, "tokens": 197, "rate": 0.05},
    {"embed": 216, "heads": 5, "hidden": 864, "tokens": 197, "rate": 0.3},
    {"embed": 256, "heads": 6, "hidden": 512, "tokens": 197, "rate": 0.4},
]
NEW = {"embed": 320, "heads": 8, "hidden": 1120, "tokens": 197, "rate": 0.15}
FORMULAS: dict[str, Callable[[Sizes], int | float]] = {
    "constant": lambda at: 3,
    "size": lambda at: at["embed"],
    "multiple": lambda at: 64 * at["heads"],
    "offset": lambda at: 2 * at["heads"] + 1,
    "product": lambda at: at["heads"] * at["embed"],
    "ratio": lambda at: 8 * at["hidden"] / at["embed"],
    "difference": lambda at: at["hidden"] - at["embed"],
    "scale": lambda at: (at["embed"] / 2) ** -0.25,
}


def rules(
    formula: Callable[[Sizes], int | float], rows: list[dict[str, int | float]], tolerance: float = 1e-6
) -> SizeRules:
    return SizeRules(rows, [[_exact(formula(row))] for row in rows], tolerances=[tolerance])


def _exact(number: int | float) -> int | float:
    return int(number) if number == int(number) else number


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_that_made_the_numbers_is_found(name: str) -> None:
    formula = FORMULAS[name]
    (found,) = rules(formula, WIDTHS).infer(NEW) or [-1]
    assert found == pytest.approx(_exact(formula(NEW)), rel=1e-12)
    assert isinstance(found, type(_exact(formula(NEW))))


def test_one_instance_answers_for_itself_alone() -> None:
    known = rules(FORMULAS["size"], WIDTHS[:1])
    assert known.infer(WIDTHS[0]) == [192]
    assert known.infer(WIDTHS[1]) is None


def test_a_choice_between_two_formulas_is_left_open() -> None:
    rows: list[dict[str, int | float]] = [{"a": size, "b": 2 * size} for size in (2, 3, 5)]
    assert rules(lambda at: at["b"], rows).infer({"a": 7, "b": 14}) == [14]
    assert rules(lambda at: at["b"], rows).infer({"a": 7, "b": 15}) is None


def test_what_never_changed_must_not_change_now() -> None:
    known = rules(FORMULAS["size"], WIDTHS)
    assert known.infer({**NEW, "tokens": 50}) is None


def test_a_constant_may_hide_a_ratio_that_never_changed() -> None:
    rows: list[dict[str, int | float]] = [
        {"heads": heads, "width": 64 * heads, "x": x} for heads, x in ((3, 5), (4, 9), (6, 6))
    ]
    known = rules(lambda at: at["width"] // at["heads"], rows)
    assert known.infer({"heads": 8, "width": 512, "x": 4}) == [64]
    assert known.infer({"heads": 8, "width": 256, "x": 4}) is None


def test_numbers_without_a_formula_are_never_answered() -> None:
    known = rules(lambda at: (7 * int(at["heads"]) ** 3) % 11 + int(at["embed"]) % 13, WIDTHS)
    assert known.infer(NEW) is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
def test_rounded_numbers_are_found_within_their_format(dtype: torch.dtype, tolerance: float) -> None:
    rows = [{**row, "head": head} for row, head in zip(WIDTHS, (8, 16, 24, 32, 48, 64), strict=True)]
    formula = lambda at: torch.tensor(at["head"] ** -0.5, dtype=dtype).item()  # noqa: E731
    (found,) = rules(formula, rows, tolerance).infer({**NEW, "head": 40}) or [-1]
    assert found == pytest.approx(40**-0.5, rel=1e-12)


def test_the_largest_whole_number_stays_exact() -> None:
    known = rules(lambda at: 2**63 - 1, WIDTHS)
    assert known.infer(NEW) == [2**63 - 1]


@given(
    rows=st.lists(st.tuples(*[st.integers(2, 400)] * 3), min_size=1, max_size=8),
    new=st.tuples(*[st.integers(2, 400)] * 3),
    formula=st.sampled_from(
        [lambda a, b, c: a, lambda a, b, c: 3 * a, lambda a, b, c: a * b, lambda a, b, c: a + c, lambda a, b, c: 7]
    ),
)
def test_an_answer_is_never_wrong(
    rows: list[tuple[int, ...]], new: tuple[int, ...], formula: Callable[..., int]
) -> None:
    sizes = [dict(zip("abc", row, strict=True)) for row in rows]
    answer = SizeRules(sizes, [[formula(*row)] for row in rows], tolerances=[1e-6]).infer(
        dict(zip("abc", new, strict=True))
    )
    assert answer in (None, [formula(*new)])
