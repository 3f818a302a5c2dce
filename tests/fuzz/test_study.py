"""A study that is written, killed, cut and resumed in any order is always one that it was after a commit."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hwnas.errors import InputError
from hwnas.search.objective import exact
from hwnas.search.study import Study
from hwnas.space import SPACES

SPACE = SPACES.get("autoformer-micro")
CONFIG = {"space": SPACE.name, "budget": 80}
CHEAP = {"macs": "analytic", "params": "analytic"}

Contents = tuple[Any, ...]


def contents(study: Study) -> Contents:
    """Everything in a study but the times at which values were made."""
    connection = study._connection
    queries = (
        "SELECT * FROM meta ORDER BY key",
        "SELECT * FROM candidates ORDER BY id",
        "SELECT * FROM metrics ORDER BY id",
        "SELECT metric, source, candidate, value, lower, upper FROM evaluations ORDER BY metric, source, candidate",
    )
    return tuple(tuple(connection.execute(query).fetchall()) for query in queries)


class StudyMachine(RuleBasedStateMachine):
    """One study, the process that may be writing it, and all states in which it was committed."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="hwnas-study-")
        self.number = 0
        self.path = Path(self._folder.name) / "0"
        self.path.mkdir()
        self.study: Study | None = None
        self.rng = np.random.default_rng(3)
        self.added: list[Any] = []
        self.history: list[Contents] = []
        self.can_be_older = False

    def teardown(self) -> None:
        if self.study is not None:
            self.study.close()
        self._folder.cleanup()

    @precondition(lambda self: self.study is None)
    @rule()
    def open(self) -> None:
        self.study = Study.open(self.path, config=CONFIG)
        found = contents(self.study)
        if self.history and self.can_be_older:
            assert found in self.history
            del self.history[self.history.index(found) + 1 :]
        elif self.history:
            assert found == self.history[-1]
        else:
            self.history = [found]
        self.can_be_older = False
        self.added = [genome for genome in self.added if _is_in(genome, found)]

    @precondition(lambda self: self.study is not None)
    @rule(count=st.integers(1, 5))
    def add(self, count: int) -> None:
        assert self.study is not None
        known = {genome.tobytes() for genome in self.added}
        rows = [genome for genome in SPACE.sample(self.rng, 3 * count) if genome.tobytes() not in known]
        genomes = np.unique(np.array(rows).reshape(-1, SPACE.sample(self.rng, 1).shape[1]), axis=0)[:count]
        if len(genomes) == 0:
            return
        costs = SPACE.costs(genomes)
        metrics = {"macs": exact(costs.macs.astype(float)), "params": exact(costs.params.astype(float))}
        self.study.add(genomes, generation=len(self.history), metrics=metrics, sources=CHEAP)  # type: ignore[arg-type]
        self.added.extend(genomes)
        self._committed()

    @precondition(lambda self: self.study is not None and self.added)
    @rule(value=st.floats(0, 1), data=st.data())
    def store_value(self, value: float, data: st.DataObject) -> None:
        assert self.study is not None
        index = data.draw(st.integers(0, len(self.added) - 1))
        self.study.store_value(
            self.added[index][None], metric="accuracy", value=exact(np.array([value])), source="supernet", arch_id="x"
        )
        self._committed()

    @precondition(lambda self: self.study is not None)
    @rule(value=st.integers(0, 9))
    def remember(self, value: int) -> None:
        assert self.study is not None
        self.study.remember("note", {"value": value})
        self._committed()

    @precondition(lambda self: self.study is not None)
    @rule()
    def close(self) -> None:
        assert self.study is not None
        self.study.close()
        self.study = None

    @precondition(lambda self: self.study is not None)
    @rule(share=st.floats(0, 1), cut=st.booleans(), unfinished=st.booleans())
    def kill(self, share: float, cut: bool, unfinished: bool) -> None:
        """The process ends without a word, perhaps within a transaction; of the log any part may reach the disk."""
        assert self.study is not None
        if unfinished:
            self.study._connection.execute("BEGIN")
            self.study._connection.execute("INSERT INTO meta VALUES ('unfinished', '1')")
        self.number += 1
        copied = Path(self._folder.name) / str(self.number)
        shutil.copytree(self.path, copied)  # the files as a process that ends now would leave them
        if unfinished:
            self.study._connection.execute("ROLLBACK")
        self.study.close()
        self.study, self.path = None, copied
        log = copied / "study.sqlite-wal"
        if cut and log.exists():
            with log.open("r+b") as file:
                file.truncate(int(share * log.stat().st_size))
            self.can_be_older = True

    @precondition(lambda self: self.study is not None)
    @rule()
    def second_writer(self) -> None:
        with pytest.raises(InputError, match="is being written by another"):
            Study.open(self.path, config=CONFIG)

    @precondition(lambda self: self.study is None and self.history and not self.can_be_older)
    @rule()
    def other_config(self) -> None:
        with pytest.raises(InputError, match="another configuration"):
            Study.resume(self.path, config={**CONFIG, "budget": 81})

    @precondition(lambda self: self.history and not self.can_be_older)
    @invariant()
    def read_by_others(self) -> None:
        with Study.read(self.path) as study:
            assert contents(study) == self.history[-1]

    def _committed(self) -> None:
        assert self.study is not None
        self.history.append(contents(self.study))


def _is_in(genome: Any, found: Contents) -> bool:
    return any(row[1] == genome.astype("<i2").tobytes() for row in found[1])


TestStudyMachine = StudyMachine.TestCase
TestStudyMachine.settings = settings(max_examples=15, stateful_step_count=16, deadline=None)
