"""Predictors in folders: written whole or not at all, read with every check.

    FOLDER/card.json     what the predictor says about itself
    FOLDER/card.md       the same to read, with parity.svg
    FOLDER/model.json    the model: plain numbers, and XGBoost's own JSON

A card states the digest of the model and of itself.
"""

import json
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from hwnas.config import load_json, parse_json
from hwnas.errors import InputError
from hwnas.predict.card import Card, card_from_json, card_json, require_seal, sealed
from hwnas.predict.card_page import PARITY, card_page, parity_plot
from hwnas.predict.predictor import Predictor

CARD, PAGE, MODEL = "card.json", "card.md", "model.json"


def save_predictor(predictor: Predictor, folder: Path) -> Predictor:
    """Write a predictor into its folder, in place of one that stands there; the sealed one is returned."""
    model_text = json.dumps(predictor.model_json(), separators=(",", ":"), allow_nan=False) + "\n"
    card = sealed(predictor.card, model_text=model_text)
    texts = {
        MODEL: model_text,
        CARD: json.dumps(card_json(card), indent=1, allow_nan=False) + "\n",
        PAGE: card_page(card),
        PARITY: parity_plot(card),
    }
    _write_folder(folder, texts)
    return replace(predictor, card=card)


def load_predictor(folder: Path) -> Predictor:
    """Read a predictor; a card of another form, or one that was edited, is an error."""
    card = load_card(folder)
    model_text = _read(folder / MODEL)
    require_seal(card, model_text=model_text, source=str(folder))
    data = parse_json(model_text, source=str(folder / MODEL))
    if not isinstance(data, dict):
        raise InputError(f"{folder / MODEL} must hold a model")
    try:
        return Predictor.from_json(card, data)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / MODEL} is incomplete", got=repr(error)) from error


def load_card(folder: Path) -> Card:
    """Read a card alone."""
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} must be the folder of a predictor", got=f"it has no {CARD}", hint="hwnas fit")
    return card_from_json(load_json(folder / CARD), source=str(folder / CARD))


def _write_folder(folder: Path, texts: dict[str, str]) -> None:
    """All files appear at once: they are written beside the folder, which is then exchanged."""
    token = secrets.token_hex(6)
    new, old = folder.with_name(f".{folder.name}.{token}.new"), folder.with_name(f".{folder.name}.{token}.old")
    try:
        _require_replaceable(folder)
        new.mkdir(parents=True)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written", got=error.strerror or str(error)) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for leftover in (new, old):
            if leftover.exists() and folder.exists():
                shutil.rmtree(leftover)


def _require_replaceable(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / CARD).is_file():
        raise InputError(f"{folder} holds something else than a predictor", hint="another folder with --out")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read", got=error) from error
