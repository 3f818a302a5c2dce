"""A worker process that knows runtimes which go wrong in every way; only tests start it.

Its networks are tiny ones of its own, so that it starts without timm. The reference network is told by its number of
classes, and works in every runtime that is not named after it.
"""

import logging
import os
import signal
import sys
import threading
import time

import torch
from torch import Tensor, nn

from hwnas.devices import Device
from hwnas.metrics import RUNTIMES
from hwnas.profile import network_timer
from hwnas.profile.runners.runner import AVAILABLE, Availability, MeasurementError, Sample, progress_callback
from hwnas.profile.runners.torch import TorchRunner, TorchSession
from hwnas.profile.worker_process import main
from hwnas.records import Setting, Subject

LOG = logging.getLogger("hwnas.profile.faulty")

NUM_REFERENCE_CLASSES = 7
"""The reference network of these tests is the one with so many classes."""


def tiny_network(subject: Subject, *, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    inputs = subject.channels * subject.image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.GELU(), nn.Linear(8, subject.num_classes)).eval()


def _is_reference(module: nn.Module) -> bool:
    return list(module.parameters())[-1].shape[0] == NUM_REFERENCE_CLASSES


class _Faulty(TorchRunner):
    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        if not _is_reference(module):
            self.go_wrong()
        return super().prepare(module, images, setting)

    def go_wrong(self) -> None:
        raise NotImplementedError


class Works(_Faulty):
    def go_wrong(self) -> None:
        print("this is on standard output, and must not disturb the answers")
        os.write(1, b"nor must this, which goes past Python\n")


class Logs(_Faulty):
    def go_wrong(self) -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            LOG.log(level, "a record of level %d", level)


class Crash(_Faulty):
    def go_wrong(self) -> None:
        LOG.warning("the end is near")
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)


class Exit(_Faulty):
    def go_wrong(self) -> None:
        os._exit(9)


class Hang(_Faulty):
    def go_wrong(self) -> None:
        if os.fork() == 0:  # what it started must not outlive it either
            time.sleep(600)
        time.sleep(600)


class _SlowSession(TorchSession):
    def run_once(self) -> Sample:
        time.sleep(0.4)
        return super().run_once()


class Slow(_Faulty):
    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        return (TorchSession if _is_reference(module) else _SlowSession)(module, images, setting)


class LongBuild(_Faulty):
    """Reports from a thread of its own, as a builder of engines does."""

    def go_wrong(self) -> None:
        on_progress, until_s = progress_callback(), time.monotonic() + 4

        def work() -> None:
            while time.monotonic() < until_s:
                time.sleep(0.1)
                on_progress()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


class Memory(_Faulty):
    def go_wrong(self) -> None:
        torch.empty(2**44, dtype=torch.uint8)


class BrokenContext(_Faulty):
    """Lets everything that follows in its process fail, as after an error of the GPU."""

    broken = False

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        if type(self).broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return super().prepare(module, images, setting)

    def go_wrong(self) -> None:
        type(self).broken = True
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nSearch for `cudaError'")


class LargeReference(TorchRunner):
    """The reference network fits with no batch but 1."""

    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        if setting.batch > 1 and _is_reference(module):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB")
        return super().prepare(module, images, setting)


class Unsupported(_Faulty):
    def go_wrong(self) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 9 : Could not find an implementation for Conv(1)")


class Export(_Faulty):
    def go_wrong(self) -> None:
        raise RuntimeError("the graph has a cycle")


class Declined(_Faulty):
    def go_wrong(self) -> None:
        raise MeasurementError("unsupported", "there is no such layer here")


class _Altered(_Faulty):
    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        session = TorchSession(module, images, setting)
        if not _is_reference(module):
            with torch.no_grad():
                list(session._module.parameters())[-1].add_(self.shift)
        return session

    shift = 0.0


class Mismatch(_Altered):
    shift = 0.5


class Nan(_Altered):
    shift = float("nan")


class BadReference(TorchRunner):
    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        raise RuntimeError("no kernel image")


class DeadReference(TorchRunner):
    def prepare(self, module: nn.Module, images: Tensor, setting: Setting) -> TorchSession:
        os._exit(3)


class Absent(TorchRunner):
    def available(self, device: Device) -> Availability:
        return Availability(available=False, reason="it is not installed", extra="gpu")


class NoPrecision(TorchRunner):
    def supports(self, setting: Setting) -> Availability:
        return AVAILABLE if setting.precision == "fp16" else Availability(available=False, reason="only fp16")


_KINDS = {
    "works": Works,
    "crash": Crash,
    "exit": Exit,
    "hang": Hang,
    "slow": Slow,
    "long-build": LongBuild,
    "memory": Memory,
    "broken-context": BrokenContext,
    "large-reference": LargeReference,
    "unsupported": Unsupported,
    "export": Export,
    "declined": Declined,
    "logs": Logs,
    "mismatch": Mismatch,
    "nan": Nan,
    "bad-reference": BadReference,
    "dead-reference": DeadReference,
    "absent": Absent,
    "no-precision": NoPrecision,
}

if __name__ == "__main__":
    # The registry imports runners by the name of their module: it must find this one, and not a second copy.
    sys.modules["tests.profile.faulty"] = sys.modules["__main__"]
    for _name, _kind in _KINDS.items():
        RUNTIMES.add(_name, f"tests.profile.faulty:{_kind.__name__}")
    setattr(network_timer, "build_subject", tiny_network)  # noqa: B010 - the module does not export it
    main()
