"""Graphs of the reference network in the cache: every process of every campaign would make the same one again.

    references/DIGEST/graph.json, and a file of each payload by its SHA-256

The digest is that of the network, the setting, the code that measures and the versions of what makes graphs. The cache
can be deleted at any time, and what is damaged is made again.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hwnas.config import from_mapping, parse_json, to_mapping
from hwnas.data_paths import cache_folder
from hwnas.errors import HwnasError
from hwnas.files import file_sha256, read_text
from hwnas.profile.agent_code import code_digest
from hwnas.profile.made_graphs import make_graph
from hwnas.profile.worker_messages import GraphFiles
from hwnas.records import Setting, Subject
from hwnas.runs import package_versions

_FOLDER = "references"
_RECORD = "graph.json"
_MAX_KEPT = 16
"""Graphs that are kept, of some ten megabytes each."""
_ABANDONED_S = 3600.0
"""Age of a hidden folder that is removed: the process that made a graph in it was killed."""
_MAX_BATCH = 64
"""Larger batches are made again: their images are kept with the graph, about half a megabyte each."""


def reference_graph(subject: Subject, setting: Setting, *, seed: int) -> GraphFiles | None:
    """Return files of the graph of a network, made if the cache has none; None if the cache cannot keep it.

    Args:
        subject: The network.
        setting: A setting of a runtime that takes graphs.
        seed: Seed of weights and images.
    """
    if setting.batch > _MAX_BATCH:
        return None
    facts = {
        "subject": to_mapping(subject),
        "setting": to_mapping(setting),
        "seed": seed,
        "code": code_digest(),
        "versions": package_versions(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    try:
        folder = cache_folder() / _FOLDER / digest[:32]
        return _kept(folder) or _keep(folder, subject, setting, seed=seed)
    except OSError:
        return None


def _kept(folder: Path) -> GraphFiles | None:
    """Paths of the files in a folder, if they are whole."""
    try:
        record = parse_json(read_text(folder / _RECORD), source=str(folder / _RECORD))
        files = from_mapping(GraphFiles, record)
        named = _in_folder(folder, files)
        names = ("graph", "images", "expected")
        whole = all(file_sha256(Path(getattr(named, name))) == getattr(files, name) for name in names)
    except (HwnasError, OSError):
        return None
    with suppress(OSError):  # a cache that others own, or that is read-only
        os.utime(folder)  # the time of its last use, by which graphs are removed
    return named if whole else None


def _keep(folder: Path, subject: Subject, setting: Setting, *, seed: int) -> GraphFiles:
    """Make the graph and write its files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as name:
        place = Path(name) / folder.name
        place.mkdir()
        made = make_graph(subject, setting, seed=seed)
        for digest, data in made.payloads.items():
            (place / digest).write_bytes(data)
        (place / _RECORD).write_text(json.dumps(to_mapping(made.files)), encoding="utf-8")
        try:
            place.rename(folder)
        except OSError:  # another process was quicker, and may be reading its files, or the folder is damaged
            if (kept := _kept(folder)) is not None:
                return kept
            shutil.rmtree(folder, ignore_errors=True)
            place.rename(folder)
    _remove_old(folder.parent)
    return _in_folder(folder, made.files)


def _in_folder(folder: Path, files: GraphFiles) -> GraphFiles:
    return replace(
        files,
        graph=str(folder / files.graph),
        images=str(folder / files.images),
        expected=str(folder / files.expected),
    )


def _remove_old(folder: Path) -> None:
    """Remove the graphs that were not used for longest, and what killed processes left."""
    paths = list(folder.iterdir())
    hidden = [path for path in paths if path.name.startswith(".") and time.time() - _time_of(path) > _ABANDONED_S]
    kept = sorted((path for path in paths if not path.name.startswith(".")), key=_time_of)
    for path in (*hidden, *kept[:-_MAX_KEPT]):
        shutil.rmtree(path, ignore_errors=True)


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed by another process
        return 0.0
