"""Every candidate that a search has asked for, and the one place where candidates are evaluated.

A search is the same whether its values are made now or were stored by a run that was killed: the ledger answers what
is stored from the study and has the rest evaluated, and it counts both alike.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.progress import SearchProgress
from hwnas.search.objective import Metrics, exact, joined, rows_of
from hwnas.search.pareto import HypervolumeBounds, hypervolume, known_rows, on_front
from hwnas.search.problem import Evaluators, Problem, Scores, require_metrics
from hwnas.search.seen import Seen, keys
from hwnas.search.study import Source, Study
from hwnas.space.space import Genomes, Mask

_log = logging.getLogger(__name__)

Stop = Literal["evaluations", "minutes", "stalled"]

_ANALYTIC = ("macs", "params")
_IDLE_GENERATIONS = 100


@dataclass(frozen=True, kw_only=True)
class Budget:
    """True evaluations, or minutes, or whichever ends first.

    Where nothing dear is asked for, every network counts as an evaluation.
    """

    evaluations: int | None = 500
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.minutes is None:
            raise InputError("a search needs a budget of evaluations or of minutes", hint="--budget 500")
        if self.evaluations is not None and self.evaluations < 1:
            raise InputError("a budget must be at least 1 evaluation", got=self.evaluations)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError("a budget of time must be above 0 minutes", got=self.minutes)


class Stopwatch:
    """Seconds that a search has taken, in this process and in those before it."""

    def __init__(self, *, before_s: float = 0.0) -> None:
        self._before_s, self._start = before_s, time.monotonic()

    def seconds(self) -> float:
        """Seconds so far."""
        return self._before_s + time.monotonic() - self._start


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Networks that were asked for, row by row; what was not evaluated is NaN."""

    genomes: Genomes
    metrics: Metrics
    scores: Scores
    generations: NDArray[np.intp]

    @property
    def evaluated(self) -> Mask:
        """Rows of which every objective is known."""
        return known_rows(self.scores.objectives)

    def rows(self, index: NDArray[np.intp]) -> "Candidates":
        """Some of the rows."""
        return Candidates(
            genomes=self.genomes[index],
            metrics=rows_of(self.metrics, index),
            scores=Scores(self.scores.objectives[index], self.scores.violations[index]),
            generations=self.generations[index],
        )


class Ledger:
    """The candidates of one search."""

    def __init__(
        self,
        problem: Problem,
        evaluators: Evaluators,
        *,
        budget: Budget,
        study: Study | None = None,
        bounds: HypervolumeBounds | None = None,
        on_progress: Callable[[SearchProgress], None] | None = None,
    ) -> None:
        self.problem, self.evaluators, self.budget, self.seen = problem, evaluators, budget, Seen()
        self.evaluations = 0
        self.stop: Stop | None = None
        """Why no more will be evaluated, once that is so."""
        self._study, self._stored = study, _Stored(study)
        self._stopwatch = Stopwatch(before_s=(study.recall("elapsed_s") or 0.0) if study is not None else 0.0)
        self._asked: set[bytes] = set()
        self._parts: list[Candidates] = []
        self._idle = 0
        self._bounds, self._on_progress, self._front = bounds, on_progress, np.zeros((0, len(problem.objectives)))

    @property
    def left(self) -> int:
        """Evaluations that the budget still allows; a budget of minutes alone allows any number."""
        if self.stop is not None:
            return 0
        most = self.budget.evaluations
        return 2**31 if most is None else most - self.evaluations

    @property
    def candidates(self) -> Candidates:
        """Everything that was asked for, in order."""
        if len(self._parts) > 1:
            self._parts = [_joined(self._parts)]
        return self._parts[0] if self._parts else self._none()

    def cheap(self, genomes: Genomes) -> Metrics:
        """Cheap metrics of networks that are only considered: nothing is counted or stored."""
        return self.evaluators.cheap(genomes)

    def evaluate(self, genomes: Genomes) -> Candidates:
        """Evaluate a generation of canonical genomes, none of which was evaluated before.

        What violates a cheap constraint gets no dear value and costs nothing; nor does what the budget no longer
        allows.
        """
        if not self.problem.has_dear:
            genomes = genomes[: self.left]
        if not len(genomes) or self.stop is not None:
            return self._none()
        self._require_new(genomes)
        generation = len(self._parts) and int(self._parts[-1].generations[-1]) + 1
        metrics = dict(self._cheap_metrics(genomes, generation))
        before = self.evaluations
        if self.problem.has_dear:
            metrics[str(self.problem.dear)] = exact(self._dear_values(genomes, self.problem.admits(metrics)))
        else:
            self.evaluations += len(genomes)
        part = Candidates(
            genomes=genomes,
            metrics=metrics,
            scores=self.problem.scores(metrics),
            generations=np.full(len(genomes), generation, dtype=np.intp),
        )
        self._parts.append(part)
        self._judge(spent=self.evaluations - before)
        _log.debug("generation %d: %d candidates, %d evaluations in all", generation, len(genomes), self.evaluations)
        if self.stop is not None:
            _log.info("the search stops: %s", self.stop)
        self._report(part)
        return part

    def _require_new(self, genomes: Genomes) -> None:
        new = keys(genomes)
        assert len(set(new) - self._asked) == len(genomes), "a network would be evaluated twice"
        self._asked.update(new)
        self.seen.add(genomes)

    def _cheap_metrics(self, genomes: Genomes, generation: int) -> Metrics:
        stored = self._stored.cheap(genomes, generation=generation)
        if stored is not None:
            return stored
        metrics = self.cheap(genomes)
        require_metrics(metrics, [name for name in self.problem.metrics if name != self.problem.dear])
        if self._study is not None:
            sources: dict[str, Source] = {name: "analytic" if name in _ANALYTIC else "predicted" for name in metrics}
            self._study.add(genomes, generation=generation, metrics=metrics, sources=sources)
        return metrics

    def _dear_values(self, genomes: Genomes, admitted: Mask) -> NDArray[np.float64]:
        values = np.full(len(genomes), np.nan)
        missing = []
        for row in np.flatnonzero(admitted)[: self.left].tolist():
            stored = self._stored.dear(genomes[row : row + 1], metric=str(self.problem.dear))
            if stored is None:
                missing.append(row)
            else:
                values[row] = stored
                self.evaluations += 1
        self._evaluate_truly(genomes, missing, values)
        return values

    def _evaluate_truly(self, genomes: Genomes, rows: list[int], values: NDArray[np.float64]) -> None:
        assert self.evaluators.dear is not None, "a dear metric without its evaluator"
        if not rows or self._late():
            return
        for index, value in self.evaluators.dear(genomes[rows]):
            values[rows[index]] = value
            self.evaluations += 1
            self._record(genomes[rows[index] : rows[index] + 1], value)
            if self._late():
                return

    def _record(self, genome: Genomes, value: float) -> None:
        if self._study is None:
            return
        space, metric = self.problem.space, str(self.problem.dear)
        (candidate,) = space.candidates(genome)
        self._study.record(genome, metric=metric, value=exact([value]), source="supernet", arch_id=candidate.arch_id)

    def _late(self) -> bool:
        minutes, elapsed_s = self.budget.minutes, self._stopwatch.seconds()
        # What is stored was made in time, however long ago that was.
        if minutes is None or len(self._asked) < len(self._stored):
            return False
        if self._study is not None:
            self._study.remember("elapsed_s", elapsed_s)
        return elapsed_s >= 60 * minutes

    def _judge(self, *, spent: int) -> None:
        self._idle = 0 if spent else self._idle + 1
        if not self.left:
            self.stop = "evaluations"
        elif self._late():
            self.stop = "minutes"
        elif self._idle >= _IDLE_GENERATIONS:
            self.stop = "stalled"

    def _report(self, part: Candidates) -> None:
        if self._on_progress is None:
            return
        points = np.concatenate([self._front, part.scores.objectives[part.scores.feasible]])
        self._front = points[on_front(points)]
        self._on_progress(
            SearchProgress(
                generation=int(part.generations[0]),
                evaluations=self.evaluations,
                max_evaluations=self.budget.evaluations,
                max_minutes=self.budget.minutes,
                candidates=len(self._asked),
                elapsed_s=self._stopwatch.seconds(),
                hypervolume=None if self._bounds is None else hypervolume(self._front, self._bounds),
                best=self._best(),
            )
        )

    def _best(self) -> dict[str, float]:
        if not len(self._front):
            return {}
        objectives = self.problem.objectives
        return {str(o): o.value(best) for o, best in zip(objectives, self._front.min(axis=0).tolist(), strict=True)}

    def _none(self) -> Candidates:
        return Candidates(
            genomes=np.zeros((0, len(self.problem.space.dimensions)), dtype=np.int16),
            metrics={name: exact([]) for name in self.problem.metrics},
            scores=Scores(np.zeros((0, len(self.problem.objectives))), np.zeros((0, len(self.problem.constraints)))),
            generations=np.zeros(0, dtype=np.intp),
        )


class _Stored:
    """What a study held when the search began."""

    def __init__(self, study: Study | None) -> None:
        self._table = study.table() if study is not None and len(study) else None
        self._truly = study.arch_ids() if study is not None else {}
        known = [] if self._table is None else keys(self._table.genomes)
        self._rows = {key: row for row, key in enumerate(known)}

    def __len__(self) -> int:
        return len(self._rows)

    def cheap(self, genomes: Genomes, *, generation: int) -> Metrics | None:
        """The cheap metrics of a generation, or None if it is not stored: it is stored as a whole or not at all."""
        if self._table is None or generation > self._table.generations[-1]:
            return None
        rows = np.array([self._rows.get(key, -1) for key in keys(genomes)], dtype=np.intp)
        if (rows < 0).any() or (self._table.generations[rows] != generation).any():
            raise InputError(
                "what a study holds must be what its search asks for",
                got=f"other networks in generation {generation}",
                hint="go on where the search was begun: another CPU may answer otherwise",
            )
        return rows_of(self._table.metrics, rows)

    def dear(self, genome: Genomes, *, metric: str) -> float | None:
        """The dear value of one candidate, or None if it was not evaluated."""
        (key,) = keys(genome)
        if self._table is None or key not in self._truly:
            return None
        return float(self._table.metrics[metric].mean[self._rows[key]])


def _joined(parts: list[Candidates]) -> Candidates:
    return Candidates(
        genomes=np.concatenate([part.genomes for part in parts]),
        metrics=joined([part.metrics for part in parts]),
        scores=Scores(
            np.concatenate([part.scores.objectives for part in parts]),
            np.concatenate([part.scores.violations for part in parts]),
        ),
        generations=np.concatenate([part.generations for part in parts]),
    )
