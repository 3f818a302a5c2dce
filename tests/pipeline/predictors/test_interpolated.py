import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.metrics import Deployment, parse_metric
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.predictors.predict import PredictOptions, predict_networks
from hwnas.pipeline.search.defaults import ResolvedMetrics, fit_missing, resolve_metrics, use_unmeasured
from hwnas.predict.card import INTERPOLATED
from hwnas.predict.folds import make_folds
from hwnas.predict.interpolated import interpolate
from hwnas.predict.intervals import FamiliesOut, calibrate_families
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from hwnas.predict.selector import NoPredictorError, choose_interpolated, choose_predictor, find_predictor
from hwnas.progress import NullReporter
from hwnas.search.objective import Criteria, parse_objective
from hwnas.space import SPACES
from hwnas.workload import Workloads
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


def sample(seed: int) -> Workloads:
    space = SPACES.get(SPACE)
    return space.workloads(space.sample(np.random.default_rng(seed), 30))


def of_families(predictor: Predictor) -> Predictor:
    """The predictor with intervals of networks of several families, whose errors are in units of large scales."""
    features = predictor.population(sample(1))
    target = predictor.predict_features(features).mean
    noise = np.random.default_rng(2)
    predicted, unlike = (target * np.exp(size * noise.standard_normal(len(target))) for size in (0.02, 0.3))
    folds = make_folds(len(target), num_folds=5, seed=0)
    left_out = FamiliesOut(predicted=unlike, folds=folds)
    intervals = calibrate_families(features, target, predicted[None], (folds,), families_out=left_out)
    return replace(predictor, intervals=intervals)


def test_every_interval_grows_by_the_allowance_whatever_its_scale(predictors: Path, tmp_path: Path) -> None:
    between = interpolate(of_families(at(predictors, 1)), of_families(at(predictors, 8)), batch=4)
    below, above = between.intervals.below, between.intervals.above
    assert below + above > 0.01
    bare = replace(between, intervals=replace(between.intervals, below=0.0, above=0.0))
    networks = sample(3)
    assert between.intervals.scale(between.population(networks)).max() < 0.7
    loaded = save_predictor(between, tmp_path / "saved")
    assert Predictor.load(tmp_path / "saved").intervals.below == loaded.intervals.below == below
    for confidence in (0.05, 0.5, 0.9):
        wide, narrow = (one.predict(networks, confidence=confidence) for one in (loaded, bare))
        np.testing.assert_allclose(np.log(narrow.lower / wide.lower), below, atol=1e-9)
        np.testing.assert_allclose(np.log(wide.upper / narrow.upper), above, atol=1e-9)


@pytest.mark.parametrize("narrow", [1, 8])
def test_a_network_outside_either_range_is_outside(predictors: Path, tmp_path: Path, narrow: int) -> None:
    lower, upper = at(predictors, 1), at(predictors, 8)
    assert not interpolate(lower, upper, batch=4).predict(sample(4)).outside.all()
    lower, upper = (
        replace(one, fitted_range=replace(one.fitted_range, largest_distance=0.0)) if batch == narrow else one
        for one, batch in ((lower, 1), (upper, 8))
    )
    between = save_predictor(interpolate(lower, upper, batch=4), tmp_path / "saved")
    networks = sample(4)
    for predictor in (between, Predictor.load(tmp_path / "saved")):
        assert predictor.predict(networks).outside.all()
    reasons = between.fitted_range.reasons(between.population(networks))
    expected = (
        "its mix of operations" if between.batch == narrow else f"it is outside the fitted range of batch {narrow}"
    )
    assert any(reason.startswith(expected) for reason in reasons)


def test_environments_that_differ_are_named(predictors: Path) -> None:
    lower, upper = at(predictors, 1), at(predictors, 8)
    same = interpolate(lower, upper, batch=4).card
    assert same.environment == lower.card.environment
    assert "environments" not in same.notes[0]
    older = replace(upper.card, environment={**upper.card.environment, "torch": "2.9.1", "cuda": "13.0"})
    card = interpolate(lower, replace(upper, card=older), batch=4).card
    assert card.environment == {name: value for name, value in lower.card.environment.items() if name != "torch"}
    assert card.notes[0].endswith("; their environments differ in torch, cuda")


def test_predictors_made_from_others_are_passed_over(predictors: Path, tmp_path: Path) -> None:
    between = interpolate(at(predictors, 1), at(predictors, 8), batch=4)
    shutil.copytree(predictors, tmp_path / "own")
    save_predictor(between, tmp_path / f"own/{DEVICE}/{SPACE}-onnxruntime-fp32-b4-t1/latency_ms")
    six = parse_metric(f"{METRIC}/b6")
    assert choose_interpolated(six, space=SPACE, predictors=predictors) is not None
    assert choose_interpolated(six, space=SPACE, predictors=tmp_path / "own") is None
    with pytest.raises(NoPredictorError, match="fits this metric"):
        find_predictor(str(six), space=SPACE, predictors=tmp_path / "own")


def test_a_search_does_not_replace_a_damaged_predictor(predictors: Path, tmp_path: Path) -> None:
    shutil.copytree(predictors, tmp_path / "own")
    damaged = tmp_path / f"own/{DEVICE}/{SPACE}-onnxruntime-fp32-b4-t1/latency_ms/card.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    resolved = resolved_for_search(tmp_path / "own", tmp_path)
    (error,) = resolved.missing.values()
    assert use_unmeasured(resolved, profiles=tmp_path, out=tmp_path / "out").missing == resolved.missing
    assert not isinstance(error, NoPredictorError)
    assert "card.json" in error.message


def resolved_for_search(predictors: Path, place: Path) -> ResolvedMetrics:
    criteria = Criteria(objectives=(parse_objective(f"{METRIC}/b4"),))
    resolved = resolve_metrics(criteria, space=SPACE, device=None, predictors=predictors)
    assert resolved.missing
    return fit_missing(
        resolved,
        space=SPACE,
        profiles=place,
        predictors=predictors,
        out=place / "out",
        reporter=NullReporter(),
        fitted=set(),
    )


def test_a_search_keeps_the_predictor_and_says_so(predictors: Path, tmp_path: Path) -> None:
    found = resolved_for_search(predictors, tmp_path)
    (chosen,) = found.predictors
    assert chosen.path == tmp_path / f"out/interpolated/{DEVICE}/{SPACE}-onnxruntime-fp32-b4-t1/latency_ms"
    assert INTERPOLATED in chosen.note
    space = SPACES.get(SPACE)
    population = space.workloads(space.sample(np.random.default_rng(5), 20))
    loaded = Predictor.load(chosen.path)
    assert loaded.card.is_interpolated
    assert loaded.predict(population).mean.tolist() == chosen.predictor.predict(population).mean.tolist()
