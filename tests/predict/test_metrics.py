import numpy as np
import pytest
from sklearn.metrics import mean_absolute_percentage_error

from hwnas.errors import InputError
from hwnas.predict.metrics import best_spearman, coverage, scores


def test_scores_by_hand() -> None:
    measured = np.array([10.0, 20.0, 40.0, 80.0])
    found = scores(np.array([10.4, 18.0, 44.0, 60.0]), measured)
    assert found.count == 4
    assert found.mape == pytest.approx((0.04 + 0.1 + 0.1 + 0.25) / 4)
    assert found.mape == pytest.approx(mean_absolute_percentage_error(measured, [10.4, 18.0, 44.0, 60.0]))
    assert found.rmspe == pytest.approx(np.sqrt((0.04**2 + 0.1**2 + 0.1**2 + 0.25**2) / 4))
    assert found.median_error == pytest.approx(0.1)
    assert found.within_5 == 0.25
    assert found.within_10 == pytest.approx(0.75)
    assert found.max_error == pytest.approx(0.25)
    assert (found.spearman, found.kendall) == (1, 1)


def test_ranks_by_hand() -> None:
    found = scores(np.array([2.0, 1.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found.kendall == pytest.approx((5 - 1) / 6)


def test_equal_figures_have_no_rank_correlation() -> None:
    found = scores(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert (found.spearman, found.kendall) == (None, None)


def test_noise_decides_how_well_networks_can_be_ranked_at_best() -> None:
    figures = np.linspace(10, 20, 200)
    noise = np.random.default_rng(1).standard_normal(200) * 0.05
    measured_again = scores(figures, figures * np.exp(noise)).spearman
    floor = float(np.abs(np.exp(noise) - 1).mean())
    assert best_spearman(figures, noise_floor=floor) == pytest.approx(measured_again, abs=0.005)
    assert best_spearman(figures, noise_floor=1e-9) == 1
    assert best_spearman(np.ones(4), noise_floor=0.01) is None


def test_coverage_counts_both_ends() -> None:
    assert coverage(np.array([1.0, 1, 1]), np.array([2.0, 2, 2]), np.array([1.0, 2.0, 2.1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("predicted", "measured", "message"),
    [
        ([], [], "one prediction per measurement"),
        ([1.0], [1.0, 2.0], "one prediction per measurement"),
        ([np.nan], [1.0], "a prediction must be a finite number"),
        ([1.0], [0.0], "measurements must be above 0"),
    ],
)
def test_bad_input(predicted: list[float], measured: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scores(np.array(predicted), np.array(measured))
