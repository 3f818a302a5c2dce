"""hwnas finds vision transformers that are best for a device, and measures them there."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwnas.metrics import Deployment
    from hwnas.pipeline.describe import describe
    from hwnas.pipeline.doctor import doctor
    from hwnas.pipeline.evaluate import evaluate
    from hwnas.pipeline.explain import explain
    from hwnas.pipeline.export_network import export_network
    from hwnas.pipeline.import_checkpoint import import_checkpoint
    from hwnas.pipeline.measure import measure
    from hwnas.pipeline.modules import ModuleMeasurement, export_module, measure_module, trace_workload
    from hwnas.pipeline.optimize import CustomMetric, LatencyTable, optimize
    from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
    from hwnas.pipeline.predictors.import_timm import import_timm
    from hwnas.pipeline.predictors.predict import PredictOptions, predict_networks
    from hwnas.pipeline.predictors.workloads import timm_workload
    from hwnas.pipeline.profiles import list_profiles
    from hwnas.pipeline.report import write_report
    from hwnas.pipeline.search.options import SearchOptions
    from hwnas.pipeline.search.query import query
    from hwnas.pipeline.search.run import search_networks
    from hwnas.pipeline.spaces import spaces
    from hwnas.pipeline.train import train_model
    from hwnas.predict.predictor import Prediction, Predictor
    from hwnas.predict.selector import find_predictor
    from hwnas.profile.options import CampaignOptions
    from hwnas.search.result import FoundNetwork, SearchResult
    from hwnas.train.data.sources import register_dataset
    from hwnas.train.options import TrainOptions

__version__ = "0.1.0.dev0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library leaves it to its user what is logged where

__all__ = [
    "CampaignOptions",
    "CustomMetric",
    "Deployment",
    "FitOptions",
    "FoundNetwork",
    "LatencyTable",
    "ModuleMeasurement",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "SearchOptions",
    "SearchResult",
    "TrainOptions",
    "__version__",
    "describe",
    "doctor",
    "evaluate",
    "explain",
    "export_module",
    "export_network",
    "find_predictor",
    "fit_predictors",
    "import_checkpoint",
    "import_timm",
    "list_profiles",
    "measure",
    "measure_module",
    "optimize",
    "predict_networks",
    "query",
    "register_dataset",
    "search_networks",
    "spaces",
    "timm_workload",
    "trace_workload",
    "train_model",
    "write_report",
]

_VERBS = {
    "CampaignOptions": "hwnas.profile.options",
    "CustomMetric": "hwnas.pipeline.optimize",
    "Deployment": "hwnas.metrics",
    "FitOptions": "hwnas.pipeline.predictors.fit",
    "FoundNetwork": "hwnas.search.result",
    "LatencyTable": "hwnas.pipeline.optimize",
    "ModuleMeasurement": "hwnas.pipeline.modules",
    "PredictOptions": "hwnas.pipeline.predictors.predict",
    "Prediction": "hwnas.predict.predictor",
    "Predictor": "hwnas.predict.predictor",
    "SearchOptions": "hwnas.pipeline.search.options",
    "SearchResult": "hwnas.search.result",
    "TrainOptions": "hwnas.train.options",
    "describe": "hwnas.pipeline.describe",
    "doctor": "hwnas.pipeline.doctor",
    "evaluate": "hwnas.pipeline.evaluate",
    "explain": "hwnas.pipeline.explain",
    "export_module": "hwnas.pipeline.modules",
    "export_network": "hwnas.pipeline.export_network",
    "find_predictor": "hwnas.predict.selector",
    "fit_predictors": "hwnas.pipeline.predictors.fit",
    "import_checkpoint": "hwnas.pipeline.import_checkpoint",
    "import_timm": "hwnas.pipeline.predictors.import_timm",
    "list_profiles": "hwnas.pipeline.profiles",
    "measure": "hwnas.pipeline.measure",
    "measure_module": "hwnas.pipeline.modules",
    "optimize": "hwnas.pipeline.optimize",
    "predict_networks": "hwnas.pipeline.predictors.predict",
    "query": "hwnas.pipeline.search.query",
    "register_dataset": "hwnas.train.data.sources",
    "search_networks": "hwnas.pipeline.search.run",
    "spaces": "hwnas.pipeline.spaces",
    "timm_workload": "hwnas.pipeline.predictors.workloads",
    "trace_workload": "hwnas.pipeline.modules",
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
