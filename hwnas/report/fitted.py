"""Networks of a front outside the fitted range of a predictor."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hwnas.errors import HwnasError
from hwnas.metrics import parse_metric
from hwnas.search.spec import PredictorSpec, SearchSpec
from hwnas.space.space import AnySpace, Genomes


def outside_range(run: Path, spec: SearchSpec, space: AnySpace, front: Genomes) -> Mapping[str, Sequence[int]]:
    """By metric, the places in the front; metrics whose predictor is not here any more, or is another, are left out.

    A predictor is looked for where the search found it, seen from here and from the run.
    """
    found = {}
    for used in spec.predictors:
        tried = (_outside(folder / used.path, used, space, front) for folder in (Path(), run))
        places = next((found for found in tried if found is not None), None)
        if places is not None:
            found[used.metric] = places
    return found


def _outside(folder: Path, used: PredictorSpec, space: AnySpace, front: Genomes) -> tuple[int, ...] | None:
    from hwnas.predict.card import CARD
    from hwnas.predict.predictor import Predictor

    if not (folder / CARD).is_file():
        return None
    try:
        predictor = Predictor.load(folder)
        if predictor.card.card_sha256 != used.card_sha256:
            return None
        batch = parse_metric(used.metric).deployment.fixed_batch
        prediction = predictor.predict(space.workloads(front), batch=batch)
    except HwnasError:
        # The page says that it could not be checked; the figures of the search do not depend on it.
        return None
    return tuple(np.flatnonzero(prediction.outside).tolist())
