import errno
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import InputError
from hwnas.files import brief_lock
from hwnas.predict import saving
from hwnas.predict.card import load_card
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from tests.predict.test_predictor import fitted

TOKEN = "0123456789ab"


def test_what_was_there_stays_where_the_new_one_cannot_be_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save_predictor(fitted(), tmp_path / "p")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    monkeypatch.setattr(saving, "_exchange", lambda first, second: False)
    with pytest.raises(InputError, match="cannot be written"):
        save_predictor(fitted(), tmp_path / "p")
    assert load_card(tmp_path / "p") == saved.card
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def test_equal_predictors_are_written_equal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_predictor(fitted(), tmp_path / name)
    for name in ("card.json", "card.md", "model.json", "parity.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_predictor_takes_the_place_of_another(tmp_path: Path) -> None:
    save_predictor(fitted(), tmp_path / "p")
    save_predictor(replace(fitted(), card=replace(fitted().card, notes=("second",))), tmp_path / "p")
    assert load_card(tmp_path / "p").notes == ("second",)
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something other than a predictor"):
        save_predictor(fitted(), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_without_an_exchange_of_folders_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_exchange", lambda first, second: False)
    for notes in ((), ("second",)):
        save_predictor(replace(fitted(), card=replace(fitted().card, notes=notes)), tmp_path / "p")
    assert load_card(tmp_path / "p").notes == ("second",)
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def test_leftovers_of_killed_fits_are_removed_and_no_others(tmp_path: Path) -> None:
    save_predictor(fitted(), tmp_path / "p")
    for name in (f".p.{TOKEN}.new", f".p.{TOKEN}.old", f".q.{TOKEN}.new", ".p.mine.new", f".p.{TOKEN}.news"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text("{}")
    save_predictor(fitted(), tmp_path / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".p.{TOKEN}.news",
        ".p.mine.new",
        f".q.{TOKEN}.new",
        "p",
    ]


def test_a_predictor_that_a_killed_fit_moved_away_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save_predictor(fitted(), tmp_path / "p")
    (tmp_path / "p").rename(tmp_path / f".p.{TOKEN}.old")

    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(InputError, match="cannot be written") as caught:
        save_predictor(fitted(), tmp_path / "p")
    assert "free some space" in str(caught.value.hint)
    assert Predictor.load(tmp_path / "p").card == saved.card
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    card = replace(fitted().card, environment={"driver": "1.2\x1b[2J"})
    with pytest.raises(InputError, match=r"environment\.'driver' must be a line"):
        save_predictor(replace(fitted(), card=card), tmp_path / "p")
    with pytest.raises(InputError, match="slope must be a number"):
        save_predictor(replace(fitted(), intervals=replace(fitted().intervals, slope=-1.0)), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(InputError, match="cannot be written"):
        save_predictor(fitted(), tmp_path / "device" / "setting" / "p")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "p"):
        with pytest.raises(InputError, match="cannot be written"):
            save_predictor(fitted(), folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_another_fit_is_waited_for_but_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_LOCK_TIMEOUT_S", 0.2)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with brief_lock(tmp_path, timeout_s=0):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        with pytest.raises(InputError, match="is being written by another process"):
            save_predictor(fitted(), tmp_path / "p")
    finally:
        release.set()
        thread.join()
    save_predictor(fitted(), tmp_path / "p")


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("step", range(14))
def test_a_kill_at_any_step_leaves_a_predictor_and_the_next_fit_removes_the_rest(
    tmp_path: Path, written: Path, step: int, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps are those of writing: the child ends at one of them without any cleaning up, as if it were killed."""
    shutil.copytree(written, tmp_path / "p")
    monkeypatch.setattr(saving, "parity_plot", lambda card: "<svg/>")
    if not exchanges:
        monkeypatch.setattr(saving, "_exchange", lambda first, second: False)
    child = os.fork()
    if child == 0:
        _end_at(step)
        save_predictor(replace(fitted(), card=replace(fitted().card, notes=("second",))), tmp_path / "p")
        os._exit(0)
    os.waitpid(child, 0)
    moved_away = not exchanges and not (tmp_path / "p").exists()  # between two renames
    if not moved_away:
        assert Predictor.load(tmp_path / "p").card.notes in ((), ("second",))
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(InputError, match="cannot be written"):  # leftovers are removed, also if nothing can be written
        save_predictor(fitted(), tmp_path / "p")
    assert Predictor.load(tmp_path / "p").card.notes in ((), ("second",))
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _end_at(step: int) -> None:
    """End this process in place of the step of this number."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if count == step:
                os._exit(9)
            count += 1
            return function(*arguments, **options)

        return call

    for owner, name in (
        (Path, "mkdir"),
        (Path, "rename"),
        (os, "fsync"),
        (saving, "_exchange"),
        (shutil, "rmtree"),
    ):
        setattr(owner, name, counted(getattr(owner, name)))
