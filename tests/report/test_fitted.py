from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.metrics import parse_metric
from hwnas.predict.features.counting import population_features
from hwnas.predict.fit import Observations, fit_predictor
from hwnas.predict.models import RidgeLearner
from hwnas.predict.predictor import MODEL
from hwnas.predict.saving import save_predictor
from hwnas.report.compact import run_values
from hwnas.report.facts import facts_of
from hwnas.report.front import rows_of
from hwnas.report.gather import gather
from hwnas.report.verdict import banners
from hwnas.search.record import SearchRecord, read_record, write_record
from hwnas.search.spec import PredictorSpec
from tests.predict.synthetic import cpu_conditions
from tests.report.example import DEVICE, LATENCY, Example, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose predictor, in a folder beside its files, was fitted to the cheaper half of its candidates."""
    run = make_run(tmp_path / "run", Example(count=120, verified=False))
    data = gather(run)
    found = data.candidates
    macs = found.metrics["macs"].mean
    genomes = found.genomes[macs < sorted(macs)[60]]
    conditions = cpu_conditions()
    features = population_features(data.space.workloads(genomes), conditions)
    observed = Observations(
        metric=parse_metric(f"latency_ms@{DEVICE}/onnxruntime/fp32/b1"),
        conditions=conditions,
        features=features,
        values=found.metrics[LATENCY].mean[macs < sorted(macs)[60]],
    )
    predictor = fit_predictor(observed, learners=(RidgeLearner(),), with_curve=False)
    saved = save_predictor(predictor, run / "predictors" / "latency")
    record = read_record(run)
    assert saved.card.card_sha256 is not None
    used = PredictorSpec(metric=LATENCY, path=Path("predictors/latency"), card_sha256=saved.card.card_sha256)
    write_record(run, changed(record, used))
    return run


def changed(record: SearchRecord, used: PredictorSpec) -> SearchRecord:
    return replace(record, spec=replace(record.spec, predictors=(used,)))


def test_networks_beyond_the_fitted_range_are_found_and_told(run: Path) -> None:
    data = gather(run)
    places = data.outside[LATENCY]
    assert 0 < len(places) < len(data.front)
    outside = {data.front[place].macs for place in places}
    inside = {member.macs for place, member in enumerate(data.front) if place not in places}
    assert max(outside) > max(inside)
    text = f"{len(places)} of {len(data.front)} networks lie outside the fitted range of the predictor of latency_ms."
    assert any(banner.text.startswith(text) for banner in banners(data))
    rows = rows_of(data)
    assert [place for place, row in enumerate(rows) if row.outside == "latency_ms"] == list(places)
    assert [place for place, row in enumerate(rows) if not row.outside] == sorted({*range(len(rows))} - {*places})
    drawn = run_values(data)["front"]
    assert [place for place, member in enumerate(drawn) if member.get("outside") == "latency_ms"] == list(places)
    assert facts_of(data).range_note.startswith(f"{len(places)} of {len(data.front)} networks on the front lie outside")


def test_another_predictor_in_its_place_is_not_asked(run: Path) -> None:
    record = read_record(run)
    used = record.spec.predictors[0]
    write_record(run, changed(record, replace(used, card_sha256="0" * 64)))
    data = gather(run)
    assert data.outside == {}
    assert facts_of(data).range_note.startswith("It is unknown whether the front lies inside")


def test_a_predictor_that_was_changed_is_not_asked(run: Path) -> None:
    model = run / "predictors" / "latency" / MODEL
    model.write_text(model.read_text() + " ")
    assert gather(run).outside == {}
