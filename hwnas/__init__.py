"""hwnas finds vision transformers that are best for a device, and measures them there."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwnas.pipeline.describe import describe
    from hwnas.pipeline.doctor import doctor
    from hwnas.pipeline.import_checkpoint import import_checkpoint
    from hwnas.pipeline.spaces import spaces

__version__ = "0.1.0.dev0"

__all__ = ["__version__", "describe", "doctor", "import_checkpoint", "spaces"]

_VERBS = {
    "describe": "hwnas.pipeline.describe",
    "doctor": "hwnas.pipeline.doctor",
    "import_checkpoint": "hwnas.pipeline.import_checkpoint",
    "spaces": "hwnas.pipeline.spaces",
}
"""The public verbs and their modules, imported on first use: `import hwnas` alone must stay quick."""


def __getattr__(name: str) -> object:
    if name not in _VERBS:
        raise AttributeError(f"module 'hwnas' has no attribute {name!r}")
    verb: object = getattr(import_module(_VERBS[name]), name)
    globals()[name] = verb
    return verb


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
