"""The networks that rules choose, on five fronts: three of the tables of papers, and two that are made up."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import InputError, UnknownNameError
from hwnas.metrics import Metric, parse_metric
from hwnas.search.choice import MOST_ERRORS, PICKS, Pick, balanced

ACCURACY, MACS = Metric(name="accuracy"), Metric(name="macs")
THROUGHPUT = parse_metric("throughput@h200/torch-graph/bf16/b64")

FRONTS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    # Made up, in the form of a front of the demo: accuracy, images per second.
    "demo": (
        [
            0.7516,
            0.7424,
            0.7412,
            0.7304,
            0.7120,
            0.7076,
            0.7048,
            0.7028,
            0.6960,
            0.6796,
            0.6592,
            0.6308,
            0.5924,
            0.4564,
        ],
        [2320, 2477, 2597, 2727, 3037, 3460, 3614, 3698, 3971, 4070, 4286, 4517, 4950, 5648],
    ),
    # DeiT-Ti, S and B in images per second of a V100, Touvron et al. 2021, table 5.
    "DeiT": ([0.722, 0.798, 0.818], [2536.5, 940.4, 292.3]),
    # AutoFormer-T, S and B, Chen et al. 2021, table 5: the reciprocal of G MACs stands for speed.
    "AutoFormer": ([0.747, 0.817, 0.824], [1 / 1.3, 1 / 5.1, 1 / 11.0]),
    # EfficientNet B0 to B7, Tan and Le 2019, table 2: the reciprocal of G MACs stands for speed.
    "EfficientNet": (
        [0.771, 0.791, 0.801, 0.816, 0.829, 0.836, 0.840, 0.843],
        [1 / 0.39, 1 / 0.70, 1 / 1.0, 1 / 1.8, 1 / 4.2, 1 / 9.9, 1 / 19, 1 / 37],
    ),
    # Made up: nearly all images are classified correctly.
    "saturated": ([0.9990, 0.9988, 0.9985, 0.9980, 0.99, 0.95], [100, 300, 900, 1000, 1100, 1200]),
}
CHOSEN = {"demo": 8, "DeiT": 1, "AutoFormer": 1, "EfficientNet": 4, "saturated": 1}


def values_of(
    accuracies: Sequence[float], speeds: Sequence[float]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([accuracies, speeds], dtype=np.float64).T


def test_limits_name_metrics_of_the_search_and_their_deployment_once_it_is_known() -> None:
    pick = Pick.parse("throughput@cpu>=9000")
    pick.require_known((ACCURACY, THROUGHPUT), resolved=False)
    with pytest.raises(UnknownNameError, match="throughput@cpu"):
        pick.require_known((ACCURACY, THROUGHPUT), resolved=True)
    Pick.parse("throughput@h200>=9000").require_known((ACCURACY, THROUGHPUT), resolved=True)


@pytest.mark.parametrize("name", FRONTS)
def test_the_balanced_network_of_a_front(name: str) -> None:
    values = values_of(*FRONTS[name])
    row = balanced([ACCURACY, THROUGHPUT], values)
    assert row == CHOSEN[name]
    # The same in latencies, in other units of speed, and in another order.
    latency = parse_metric("latency_ms@h200")
    assert balanced([ACCURACY, latency], np.stack([values[:, 0], 7 / values[:, 1]], axis=1)) == row
    backwards = balanced([ACCURACY, THROUGHPUT], values[::-1])
    assert backwards is not None
    assert len(values) - 1 - backwards == row
    # MACs beside a measured speed have no part in it.
    assert balanced([ACCURACY, MACS, THROUGHPUT], np.insert(values, 1, 1e9 * values[:, 0] ** 9, axis=1)) == row


@pytest.mark.parametrize("name", FRONTS)
def test_fast_networks_with_more_errors_than_users_give_change_nothing(name: str) -> None:
    values = values_of(*FRONTS[name])
    fast = [1 - 1.01 * MOST_ERRORS * max(1 - values[:, 0].max(), 1e-3), 50 * values[:, 1].max()]
    assert balanced([ACCURACY, THROUGHPUT], np.vstack([values, fast])) == CHOSEN[name]


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1e-3, 1e9)), min_size=1, max_size=30),
)
def test_a_balanced_network_has_few_errors_and_is_not_dominated(points: list[tuple[float, float]]) -> None:
    values = np.array(points)
    row = balanced([ACCURACY, THROUGHPUT], values)
    assert row is not None
    fewest = max(1 - values[:, 0].max(), 1e-3)
    assert 1 - values[row, 0] <= MOST_ERRORS * fewest * (1 + 1e-6)
    faster = values[:, 1] > values[row, 1] * (1 + 1e-6)
    assert not (faster & (np.maximum(1 - values[:, 0], 1e-3) <= max(1 - values[row, 0], 1e-3) * (1 - 1e-6))).any()


def test_what_is_unknown_is_not_chosen() -> None:
    values = np.array([[np.nan, 100.0], [0.7, 10.0], [0.9, np.nan]])
    assert balanced([ACCURACY, THROUGHPUT], values) == 1
    assert balanced([ACCURACY, THROUGHPUT], values[:1]) is None
    assert balanced([ACCURACY, THROUGHPUT], values[:0]) is None


def test_of_two_that_users_would_take_it_is_the_faster_one() -> None:
    assert balanced([ACCURACY, THROUGHPUT], values_of([0.80, 0.75], [100, 200])) == 1
    assert balanced([ACCURACY, THROUGHPUT], values_of([0.80, 0.65], [100, 200])) == 0


def test_without_accuracy_it_is_the_knee_of_all_objectives() -> None:
    values = np.array([[1.0, 9.0], [2.0, 2.0], [9.0, 1.0]])
    assert balanced([MACS, parse_metric("latency_ms@h200")], values) == 1
    assert balanced([Metric(name="divergence"), MACS], values) == 1
    assert balanced([ACCURACY], np.array([[0.1], [0.3], [0.2]])) == 1


COLUMNS = {ACCURACY: np.array([0.9, 0.85, 0.5]), THROUGHPUT: np.array([10.0, 90.0, 100.0])}


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("balanced", 1),
        ("Accuracy", 0),
        ("fast", 2),
        ("throughput>=95", 2),
        ("throughput>=50,accuracy>=80%", 1),
        ("throughput@h200>=50", 1),
        ("throughput>=1k", None),
    ],
)
def test_a_rule_chooses_a_row(text: str, row: int | None) -> None:
    assert Pick.parse(text).choose([ACCURACY, THROUGHPUT], COLUMNS) == row


def test_a_rule_that_no_row_meets_has_a_looser_one_on_the_same_device() -> None:
    best, looser = Pick.parse("throughput@h200>=1k").looser(COLUMNS)
    assert (best, str(looser)) == ("throughput@h200 of 100 images/s at best", "throughput@h200>=100")
    best, looser = Pick.parse("accuracy>=95%,throughput>=95").looser(COLUMNS)
    assert (best, looser) == ("accuracy of 90.00% at best", None)
    unknown = {ACCURACY: COLUMNS[ACCURACY], MACS: np.full(3, np.nan)}
    assert Pick.parse("macs<=1").looser(unknown) == ("", None)


def test_rules_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="pick 'balance' is not known") as caught:
        Pick.parse("balance")
    assert caught.value.hint == "--pick balanced"
    assert set(PICKS) < set(caught.value.known)
    with pytest.raises(UnknownNameError, match="metric of the search 'energy_j' is not known"):
        Pick.parse("energy_j<=1").choose([ACCURACY, THROUGHPUT], COLUMNS)
    with pytest.raises(InputError, match="must have had accuracy"):
        Pick.parse("accuracy").choose([THROUGHPUT], COLUMNS)
