"""The candidates that a search has evaluated, and the one place where candidates are evaluated.

A search is the same whether its values are made now or were stored by a run that was killed: the ledger takes stored
values from the study, has the others evaluated, and counts both alike.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.config import Above, Between, require_valid, shown
from hwnas.errors import InputError
from hwnas.progress import SearchProgress
from hwnas.search.genome_set import GenomeSet, genome_keys
from hwnas.search.objective import Metrics, concatenated, exact, select_rows
from hwnas.search.pareto import HypervolumeBounds, hypervolume, known_rows, on_front
from hwnas.search.problem import Evaluators, PopulationScores, Problem, require_metrics
from hwnas.search.study import Source, Study
from hwnas.space.space import Genomes, Mask

_log = logging.getLogger(__name__)

StopReason = Literal["evaluations", "minutes", "stalled"]

_ANALYTIC = ("macs", "params")
"""Metrics that are computed by a formula; the other cheap ones are predicted."""

_IDLE_GENERATIONS = 100
"""Generations without an evaluation after which a search has stalled."""

_UNLIMITED = 2**31


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Evaluations of the expensive metric, or minutes, whichever ends first.

    Without an expensive metric every network counts as an evaluation.
    """

    evaluations: Annotated[int, Between(1, 1_000_000)] | None = 500
    minutes: Annotated[float, Above(0, 1_000_000)] | None = None
    earlier: tuple[Annotated[int, Between(1, 1_000_000)], ...] = ()
    """Budgets of evaluations that the search had before it was given more; up to each it is the search that it was."""

    def __post_init__(self) -> None:
        if self.evaluations is None and self.minutes is None:
            raise InputError("a search needs a budget of evaluations or of minutes", hint="--budget 500")
        require_valid(self)
        ends = [*self.earlier, self.evaluations or 0]
        if any(after <= before for before, after in pairwise(ends)):
            raise InputError("each budget of a search must be larger than the one before", got=shown(ends))

    @property
    def planned(self) -> int | None:
        """Evaluations that sizes are scaled to: those that the search began with."""
        return self.earlier[0] if self.earlier else self.evaluations

    def left(self, evaluations: int) -> int | None:
        """Return how many evaluations follow until the search ends, or until it ended before; None: any number."""
        if self.evaluations is None:
            return None
        return next((end for end in self.earlier if end > evaluations), self.evaluations) - evaluations

    def extended(self, evaluations: int) -> Self:
        """Return the budget of the same search with more evaluations.

        Raises:
            InputError: The budget is of minutes, or has as many evaluations already.
        """
        if self.evaluations is None or self.minutes is not None:
            message = "a search that ends after some minutes cannot be given more evaluations"
            raise InputError(message, got=f"{self.minutes:g} minutes", hint="a new search with --budget")
        if evaluations <= self.evaluations:
            message = f"the budget must be more than the {self.evaluations} evaluations that the search has"
            raise InputError(message, got=evaluations, hint=f"--budget {2 * self.evaluations}")
        return replace(self, evaluations=evaluations, earlier=(*self.earlier, self.evaluations))


class Stopwatch:
    """Measures the seconds that a search takes, in this process and in those before it."""

    def __init__(self, *, before_s: float = 0.0) -> None:
        self._before_s, self._start = before_s, time.monotonic()

    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._before_s + time.monotonic() - self._start


@dataclass(frozen=True, kw_only=True)
class EvaluatedCandidates:
    """Networks that a search has requested, row by row; what was not evaluated is NaN."""

    genomes: Genomes
    metrics: Metrics
    scores: PopulationScores
    generations: NDArray[np.intp]

    @property
    def evaluated(self) -> Mask:
        """Rows in which every objective is known."""
        return known_rows(self.scores.objectives)

    def rows(self, index: NDArray[np.intp]) -> "EvaluatedCandidates":
        """Return some of the rows."""
        return EvaluatedCandidates(
            genomes=self.genomes[index],
            metrics=select_rows(self.metrics, index),
            scores=PopulationScores(self.scores.objectives[index], self.scores.violations[index]),
            generations=self.generations[index],
        )


class SearchLedger:
    """The candidates of one search: what was evaluated, what it scored, and when the budget is spent."""

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
        """Start a ledger.

        Args:
            problem: What is optimised.
            evaluators: The functions that evaluate networks.
            budget: When to stop.
            study: Stores values and gives back those of a search that was killed; None: nothing is stored.
            bounds: Bounds of the hypervolume that progress reports; None: it reports none.
            on_progress: Called after each generation.
        """
        self.problem, self.evaluators, self.budget, self.seen = problem, evaluators, budget, GenomeSet()
        self.evaluations = 0
        self.stop: StopReason | None = None
        """Why nothing more is evaluated; None while the search may continue."""
        self._study, self._stored = study, _StoredValues(study, problem)
        self._stopwatch = Stopwatch(before_s=0.0 if study is None else study.recall_seconds("elapsed_s"))
        self._requested: set[bytes] = set()
        self._values: dict[bytes, float] = {}
        """The expensive values that are known, by the key of the candidate, or of the first one that shares it."""
        self._parts: list[EvaluatedCandidates] = []
        self._idle = 0
        self._bounds, self._on_progress, self._front = bounds, on_progress, np.zeros((0, len(problem.objectives)))

    @property
    def left(self) -> int:
        """Evaluations that the budget still allows; a budget of minutes alone allows any number."""
        if self.stop is not None:
            return 0
        left = self.budget.left(self.evaluations)
        return _UNLIMITED if left is None else left

    @property
    def candidates(self) -> EvaluatedCandidates:
        """All candidates, in the order in which they were requested."""
        if len(self._parts) > 1:
            self._parts = [_concatenated_candidates(self._parts)]
        return self._parts[0] if self._parts else self._empty()

    def cheap(self, genomes: Genomes) -> Metrics:
        """Return the cheap metrics of networks without counting or storing anything."""
        return self.evaluators.cheap(genomes)

    def evaluate(self, genomes: Genomes) -> EvaluatedCandidates:
        """Evaluate a generation of canonical genomes, none of which was evaluated before.

        Networks that violate a cheap constraint get no expensive value and cost nothing, nor do those that the budget
        no longer allows.
        """
        if not self.problem.has_expensive:
            genomes = genomes[: self.left]
        if not len(genomes) or self.stop is not None:
            return self._empty()
        before = self.evaluations
        part = self._evaluate_generation(genomes)
        self._update_stop(num_evaluated=self.evaluations - before)
        _log.debug(
            "generation %d: %d candidates, %d evaluations in all", part.generations[0], len(genomes), self.evaluations
        )
        if self.stop is not None:
            _log.info("the search stops: %s", self.stop)
        self._report(part)
        return part

    def evaluate_siblings(self, evaluated: EvaluatedCandidates) -> EvaluatedCandidates:
        """Add unseen candidates that share the expensive values of evaluated ones, which costs nothing.

        Where deployments share the expensive value, an evaluated network is known in all of them, and the best ones may
        be on the front. It can be called when the budget is spent.
        """
        if self.evaluators.shared_by is None:
            return self._empty()
        siblings = self.evaluators.shared_by.accuracy_siblings(evaluated.genomes[evaluated.evaluated])
        siblings = siblings[self.seen.is_new(siblings)]
        if not len(siblings):
            return self._empty()
        part = self._evaluate_generation(siblings)
        self._report(part)
        return part

    def _evaluate_generation(self, genomes: Genomes) -> EvaluatedCandidates:
        new = genome_keys(genomes)
        assert len(set(new) - self._requested) == len(genomes), "a network would be evaluated twice"
        self._requested.update(new)
        self.seen.add(genomes)
        generation = len(self._parts) and int(self._parts[-1].generations[-1]) + 1
        metrics = dict(self._cheap_metrics(genomes, generation))
        if self.problem.has_expensive:
            metrics[str(self.problem.expensive)] = exact(self._expensive_values(genomes, self.problem.admits(metrics)))
        else:
            self.evaluations += len(genomes)
        part = EvaluatedCandidates(
            genomes=genomes,
            metrics=metrics,
            scores=self.problem.scores(metrics),
            generations=np.full(len(genomes), generation, dtype=np.intp),
        )
        self._parts.append(part)
        return part

    def _cheap_metrics(self, genomes: Genomes, generation: int) -> Metrics:
        stored = self._stored.cheap_metrics(genomes, generation=generation)
        if stored is not None:
            return stored
        metrics = self.cheap(genomes)
        require_metrics(metrics, [name for name in self.problem.metrics if name != self.problem.expensive])
        if self._study is not None:
            sources: dict[str, Source] = {name: "analytic" if name in _ANALYTIC else "predicted" for name in metrics}
            self._study.add(genomes, generation=generation, metrics=metrics, sources=sources)
        return metrics

    def _expensive_values(self, genomes: Genomes, admitted: Mask) -> NDArray[np.float64]:
        """Take stored values from the study, evaluate the others, and store each as soon as it is done."""
        values = np.full(len(genomes), np.nan)
        missing: list[tuple[bytes, NDArray[np.intp]]] = []
        left = self.left
        for key, rows in self._rows_by_value(genomes, np.flatnonzero(admitted)).items():
            if key not in self._values:
                if left < 1:
                    continue
                left -= 1
                stored = self._stored.expensive_value(genomes[rows], metric=str(self.problem.expensive))
                if stored is None:
                    missing.append((key, rows))
                    continue
                self._values[key] = stored
                self.evaluations += 1
            self._set_value(genomes, values, rows, self._values[key])
        if not missing or self._is_late():
            return values
        assert self.evaluators.expensive is not None, "an expensive metric without its evaluator"
        for index, value in self.evaluators.expensive(genomes[[rows[0] for _, rows in missing]]):
            key, rows = missing[index]
            self._values[key] = value
            self.evaluations += 1
            self._set_value(genomes, values, rows, value)
            if self._is_late():
                break
        return values

    def _rows_by_value(self, genomes: Genomes, rows: NDArray[np.intp]) -> dict[bytes, NDArray[np.intp]]:
        """Group rows that have the same expensive value, which is one row each unless deployments share it."""
        shared_by, grouped = self.evaluators.shared_by, dict[bytes, list[int]]()
        representatives = genomes if shared_by is None else shared_by.accuracy_representatives(genomes)
        for row, key in zip(rows.tolist(), genome_keys(representatives[rows]), strict=True):
            grouped.setdefault(key, []).append(row)
        return {key: np.array(group, dtype=np.intp) for key, group in grouped.items()}

    def _set_value(self, genomes: Genomes, values: NDArray[np.float64], rows: NDArray[np.intp], value: float) -> None:
        """Set the expensive value of rows, and store it in the study unless it is there."""
        values[rows] = value
        if self._study is None:
            return
        metric = str(self.problem.expensive)
        for row in rows.tolist():
            genome = genomes[row : row + 1]
            if self._stored.expensive_value(genome, metric=metric) is None:
                arch_id = self.problem.space.candidates(genome)[0].id
                self._study.store_value(genome, metric=metric, value=exact([value]), source="supernet", arch_id=arch_id)

    def _is_late(self) -> bool:
        minutes, elapsed_s = self.budget.minutes, self._stopwatch.seconds()
        # Stored values were made in time, however long ago: a replay must not stop before all of them are used.
        if minutes is None or len(self._requested) < len(self._stored):
            return False
        if self._study is not None:
            self._study.remember("elapsed_s", elapsed_s)
        return elapsed_s >= 60 * minutes

    def _update_stop(self, *, num_evaluated: int) -> None:
        self._idle = 0 if num_evaluated else self._idle + 1
        if not self.left:
            self.stop = "evaluations"
        elif self._is_late():
            self.stop = "minutes"
        elif self._idle >= _IDLE_GENERATIONS:
            self.stop = "stalled"

    def _report(self, part: EvaluatedCandidates) -> None:
        if self._on_progress is None:
            return
        points = np.concatenate([self._front, part.scores.objectives[part.scores.feasible]])
        self._front = points[on_front(points)]
        best = self._front.min(axis=0).tolist() if len(self._front) else []
        self._on_progress(
            SearchProgress(
                generation=int(part.generations[0]),
                evaluations=self.evaluations,
                max_evaluations=self.budget.evaluations,
                max_minutes=self.budget.minutes,
                candidates=len(self._requested),
                elapsed_s=self._stopwatch.seconds(),
                hypervolume=None if self._bounds is None else hypervolume(self._front, self._bounds),
                best={str(item): item.value(value) for item, value in zip(self.problem.objectives, best, strict=False)},
            )
        )

    def _empty(self) -> EvaluatedCandidates:
        num_objectives, num_constraints = len(self.problem.objectives), len(self.problem.constraints)
        return EvaluatedCandidates(
            genomes=np.zeros((0, len(self.problem.space.dimensions)), dtype=np.int16),
            metrics={name: exact([]) for name in self.problem.metrics},
            scores=PopulationScores(np.zeros((0, num_objectives)), np.zeros((0, num_constraints))),
            generations=np.zeros(0, dtype=np.intp),
        )


class _StoredValues:
    """The values that a study held when the search began."""

    def __init__(self, study: Study | None, problem: Problem) -> None:
        self._table = study.table(space=problem.space) if study is not None and len(study) else None
        self._evaluated = study.arch_ids() if study is not None else {}
        known = [] if self._table is None else genome_keys(self._table.genomes)
        self._rows = {key: row for row, key in enumerate(known)}
        if study is not None and self._table is not None:
            missing = [name for name in problem.metrics if name not in self._table.metrics]
            if missing and (self._evaluated or missing != [problem.expensive]):
                message = f"{study.file}: metrics must be those of the search"
                raise InputError(message, got=f"no {missing[0]}", hint="start a new search")

    def __len__(self) -> int:
        return len(self._rows)

    def cheap_metrics(self, genomes: Genomes, *, generation: int) -> Metrics | None:
        """Return the cheap metrics of a generation, which is stored in full or not at all (None).

        Raises:
            InputError: The stored generation has other networks.
        """
        if self._table is None or generation > self._table.generations[-1]:
            return None
        rows = np.array([self._rows.get(key, -1) for key in genome_keys(genomes)], dtype=np.intp)
        if (rows < 0).any() or (self._table.generations[rows] != generation).any():
            raise InputError(
                "a resumed search must request the networks that its study holds",
                got=f"other networks in generation {generation}",
                hint="resume it on the machine where it was started, as another CPU may predict other values, "
                "or with the version of hwnas that began it",
            )
        return select_rows(self._table.metrics, rows)

    def expensive_value(self, genomes: Genomes, *, metric: str) -> float | None:
        """Return the expensive value that some candidates share, or None if none of them was evaluated."""
        for key in genome_keys(genomes):
            if self._table is not None and key in self._evaluated:
                return float(self._table.metrics[metric].mean[self._rows[key]])
        return None


def _concatenated_candidates(parts: list[EvaluatedCandidates]) -> EvaluatedCandidates:
    return EvaluatedCandidates(
        genomes=np.concatenate([part.genomes for part in parts]),
        metrics=concatenated([part.metrics for part in parts]),
        scores=PopulationScores(
            np.concatenate([part.scores.objectives for part in parts]),
            np.concatenate([part.scores.violations for part in parts]),
        ),
        generations=np.concatenate([part.generations for part in parts]),
    )
