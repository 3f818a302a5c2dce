"""hwnas finds vision transformers that are best for a device, and measures them there."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwnas.pipeline.describe import describe
    from hwnas.pipeline.doctor import doctor
    from hwnas.pipeline.evaluate import evaluate
    from hwnas.pipeline.import_checkpoint import import_checkpoint
    from hwnas.pipeline.spaces import spaces
    from hwnas.pipeline.train import train_model
    from hwnas.pipeline.training.options import TrainOptions

__version__ = "0.1.0.dev0"

__all__ = [
    "TrainOptions",
    "__version__",
    "describe",
    "doctor",
    "evaluate",
    "import_checkpoint",
    "spaces",
    "train_model",
]

_VERBS = {
    "TrainOptions": "hwnas.pipeline.training.options",
    "describe": "hwnas.pipeline.describe",
    "doctor": "hwnas.pipeline.doctor",
    "evaluate": "hwnas.pipeline.evaluate",
    "import_checkpoint": "hwnas.pipeline.import_checkpoint",
    "spaces": "hwnas.pipeline.spaces",
    "train_model": "hwnas.pipeline.train",
}
"""The public verbs, what they take, and their modules, imported on first use: `import hwnas` alone must stay quick."""


def __getattr__(name: str) -> object:
    if name not in _VERBS:
        raise AttributeError(f"module 'hwnas' has no attribute {name!r}")
    verb: object = getattr(import_module(_VERBS[name]), name)
    globals()[name] = verb
    return verb


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
