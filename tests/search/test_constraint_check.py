import pytest

from hwnas.errors import InputError
from hwnas.search.constraint_check import check_constraints, require_satisfiable
from hwnas.space import SPACES
from tests.search.toys import LATENCY, cheap, problem

SPACE = SPACES.get("autoformer-micro")
MACS = SPACE.costs(SPACE.encode([SPACE.smallest(), SPACE.largest()])).macs.tolist()


def test_no_cheap_constraint_is_always_met() -> None:
    assert check_constraints(problem(SPACE, "accuracy>=0.9"), cheap(SPACE)).satisfiable


def test_a_loose_constraint_is_met_by_a_share_of_networks() -> None:
    answer = check_constraints(problem(SPACE, f"macs<={MACS[1]}"), cheap(SPACE))
    assert str(answer) == "constraints can be met: 100.0% of 2,000 sampled networks do"


def test_the_smallest_network_alone_is_found() -> None:
    assert check_constraints(problem(SPACE, f"macs<={MACS[0]}"), cheap(SPACE)).satisfiable
    assert check_constraints(problem(SPACE, f"macs>={MACS[1]}"), cheap(SPACE)).satisfiable


def test_an_infeasible_bound_says_what_the_smallest_network_has() -> None:
    with pytest.raises(InputError) as error:
        require_satisfiable(problem(SPACE, f"macs<={MACS[0] - 1}"), cheap(SPACE))
    assert error.value.message == f"constraints cannot be met: the smallest network has macs {MACS[0]:,.6g}"
    with pytest.raises(InputError, match=f"the largest network has macs {MACS[1]:,.6g}".replace("+", r"\+")):
        require_satisfiable(problem(SPACE, f"macs>={MACS[1] + 1}"), cheap(SPACE))


def test_the_looser_constraint_that_an_error_suggests_can_be_met() -> None:
    (latency,) = cheap(SPACE)(SPACE.encode([SPACE.smallest()]))[LATENCY].mean
    with pytest.raises(InputError, match=rf"{LATENCY} {latency:,.6g} ms") as error:
        require_satisfiable(problem(SPACE, f"{LATENCY}<={latency / 2}"), cheap(SPACE))
    hint = str(error.value.hint)
    assert hint.startswith("--constraint 'latency_ms<=")
    bound = float(hint.rstrip("'").partition("<=")[2])
    assert latency <= bound <= 1.011 * latency


def test_confidence_can_make_it_infeasible() -> None:
    latency = cheap(SPACE)(SPACE.encode([SPACE.smallest()]))[LATENCY]
    text = f"{LATENCY}<={float(latency.mean[0]) * 1.0001}"
    loose = check_constraints(problem(SPACE, text), cheap(SPACE))
    strict = check_constraints(problem(SPACE, text, confident=True), cheap(SPACE))
    assert loose.satisfiable
    assert not strict.satisfiable


def test_a_needle_is_found_by_searching_for_it() -> None:
    space = SPACES.get("glit-tiny")
    published = space.encode([space.published["GLiT-T"]])
    costs = space.costs(published)
    macs, params = int(costs.macs[0]), int(costs.params[0])
    narrow = [
        f"macs<={macs * 1.0005}",
        f"macs>={macs * 0.9995}",
        f"params<={params * 1.002}",
        f"params>={params * 0.998}",
    ]
    answer = check_constraints(problem(space, *narrow), cheap(space))
    assert str(answer) == "constraints can be met, but none of 2,000 sampled networks does"


def test_constraints_that_cannot_be_met_together_say_so() -> None:
    answer = check_constraints(problem(SPACE, f"macs<={MACS[0]}", "params>=150k"), cheap(SPACE))
    assert (
        str(answer)
        == "constraints cannot be met: each constraint can be met, but no network was found that meets all of them"
    )
