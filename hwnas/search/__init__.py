"""Multi-objective search over a space, without torch: callers provide the functions that evaluate networks."""

from hwnas.metrics import METRICS, Metric, parse_metric
from hwnas.search.objective import Constraint, Objective, make_objectives, parse_constraint, parse_objective

__all__ = [
    "METRICS",
    "Constraint",
    "Metric",
    "Objective",
    "make_objectives",
    "parse_constraint",
    "parse_metric",
    "parse_objective",
]
