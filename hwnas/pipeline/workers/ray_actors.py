"""Workers that are actors of a Ray cluster: one for each GPU, or for as many cores as a network is evaluated with.

Requests and answers are texts of JSON. Ray itself decides where an actor runs and when a machine is added for it: while
batches wait, one more actor is asked for than the cluster has room for.
"""

import json
import logging
import signal
import threading
import traceback
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from importlib import import_module
from typing import Any

from hwnas.config import parse_json, to_mapping
from hwnas.errors import InputError, MissingError
from hwnas.pipeline.workers.executor import Answer, SameFacts, WorkerLostError
from hwnas.pipeline.workers.messages import EvaluationTask

_log = logging.getLogger(__name__)


class EvaluationActor:
    """The actor: it opens a task once, and answers batches."""

    def __init__(self) -> None:
        from hwnas.extensions import load_extensions
        from hwnas.pipeline.workers.evaluator import BatchEvaluator

        load_extensions()
        self._evaluator = BatchEvaluator()

    def answer(self, request: str) -> str:
        """Answer a request with JSON; an exception, which Ray would send as a pickle, is an answer as well."""
        try:
            return json.dumps(self._evaluator.answer(json.loads(request)))
        except Exception as error:
            return json.dumps({"lost": traceback.format_exception_only(error)[-1].strip()})


class RayActors:
    """Actors of a Ray cluster, each started when there is a batch for it.

    Args:
        task: What they open, at paths that all machines of the cluster must share.
        address: Address of the cluster; None: that of `RAY_ADDRESS`, or a cluster on this machine, which is started if
            there is none.
    """

    def __init__(self, task: EvaluationTask, *, address: str | None = None) -> None:
        self._task, self._address, self._facts = task, address, SameFacts()
        self._ray: Any = None
        self._owns_connection = False
        self._idle: list[Any] = []
        self._busy: dict[Future[Any], Any] = {}
        self._starting: dict[Future[Any], Any] = {}

    def submit(self, request: Mapping[str, Any], *, waiting: int) -> "Future[Any] | None":
        """Send a request to an actor that is free; without one, ask Ray for further actors."""
        self._take_started()
        if not self._idle:
            room = max(self._slots() - len(self._busy), 0) + 1
            while len(self._starting) < min(waiting, room):
                self._start()
            return None
        actor = self._idle.pop()
        future = actor.answer.remote(json.dumps(request)).future()
        self._busy[future] = actor
        return future  # type: ignore[no-any-return]

    def starting(self) -> "Collection[Future[Any]]":
        """Return the starts of the actors that Ray was asked for."""
        return tuple(self._starting)

    def answer(self, future: "Future[Any]") -> Answer:
        """Return the answer to a request that is done, which makes its actor free."""
        actor = self._busy.pop(future)
        answer = self._result(future, actor, started=True)
        self._idle.append(actor)
        return answer

    def close(self) -> None:
        """End all actors, and the connection to the cluster if it was opened here."""
        if self._ray is None:
            return
        for actor in (*self._idle, *self._busy.values(), *self._starting.values()):
            self._ray.kill(actor)
        if self._owns_connection:
            self._ray.shutdown()

    def _slots(self) -> int:
        """Return the number of actors that the machines of the cluster have room for."""
        total = self._connected().cluster_resources()
        if self._task.device == "cuda":
            return int(total.get("GPU", 0))
        return int(total.get("CPU", 0)) // self._task.threads

    def _start(self) -> None:
        options = {"num_cpus": self._task.threads, "num_gpus": 0}
        if self._task.device == "cuda":
            options = {"num_cpus": 1, "num_gpus": 1}
        actor = self._connected().remote(**options)(EvaluationActor).remote()
        self._starting[actor.answer.remote(json.dumps({"open": to_mapping(self._task)})).future()] = actor

    def _take_started(self) -> None:
        for future in [future for future in self._starting if future.done()]:
            actor = self._starting.pop(future)
            self._facts.require(self._result(future, actor, started=False))
            _log.info("an actor of Ray evaluates networks")
            self._idle.append(actor)

    def _result(self, future: "Future[Any]", actor: Any, *, started: bool) -> Answer:
        try:
            answer = parse_json(str(future.result()), source="the answer of an actor")
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WorkerLostError(lines[0], started=started) from error
        if not isinstance(answer, dict):
            raise InputError("the answer of an actor must be a table", got=type(answer).__name__)
        if "lost" in answer:  # what it raised may have broken its GPU's context, so another one takes its place
            self._ray.kill(actor)
            raise WorkerLostError(str(answer["lost"]), started=started)
        return answer

    def _connected(self) -> Any:
        """Connect to the cluster once."""
        if self._ray is not None:
            return self._ray
        ray = load_ray()
        if not ray.is_initialized():
            _connect(ray, self._address)
            self._owns_connection = True
        self._ray = ray
        return ray


def load_ray() -> Any:
    """Import Ray, which is no dependency of hwnas.

    Raises:
        MissingError: It is not installed.
    """
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise MissingError(
            "ray must be installed to evaluate on it", got=error, hint="pip install 'hwnas[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    is_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # a node that does not start in time is a plain Exception
        place = "on this machine" if address is None else f"at {address}"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"a Ray cluster must answer {place}", got=lines[0], hint="ray status") from error
    finally:
        if is_main_thread:  # Ray sets a handler that exits at once
            signal.signal(signal.SIGTERM, handler)
