"""What a search takes where nothing is named, and the commands that make what is missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import HwnasError
from hwnas.pipeline.search.defaults import newest_supernet
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import dry_run_search
from hwnas.runs import Run
from tests.pipeline.search.workbench import (
    FIRST,
    write_supernet,
)


def test_what_is_missing_is_named_with_the_commands_that_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(HwnasError) as caught:
        dry_run_search(
            SearchOptions(objectives=("throughput",), predictors=tmp_path / "none", profiles=tmp_path / "none")
        )
    text = str(caught.value)
    assert "there is no trained supernet under runs" in text
    assert "hwnas init DIR, then hwnas train; or --no-accuracy" in text
    assert re.search(r"hwnas profile --space autoformer-tiny --device \S+", text)


def test_the_newest_supernet_is_taken_and_said(bench: dict[str, Any], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, created in (("old", "2026-01-01T00:00:00+00:00"), ("new", "2026-02-01T00:00:00+00:00")):
        run = Run.create(runs / name, command=(), config={"recipe": {}, "space": FIRST}).path
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps({**manifest, "created_utc": created}))
        write_supernet(run, FIRST).rename(run / "supernet.safetensors")
    assert newest_supernet(FIRST, runs=runs) == runs / "new"
    assert newest_supernet("glit-micro", runs=runs) is None
