"""An environment for campaigns that take no time: this machine, with fake worker processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwnas.devices import Machine, detect
from hwnas.errors import HwnasError
from hwnas.profile.environment import CampaignEnvironment
from hwnas.progress import CampaignProgress, ProgressEvent
from hwnas.records import Failure
from hwnas.runs import Environment
from tests.profile.stand_ins import FakeWorker

MACHINE: Machine = detect()
CPU = MACHINE.cpu.slug


@dataclass
class FakeEnvironment:
    """This machine with fake workers; a test sets what they report and sees which were started."""

    versions: tuple[str, ...] = ("torch==2.15.0", "click==8.2")
    failing: Mapping[str, Failure] = field(default_factory=dict)
    reference_failures: Mapping[int, Failure] = field(default_factory=dict)
    noise: float = 0.0
    notes: tuple[str, ...] = ()
    machine: Machine = MACHINE
    gone: Mapping[str, HwnasError] = field(default_factory=dict)
    """GPUs that have disappeared, by UUID."""
    workers: list[FakeWorker] = field(default_factory=list)
    gpus: list[str | None] = field(default_factory=list)
    """The GPU of each worker."""

    def make(self) -> CampaignEnvironment:
        software = Environment(
            hwnas="0.1", python="3.11.7", system="Linux", release="6", machine="x86_64", packages=self.versions
        )
        return CampaignEnvironment(machine=self.machine, software=software, start=self._start)

    def _start(self, gpu: str | None) -> FakeWorker:
        worker = FakeWorker(
            failing=self.failing,
            reference_failures=self.reference_failures,
            noise=self.noise,
            notes=self.notes,
            gone=self.gone.get(gpu or ""),
        )
        self.gpus.append(gpu)
        self.workers.append(worker)
        return self.workers[-1]


@dataclass
class Listener:
    """Records messages and progress."""

    texts: list[str] = field(default_factory=list)
    states: list[CampaignProgress] = field(default_factory=list)

    def message(self, text: str) -> None:
        self.texts.append(text)

    def update(self, event: ProgressEvent) -> None:
        assert isinstance(event, CampaignProgress)
        self.states.append(event)
