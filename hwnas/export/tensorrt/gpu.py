"""The GPU that engines are built for."""

import functools
from dataclasses import dataclass

from hwnas.devices import detect, match
from hwnas.errors import MissingError


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """A model of GPU and the software under it; an engine runs on the model that it was built on."""

    device: str
    """Its name here: 'h200'."""
    reported: str
    """What the driver calls it."""
    compute_capability: str
    driver: str
    """'unknown' where nvidia-smi does not tell."""
    cuda: str
    """The CUDA that torch was built with, which runs beside TensorRT."""

    def runs_engines_of(self, other: "GpuFacts") -> bool:
        """Whether it is the same model of GPU."""
        return (self.reported, self.compute_capability) == (other.reported, other.compute_capability)


@functools.cache
def gpu_facts() -> GpuFacts:
    """The GPU that torch uses in this process; looked up once."""
    import torch

    if not torch.cuda.is_available():
        raise MissingError("TensorRT needs an NVIDIA GPU, and torch sees none here", got=f"torch {torch.__version__}")
    reported = torch.cuda.get_device_name()
    known = match(reported)
    drivers = {gpu.driver for gpu in detect().gpus}  # one driver serves all GPUs
    return GpuFacts(
        device=known.name if known else reported,
        reported=reported,
        compute_capability=".".join(map(str, torch.cuda.get_device_capability())),
        driver=drivers.pop() if drivers else "unknown",
        cuda=str(torch.version.cuda),
    )
