import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.fit import fit_predictor
from hwnas.predict.models import AnalyticLearner, BoostedLearner
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from hwnas.predict.selection import Protocol
from tests.predict.synthetic import arrays_of, networks
from tests.predict.test_fit import observations


@cache
def fitted() -> Predictor:
    learners = (AnalyticLearner(), BoostedLearner(rounds=20))
    return fit_predictor(observations(30), protocol=Protocol(repeats=1), learners=learners)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    saved = save_predictor(fitted(), tmp_path / "p")
    read = Predictor.load(tmp_path / "p")
    assert read.card == saved.card
    assert replace(read.card, model_sha256="", card_sha256="") == fitted().card
    mine, theirs = (predictor.predict_features(networks(20, seed=3)) for predictor in (read, fitted()))
    for name in ("mean", "lower", "upper", "outside"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    for predictor in (read, fitted()):
        arrays = arrays_of((predictor.model, predictor.intervals, predictor.fitted_range))
        assert [name for name, array in arrays.items() if not array.flags.c_contiguous] == []
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "card.json",
        "card.md",
        "model.json",
        "parity.svg",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def test_the_page_states_the_figures(tmp_path: Path) -> None:
    save_predictor(fitted(), tmp_path / "p")
    page = (tmp_path / "p" / "card.md").read_text()
    scores = fitted().card.scores
    assert page.startswith("# latency_ms@some-cpu-4c/onnxruntime/fp32/b1\n")
    assert f"{scores.mape:.2%} on average" in page
    assert f"{scores.spearman:.4f}" in page
    assert "![held-out networks](parity.svg)" in page
    assert "| driver | 1.2 |" in page
    assert "noise floor of measuring again" in page
    assert f"its rank correlation would be about {fitted().card.best_spearman:.4f}" in page
    plot = (tmp_path / "p" / "parity.svg").read_text()
    assert plot.lstrip().startswith("<?xml")
    assert "measured, ms" in plot


def test_only_times_and_rates_have_a_best_rank_correlation() -> None:
    card = fitted().card
    assert card.best_spearman is not None
    assert replace(card, noise_floor=None).best_spearman is None
    assert replace(card, metric=replace(card.metric, name="memory_mb")).best_spearman is None


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("card.json", lambda card: card["ranking"][0]["scores"].update(mape=0.0001), "card.json was changed"),
        ("card.json", lambda card: card.update(noise_floor=0.5), "card.json was changed"),
        ("card.json", lambda card: card["environment"].update(driver="9"), "card.json was changed"),
        ("model.json", lambda model: model["intervals"].update(slope=9.0), "model.json was changed"),
        ("card.json", lambda card: card.update(schema="hwnas.predictor/2"), "has an unsupported schema"),
        ("card.json", lambda card: card.pop("schema"), "must hold the card of a predictor"),
        ("card.json", lambda card: card.update(created_utc=3), "created_utc must be a text"),
        ("card.json", lambda card: card.update(extra=1), "key 'extra' is not known"),
        ("card.json", lambda card: card.update(environment=[]), "environment must map names to texts"),
        ("card.json", lambda card: card.update(model="other"), "the model must be one of the ranking"),
    ],
)
def test_what_was_edited_by_hand_is_found_out(
    tmp_path: Path, name: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    save_predictor(fitted(), tmp_path / "p")
    _edit(tmp_path / "p" / name, change)
    with pytest.raises(InputError, match=message):
        Predictor.load(tmp_path / "p")


def test_a_folder_without_predictor_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be the folder of a predictor"):
        Predictor.load(tmp_path)
    save_predictor(fitted(), tmp_path / "p")
    (tmp_path / "p" / "model.json").unlink()
    with pytest.raises(InputError, match=r"there is no file .*model\.json"):
        Predictor.load(tmp_path / "p")
