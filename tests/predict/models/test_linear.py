import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from hwnas.predict.models.linear import fit_penalised

ALPHAS = np.logspace(-6, 3, 19)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(60, 12), (30, 80), (40, 39), (9, 1)])
def test_a_penalised_fit_is_that_of_scikit_learn(rows: int, columns: int, *, intercept: bool) -> None:
    rng = np.random.default_rng(rows)
    values = rng.normal(size=(rows, columns)) @ np.diag(rng.uniform(0.1, 3, columns)) + 2
    response = values @ rng.normal(size=columns) + 5 + rng.normal(size=rows)
    weights = rng.uniform(0.1, 2, rows)
    found = fit_penalised(values, response, weights=weights, alphas=ALPHAS, intercept=intercept)
    expected = RidgeCV(ALPHAS, fit_intercept=intercept).fit(values, response, sample_weight=weights)
    assert found.alpha == pytest.approx(expected.alpha_)
    assert found.coefficients == pytest.approx(expected.coef_, rel=1e-6, abs=1e-8)
    assert found.offset == pytest.approx(float(expected.intercept_), rel=1e-6)
    # A row's prediction moves with its own value by its leverage.
    moved = response + np.eye(rows)[0]
    again = fit_penalised(values, moved, weights=weights, alphas=np.array([found.alpha]), intercept=intercept)
    shift = values[0] @ (again.coefficients - found.coefficients) + again.offset - found.offset
    assert shift == pytest.approx(found.leverage[0], rel=1e-6)


def test_equal_columns_and_constant_ones_are_fitted() -> None:
    column = np.arange(20.0)
    values = np.column_stack([column, column, np.ones(20), np.zeros(20)])
    found = fit_penalised(values, 3 * column + 1, weights=np.ones(20), alphas=ALPHAS)
    assert values @ found.coefficients + found.offset == pytest.approx(3 * column + 1, abs=1e-4)
    assert found.coefficients[:2] == pytest.approx([1.5, 1.5], rel=1e-4)
