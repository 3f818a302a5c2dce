"""Graphs of the reference network in the cache."""

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.metrics import Deployment
from hwnas.profile import reference_graphs
from hwnas.profile.made_graphs import MadeGraph
from hwnas.profile.reference import REFERENCE
from hwnas.profile.reference_graphs import reference_graph
from hwnas.profile.worker_messages import GraphFiles
from hwnas.records import Setting, Subject

SETTING = Setting(
    deployment=Deployment(device="some-cpu", runtime="onnxruntime", precision="fp32", batch=1, threads=1),
    exporter="dynamo",
)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """The settings for which graphs were made, in an empty cache."""
    asked: list[Setting] = []

    def make(subject: Subject, setting: Setting, *, seed: int) -> MadeGraph:
        assert (subject, seed) == (REFERENCE, 0)
        asked.append(setting)
        payloads = {name: f"{name} {setting.batch}".encode() for name in ("graph", "images", "expected")}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in payloads.items()}
        return MadeGraph(
            files=GraphFiles(**digests, tolerance=0.5),
            payloads={digests[name]: data for name, data in payloads.items()},
            duration_s=0.0,
        )

    monkeypatch.setattr(reference_graphs, "make_graph", make)
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    return asked


def contents(files: GraphFiles | None) -> list[bytes]:
    assert files is not None
    return [Path(name).read_bytes() for name in (files.graph, files.images, files.expected)]


def test_a_graph_is_made_once_for_each_setting(made: list[Setting]) -> None:
    first = reference_graph(REFERENCE, SETTING, seed=0)
    assert contents(first) == [b"graph 1", b"images 1", b"expected 1"]
    assert first == reference_graph(REFERENCE, SETTING, seed=0)
    assert first is not None
    assert first.tolerance == 0.5
    other = replace(SETTING, deployment=replace(SETTING.deployment, batch=8))
    assert contents(reference_graph(REFERENCE, other, seed=0))[0] == b"graph 8"
    assert made == [SETTING, other]


@pytest.mark.parametrize("damage", ["graph", "graph.json"])
def test_what_is_damaged_is_made_again(made: list[Setting], damage: str) -> None:
    first = reference_graph(REFERENCE, SETTING, seed=0)
    assert first is not None
    path = Path(first.graph)
    (path if damage == "graph" else path.parent / damage).write_bytes(b"{")
    assert contents(reference_graph(REFERENCE, SETTING, seed=0))[0] == b"graph 1"
    assert len(made) == 2


def test_a_change_of_the_code_or_a_version_makes_it_again(made: list[Setting], monkeypatch: pytest.MonkeyPatch) -> None:
    reference_graph(REFERENCE, SETTING, seed=0)
    monkeypatch.setattr(reference_graphs, "code_digest", lambda: "other")
    reference_graph(REFERENCE, SETTING, seed=0)
    monkeypatch.setattr(reference_graphs, "package_versions", lambda: {"timm": "99"})
    reference_graph(REFERENCE, SETTING, seed=0)
    assert len(made) == 3


def test_what_another_process_made_meanwhile_stays(made: list[Setting]) -> None:
    others: list[GraphFiles | None] = []

    def make_slowly(subject: Subject, setting: Setting, *, seed: int) -> MadeGraph:
        slow.undo()
        others.append(reference_graph(subject, setting, seed=seed))
        data = b"other bytes"
        digest = hashlib.sha256(data).hexdigest()
        files = GraphFiles(graph=digest, images=digest, expected=digest, tolerance=0.5)
        return MadeGraph(files=files, payloads={digest: data}, duration_s=0.0)

    slow = pytest.MonkeyPatch()
    slow.setattr(reference_graphs, "make_graph", make_slowly)
    assert [reference_graph(REFERENCE, SETTING, seed=0)] == others
    assert contents(others[0])[0] == b"graph 1"


def test_large_batches_are_not_kept(made: list[Setting]) -> None:
    large = replace(SETTING, deployment=replace(SETTING.deployment, batch=65))
    assert reference_graph(REFERENCE, large, seed=0) is None
    assert made == []


def test_what_was_not_used_for_longest_is_removed(
    made: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_graphs, "_MAX_KEPT", 2)
    settings = [replace(SETTING, deployment=replace(SETTING.deployment, batch=batch)) for batch in (1, 2, 3)]
    for age, setting in zip((200, 100), settings, strict=False):
        files = reference_graph(REFERENCE, setting, seed=0)
        assert files is not None
        aged(Path(files.graph).parent, seconds=age)
    for setting in (settings[0], settings[2], settings[0]):  # a use of the first one, then a new one
        assert reference_graph(REFERENCE, setting, seed=0) is not None
    assert made == settings
    assert len(list((tmp_path / "references").iterdir())) == 2
    reference_graph(REFERENCE, settings[1], seed=0)
    assert made == [*settings, settings[1]]


def test_what_killed_processes_left_is_removed_after_an_hour(made: list[Setting], tmp_path: Path) -> None:
    for name, seconds in ((".killed", 4000), (".at-work", 1000)):
        (tmp_path / "references" / name / "graph").mkdir(parents=True)
        aged(tmp_path / "references" / name, seconds=seconds)
    reference_graph(REFERENCE, SETTING, seed=0)
    left = {path.name for path in (tmp_path / "references").iterdir()}
    assert (".killed" in left, ".at-work" in left, len(left)) == (False, True, 2)


def aged(folder: Path, *, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_without_a_cache_there_are_no_files(
    made: list[Setting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file"))
    assert reference_graph(REFERENCE, SETTING, seed=0) is None
    assert made == []
