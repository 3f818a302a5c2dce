"""Run folders of searches: two at once, leftovers of killed ones, places that cannot be written."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.files import WriterLock
from hwnas.pipeline.search import run_folder
from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.predicted_metrics import CheapMetrics
from hwnas.pipeline.search.run_folder import create_run, lock_run
from hwnas.runs import LOCK, Run
from hwnas.search.spec import PredictorSpec, read_spec
from tests.search.test_record import SPACE, SPEC


@pytest.fixture
def context(tmp_path: Path) -> SearchContext:
    (tmp_path / "made" / "predictor").mkdir(parents=True)
    (tmp_path / "made" / "predictor" / "card.json").write_text("{}")
    used = PredictorSpec(metric="latency_ms@x-4c", path=Path("predictors/x"), card_sha256="ab")
    return SearchContext(
        spec=replace(SPEC, predictors=(used,)),
        space=SPACE,
        cheap=CheapMetrics(space=SPACE),
        predictor_folders=(tmp_path / "made" / "predictor",),
        supernet=None,
    )


def test_a_run_is_made_whole_and_locked(tmp_path: Path, context: SearchContext) -> None:
    with create_run(tmp_path / "runs" / "new", context):
        assert read_spec(Run.open(tmp_path / "runs" / "new")) == context.spec
        assert (tmp_path / "runs" / "new" / "predictors" / "x" / "card.json").is_file()
        assert [item.name for item in (tmp_path / "runs").iterdir()] == ["new"]
        told = rf"another search\n  got     process {os.getpid()} on .* since 20"
        with pytest.raises(InputError, match=told):
            create_run(tmp_path / "runs" / "new", context)
        with pytest.raises(InputError, match=told):
            lock_run(tmp_path / "runs" / "new")
    with pytest.raises(InputError, match="must be a new or an empty folder"):
        create_run(tmp_path / "runs" / "new", context)
    lock_run(tmp_path / "runs" / "new").close()


def test_the_second_of_two_searches_that_start_together_is_told_of_the_first(
    tmp_path: Path, context: SearchContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "runs" / "new", run_folder._rename
    locks: list[WriterLock] = []

    def slow(aside: Path, target: Path) -> None:
        monkeypatch.setattr(run_folder, "_rename", rename)
        locks.append(create_run(target, context))
        rename(aside, target)

    monkeypatch.setattr(run_folder, "_rename", slow)
    with pytest.raises(InputError, match=r"new is being written by another search\n  got     process"):
        create_run(folder, context)
    assert [item.name for item in folder.parent.iterdir()] == ["new"]
    locks[0].close()


def test_only_stale_leftovers_of_our_own_are_removed(tmp_path: Path, context: SearchContext) -> None:
    runs = tmp_path / "runs"
    names = {".dead.00000000.new": True, ".fresh.11111111.new": False, ".mine.new": True, ".fit.22222222.new": True}
    for name, old in names.items():
        Run.create(runs / name, command=(), config={})
        if name.startswith(".fit"):
            (runs / name / "manifest.json").rename(runs / name / "card.json")
        if old:
            os.utime(runs / name, (0, 0))
    Run.create(runs / ".held.33333333.new", command=(), config={})
    with WriterLock(runs / ".held.33333333.new" / LOCK, activity="search"):
        os.utime(runs / ".held.33333333.new", (0, 0))
        create_run(runs / "new", context).close()
    left = {".fresh.11111111.new", ".mine.new", ".fit.22222222.new", ".held.33333333.new", "new"}
    assert {item.name for item in runs.iterdir()} == left


def test_a_resumed_run_loses_what_a_killed_write_left(tmp_path: Path, context: SearchContext) -> None:
    run = tmp_path / "new"
    create_run(run, context).close()
    (run / "networks" / "ab").mkdir(parents=True)
    leftovers = [run / ".search.json.0123456789ab.tmp", run / "networks" / "ab" / ".card.md.0123456789ab.tmp"]
    for path in leftovers:
        path.touch()
    lock_run(run).close()
    assert not any(path.exists() for path in leftovers)


@pytest.mark.parametrize("kind", ["empty", "link", "working folder", "half made"])
def test_an_empty_folder_is_filled_in_place(
    tmp_path: Path, context: SearchContext, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    before = folder.stat().st_ino
    if kind == "link":
        (tmp_path / "link").symlink_to("empty")
        folder = tmp_path / "link"
    elif kind == "working folder":
        monkeypatch.chdir(folder)
        folder = Path()
    elif kind == "half made":
        Run.create(folder / ".run.new", command=(), config={})
        (folder / LOCK).touch()
    with create_run(folder, context):
        assert read_spec(Run.open(folder)) == context.spec
        assert {item.name for item in folder.iterdir()} == {LOCK, "manifest.json", "predictors"}
        with pytest.raises(InputError, match="being written by another search"):
            create_run(folder, context)
    assert folder.stat().st_ino == before


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_a_run_of_which_the_predictors_alone_were_moved_is_made_anew(
    tmp_path: Path, context: SearchContext, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder, rename = tmp_path / "run", Path.rename
    (folder / "levels").mkdir(parents=True)

    def stop(path: Path, target: Path) -> Path:
        if path.name == "manifest.json":
            raise OSError("stopped")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stop)
        if how == "killed":
            patched.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
            patched.setattr(run_folder, "_take_back", lambda folder: None)
        with pytest.raises(InputError, match="cannot be written"):
            create_run(folder, context, beside=("levels",))
    assert (folder / "predictors").exists() == (how == "killed")
    with create_run(folder, context, beside=("levels",)):
        assert read_spec(Run.open(folder)) == context.spec
        assert {item.name for item in folder.iterdir()} == {LOCK, "manifest.json", "predictors", "levels"}


def test_predictors_of_the_user_are_not_those_of_a_run(tmp_path: Path, context: SearchContext) -> None:
    (tmp_path / "predictors").mkdir()
    (tmp_path / ".run.new").mkdir()
    with pytest.raises(InputError, match="must be a new or an empty folder"):
        create_run(tmp_path, context)
    assert (tmp_path / "predictors").is_dir()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/new", "file"])
def test_a_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, context: SearchContext, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = Path(name)
    if name.startswith("file"):
        (tmp_path / "file").touch()
        folder = tmp_path / name
    with pytest.raises(InputError):
        create_run(folder, context)
    assert not list((tmp_path / "here").iterdir())


def test_a_predictor_that_cannot_be_copied_leaves_nothing(tmp_path: Path, context: SearchContext) -> None:
    os.mkfifo(tmp_path / "made" / "predictor" / "pipe")
    with pytest.raises(InputError, match="cannot be written"):
        create_run(tmp_path / "runs" / "new", context)
    assert not list((tmp_path / "runs").iterdir())
