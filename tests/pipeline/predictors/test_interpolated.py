import json
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.metrics import Deployment, parse_metric
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.predictors.predict import PredictOptions, predict_networks
from hwnas.pipeline.search.defaults import fit_missing, resolve_metrics
from hwnas.predict.card import INTERPOLATED
from hwnas.predict.interpolated import interpolate
from hwnas.predict.predictor import Predictor
from hwnas.predict.selector import NoPredictorError, choose_interpolated, choose_predictor, find_predictor
from hwnas.progress import NullReporter
from hwnas.search.objective import Criteria, parse_objective
from hwnas.space import SPACES
from tests.pipeline.measured_profiles import DEVICE, fast_fits, make_profile, subjects_of, true_ms

SPACE = "autoformer-micro"
METRIC = f"latency_ms@{DEVICE}/onnxruntime/fp32"


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictors of one space at batch 1 and 8."""
    folder = tmp_path_factory.mktemp("batches")
    for batch in (1, 8):
        make_profile(folder / "profiles", SPACE, 40, batch=batch)
    options = FitOptions(
        deployment=Deployment(device=DEVICE),
        space=SPACE,
        metrics=("latency_ms", "throughput"),
        profiles=folder / "profiles",
        out=folder / "predictors",
    )
    with pytest.MonkeyPatch.context() as patch:
        fast_fits(patch)
        fit_predictors(options)
    return folder / "predictors"


def at(predictors: Path, batch: int) -> Predictor:
    return choose_predictor(parse_metric(f"{METRIC}/b{batch}"), space=SPACE, predictors=predictors).predictor


def test_a_batch_between_two_that_were_measured_has_a_wider_interval_and_a_note(predictors: Path) -> None:
    subjects = subjects_of(SPACE, 60)[40:]
    targets = [f"{SPACE}:{json.dumps(subject.arch)}" for subject in subjects]

    def predicted(batch: int, metric: str = "latency_ms") -> PredictOptions:
        deployment = Deployment(device=DEVICE, batch=batch)
        return PredictOptions(deployment=deployment, metrics=(metric,), predictors=predictors, confidence=0.9)

    found = predict_networks(targets, predicted(4))
    truth = np.array([true_ms(subject, batch=4) for subject in subjects])
    means = np.array([item.mean for item in found.predictions])
    assert np.abs(means / truth - 1).mean() < 0.05
    lower, upper = (np.array([getattr(item, end) for item in found.predictions]) for end in ("lower", "upper"))
    assert ((lower <= truth) & (truth <= upper)).mean() > 0.9
    for measured in (1, 8):
        own = predict_networks(targets, predicted(measured))
        assert np.median(upper / lower) > np.median([item.upper / item.lower for item in own.predictions])
        assert not own.notes
    assert found.notes[0].startswith(f"{INTERPOLATED}: interpolated between batch 1 and batch 8")
    assert INTERPOLATED in found.predictors[0].note
    assert found.predictions[0].metric == f"{METRIC}/b4"
    rate = predict_networks(targets, predicted(4, "throughput"))
    assert [item.mean for item in rate.predictions] == pytest.approx((4e3 / means).tolist(), rel=1e-6)


def test_a_batch_outside_is_refused(predictors: Path) -> None:
    with pytest.raises(NoPredictorError, match=f"no predictor for {DEVICE} fits this metric"):
        find_predictor(f"{METRIC}/b16", space=SPACE, predictors=predictors)
    memory = parse_metric(f"memory_mb@{DEVICE}/onnxruntime/fp32/b4")
    assert choose_interpolated(memory, space=SPACE, predictors=predictors) is None
    other = parse_metric(f"latency_ms@{DEVICE}/onnxruntime/fp16/b4")
    assert choose_interpolated(other, space=SPACE, predictors=predictors) is None
    lower, upper = at(predictors, 1), at(predictors, 8)
    for batch in (1, 8, 64):
        with pytest.raises(InputError, match="the batch must be between those of two predictors"):
            interpolate(lower, upper, batch=batch)
    between = interpolate(lower, upper, batch=4)
    with pytest.raises(InputError, match="cannot be interpolated, because it was made from other predictors"):
        interpolate(lower, between, batch=2)


def test_a_search_keeps_the_predictor_and_says_so(predictors: Path, tmp_path: Path) -> None:
    criteria = Criteria(objectives=(parse_objective(f"{METRIC}/b4"),))
    resolved = resolve_metrics(criteria, space=SPACE, device=None, predictors=predictors)
    assert resolved.missing
    found = fit_missing(
        resolved,
        space=SPACE,
        profiles=tmp_path,
        predictors=predictors,
        out=tmp_path / "out",
        reporter=NullReporter(),
        fitted=set(),
    )
    (chosen,) = found.predictors
    assert chosen.path == tmp_path / f"out/interpolated/{DEVICE}/{SPACE}-onnxruntime-fp32-b4-t1/latency_ms"
    assert INTERPOLATED in chosen.note
    space = SPACES.get(SPACE)
    population = space.workloads(space.sample(np.random.default_rng(5), 20))
    loaded = Predictor.load(chosen.path)
    assert loaded.card.is_interpolated
    assert loaded.predict(population).mean.tolist() == chosen.predictor.predict(population).mean.tolist()
