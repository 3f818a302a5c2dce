import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.detection import parts, table
from benchmarks.support.detection_trainings import LEVELS, RANKED, DetectionTrainings
from hwnas.errors import InputError


def trainings(state: Path, **options: Any) -> DetectionTrainings:
    chosen = {"space": "retinanet-vitas-twins-micro", "image_size": 64, "images": 8, "heldout": 4, "epochs": 1}
    return DetectionTrainings(argparse.Namespace(**chosen | {"batch": 4, "evaluations": 4, "state": state} | options))


def test_networks_scaled_by_hand_grow_from_the_smallest_to_the_largest(tmp_path: Path) -> None:
    made = trainings(tmp_path / "state.json")
    space, genomes = made.space, made.scaled_by_hand()

    assert 3 < len(genomes) <= LEVELS
    assert (genomes[[0, -1]] == space.encode([space.smallest(), space.largest()])).all()
    assert (np.diff(space.costs(genomes).macs) > 0).all()


def test_finished_parts_are_kept_and_none_is_begun_late(tmp_path: Path) -> None:
    made = trainings(tmp_path / "state.json")

    assert made.part("one", lambda: {"test": 0.5}, until=float("inf"))
    assert not made.part("two", lambda: {}, until=0)
    again = trainings(tmp_path / "state.json")
    assert again.part("one", lambda: pytest.fail("done before"), until=0)
    assert again.done["one"]["test"] == 0.5
    with pytest.raises(InputError, match="same benchmark"):
        trainings(tmp_path / "state.json", epochs=2)


def test_the_table_has_what_is_finished(tmp_path: Path) -> None:
    done: dict[str, Any] = {f"ranked {index}": {"heldout": index / 10} for index in range(RANKED)}
    assert table({}, seeds=2).count("not finished") == 3

    done["supernet 0"] = {"ranked": [index / 20 for index in range(RANKED)], "searched_ms": 9.0, "hand_ms": 10.0}
    done |= {"searched 0": {"test": 0.5}, "by hand 0": {"test": 0.4}}
    text = table(done, seeds=2)
    assert "searched: 50.00" in text
    assert "0.90" in text
    assert "Kendall 1.00" in text
    assert text.count("not finished") == 1
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_supernets_come_before_what_needs_them(tmp_path: Path) -> None:
    names = [name for name, _ in parts(trainings(tmp_path / "state.json"), seeds=2)]

    assert len(names) == len(set(names)) == 1 + 2 * 3 + RANKED
    assert names.index("supernet 1") < names.index("searched 1")
