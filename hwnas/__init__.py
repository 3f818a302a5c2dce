"""hwnas finds vision transformers that are best for a device, and measures them there."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwnas.pipeline.describe import describe
    from hwnas.pipeline.doctor import doctor
    from hwnas.pipeline.evaluate import evaluate
    from hwnas.pipeline.explain import explain
    from hwnas.pipeline.export_network import export_network
    from hwnas.pipeline.fit import FitOptions, fit_predictors
    from hwnas.pipeline.import_checkpoint import import_checkpoint
    from hwnas.pipeline.import_timm import import_timm
    from hwnas.pipeline.measure import measure
    from hwnas.pipeline.predict import PredictOptions, predict_networks
    from hwnas.pipeline.profiles import list_profiles
    from hwnas.pipeline.query import query
    from hwnas.pipeline.report import write_report
    from hwnas.pipeline.search import search_networks
    from hwnas.pipeline.searching.options import SearchOptions
    from hwnas.pipeline.spaces import spaces
    from hwnas.pipeline.train import train_model
    from hwnas.pipeline.training.options import TrainOptions
    from hwnas.profile.request import CampaignRequest

__version__ = "0.1.0.dev0"

__all__ = [
    "CampaignRequest",
    "FitOptions",
    "PredictOptions",
    "SearchOptions",
    "TrainOptions",
    "__version__",
    "describe",
    "doctor",
    "evaluate",
    "explain",
    "export_network",
    "fit_predictors",
    "import_checkpoint",
    "import_timm",
    "list_profiles",
    "measure",
    "predict_networks",
    "query",
    "search_networks",
    "spaces",
    "train_model",
    "write_report",
]

_VERBS = {
    "CampaignRequest": "hwnas.profile.request",
    "FitOptions": "hwnas.pipeline.fit",
    "PredictOptions": "hwnas.pipeline.predict",
    "SearchOptions": "hwnas.pipeline.searching.options",
    "TrainOptions": "hwnas.pipeline.training.options",
    "describe": "hwnas.pipeline.describe",
    "doctor": "hwnas.pipeline.doctor",
    "evaluate": "hwnas.pipeline.evaluate",
    "explain": "hwnas.pipeline.explain",
    "export_network": "hwnas.pipeline.export_network",
    "fit_predictors": "hwnas.pipeline.fit",
    "import_checkpoint": "hwnas.pipeline.import_checkpoint",
    "import_timm": "hwnas.pipeline.import_timm",
    "list_profiles": "hwnas.pipeline.profiles",
    "measure": "hwnas.pipeline.measure",
    "predict_networks": "hwnas.pipeline.predict",
    "query": "hwnas.pipeline.query",
    "search_networks": "hwnas.pipeline.search",
    "spaces": "hwnas.pipeline.spaces",
    "train_model": "hwnas.pipeline.train",
    "write_report": "hwnas.pipeline.report",
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
