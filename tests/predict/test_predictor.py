import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.card import Card, card_from_json, card_json, load_card, sealed
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


def _resealed(folder: Path) -> Predictor:
    """State the right digests, as someone would who builds a hostile predictor."""
    card = json.loads((folder / "card.json").read_text())
    data = card_from_json(card, source="card")
    resealed = sealed(data, model_text=(folder / "model.json").read_text())
    (folder / "card.json").write_text(json.dumps(card_json(resealed)))
    return Predictor.load(folder)


RESEALED: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "no conditions": ("model", lambda data: data.pop("conditions"), "conditions is missing"),
    "conditions are a list": ("model", lambda data: data.update(conditions=[]), "conditions must be a table"),
    "another condition": ("model", lambda data: data["conditions"].update(batch=3), "key 'batch' is not known"),
    "kind is a list": ("model", lambda data: data["model"].update(kind=[]), r"model\.kind"),
    "unknown kind": ("model", lambda data: data["model"].update(kind="pickle"), r"model\.kind"),
    "rate of 0": ("model", lambda data: data["conditions"].update(op_per_s=0), "op_per_s must be a number"),
    "no bytes": ("model", lambda data: data["conditions"].update(bytes_per_element=0), "bytes_per_element must be"),
    "NaN in a range": (
        "model",
        lambda data: data["fitted_range"]["low"].__setitem__(0, "NaN"),
        "low must be a list",
    ),
    "short range": ("model", lambda data: data["fitted_range"]["high"].pop(), "fitted_range.high must be a list"),
    "range upside down": ("model", lambda data: data["fitted_range"]["low"].__setitem__(0, 1e99), "must not be above"),
    "text in intervals": (
        "model",
        lambda data: data["intervals"]["errors"].__setitem__(0, "x"),
        "must be a list",
    ),
    "unsorted errors": ("model", lambda data: data["intervals"]["errors"].reverse(), "errors must be numbers in asc"),
    "no errors": ("model", lambda data: data["intervals"].update(errors=[]), "errors must be numbers in ascending"),
    "ragged matrix": (
        "model",
        lambda data: data["intervals"]["unusual"]["rotation"][0].pop(),
        "must be a list",
    ),
    "short matrix": ("model", lambda data: data["intervals"]["unusual"]["rotation"].pop(), "must be a list"),
    "no columns": (
        "model",
        lambda data: data["intervals"]["unusual"].update(
            rotation=[[] for _ in data["intervals"]["unusual"]["rotation"]]
        ),
        "rotation must have at least one column",
    ),
    "negative scale": (
        "model",
        lambda data: data["intervals"]["unusual"]["standard"]["scale"].__setitem__(0, -1),
        "scale must have numbers from 0",
    ),
    "twice the same name": (
        "model",
        lambda data: data["fitted_range"]["cost_names"].__setitem__(0, data["fitted_range"]["cost_names"][1]),
        "cost_names must be a list of distinct names",
    ),
    "sources are a list": ("model", lambda data: data.update(sources=[]), "sources must be a table"),
    "source of no device": ("model", lambda data: data.update(sources={"x": 1}), "sources.x must be a table"),
    "absent source": (
        "model",
        lambda data: data.update(
            model={"kind": "scaled", "sources": ["x"], "weights": [1], "centres": [0], "offset": 0}
        ),
        "must hold the sources that its models read",
    ),
    "blocks that are not counted": (
        "model",
        lambda data: data.update(
            model={
                "kind": "blocks",
                "mean": {"cost_names": [], "coefficients": []},
                "count_names": ["b"],
                "differences": [1],
            }
        ),
        "must name the blocks",
    ),
    "nested stacks": ("model", lambda data: data.update(model=_nested(data["model"], 5)), "at most 3 stacks"),
    "no networks": ("card", lambda card: card["data"].update(num_networks=0), "num_networks must be between 1"),
    "negative networks": ("card", lambda card: card["data"].update(num_networks=-1), "num_networks must be between 1"),
    "escape in a note": ("card", lambda card: card.update(notes=["\x1b[2J"]), r"notes\[0\] must be a line"),
    "long text": ("card", lambda card: card["environment"].update(torch="9" * 10_000), "must be a line of at most"),
    "path as a device": (
        "card",
        lambda card: card["metric"]["deployment"].update(device="../evil"),
        "deployment.device",
    ),
    "path as a space": ("card", lambda card: card.update(space="/tmp/x"), "space must have 1 to 100"),
    "no deployment": ("card", lambda card: card["metric"].pop("deployment"), "deployment must specify device, runtime"),
    "impossible time": ("card", lambda card: card.update(created_utc="yesterday"), "created_utc must be a time"),
    "share above 1": ("card", lambda card: card["coverage"][0].update(share=2), "share must be between"),
    "no coverage": ("card", lambda card: card.update(coverage=[]), "coverage must have the confidences"),
    "held out below 0": ("card", lambda card: card["held_out"][0].update(predicted=-1), "held_out must have values"),
    "endless error": ("card", lambda card: card.update(noise_floor=1e300), "noise_floor must be between"),
}


def _nested(model: dict[str, Any], depth: int) -> dict[str, Any]:
    return {"kind": "stack", "members": [_nested(model, depth - 1)], "weights": [1]} if depth else model


@pytest.mark.parametrize("name", RESEALED)
def test_what_was_changed_and_sealed_again_is_refused(written: Path, tmp_path: Path, name: str) -> None:
    file, change, message = RESEALED[name]
    shutil.copytree(written, tmp_path / "p")
    _edit(tmp_path / "p" / f"{file}.json", change)
    with pytest.raises(InputError, match=message):
        _resealed(tmp_path / "p")


def test_a_model_that_overflows_is_an_error_when_it_predicts(tmp_path: Path) -> None:
    save_predictor(fitted(), tmp_path / "p")
    _edit(tmp_path / "p" / "model.json", lambda data: data["intervals"].update(errors=[0, 1e90]))
    predictor = _resealed(tmp_path / "p")
    with pytest.raises(InputError, match="must predict finite values"):
        predictor.predict_features(networks(3))


def test_pipes_and_large_files_are_no_predictors(tmp_path: Path) -> None:
    save_predictor(fitted(), tmp_path / "p")
    (tmp_path / "p" / "model.json").unlink()
    os.mkfifo(tmp_path / "p" / "model.json")
    with pytest.raises(InputError, match="must be an ordinary file"):
        Predictor.load(tmp_path / "p")


def test_a_predictor_that_is_exchanged_while_it_is_read_is_read_again(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(written, tmp_path / "p")
    shutil.copytree(written, tmp_path / "new")
    _edit(tmp_path / "new" / "card.json", lambda card: card.update(notes=["new"]))
    _edit(tmp_path / "new" / "model.json", lambda data: data["intervals"].update(slope=0.0))
    _resealed(tmp_path / "new")

    def read_and_exchange(folder: Path) -> Card:
        card = load_card(folder)
        if (tmp_path / "new").exists():
            (tmp_path / "p").rename(tmp_path / "old")
            (tmp_path / "new").rename(tmp_path / "p")
        return card

    monkeypatch.setattr("hwnas.predict.predictor.load_card", read_and_exchange)
    assert Predictor.load(tmp_path / "p").card.notes == ("new",)


def test_networks_and_labels_that_are_none_are_named() -> None:
    predictor: Any = fitted()
    for wanted in (None, "timm:deit", ["deit"], [None], np.zeros((2, 3)), [5]):
        with pytest.raises(InputError, match="networks"):
            predictor.predict(wanted)
    with pytest.raises(InputError, match="confidence must be a number"):
        predictor.predict([], confidence="high")
    with pytest.raises(InputError, match="batch must be a whole number"):
        predictor.predict([], batch="64")
    prediction: Any = predictor.predict_features(networks(2, seed=3))
    with pytest.raises(InputError, match="one label for each network"):
        prediction.to_frame(labels=["a"])
