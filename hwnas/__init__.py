"""hwnas finds vision transformers that are best for a device, and measures them there."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from hwnas import errors as errors  # `except hwnas.errors.HwnasError` needs no import of its own

if TYPE_CHECKING:
    from hwnas.export.export import ExportedModule
    from hwnas.metrics import Deployment
    from hwnas.pipeline.describe import Description, describe
    from hwnas.pipeline.doctor import DoctorReport, doctor
    from hwnas.pipeline.evaluate import Evaluation, evaluate
    from hwnas.pipeline.explain import Explanation, explain
    from hwnas.pipeline.export_network import EngineOptions, ExportedNetwork, export_network
    from hwnas.pipeline.export_plan import ExportedPlan, export_plan
    from hwnas.pipeline.import_checkpoint import ImportedCheckpoint, import_checkpoint
    from hwnas.pipeline.measure import MeasureResult, measure
    from hwnas.pipeline.measure_until import StoppingRule
    from hwnas.pipeline.modules import ModuleMeasurement, export_module, measure_module, trace_workload
    from hwnas.pipeline.optimize import CustomMetric, LatencyTable, optimize
    from hwnas.pipeline.predictors.fit import FitOptions, FitReport, fit_predictors
    from hwnas.pipeline.predictors.import_timm import ImportedTable, ImportOptions, import_timm
    from hwnas.pipeline.predictors.predict import NetworkPredictions, PredictOptions, predict_networks
    from hwnas.pipeline.predictors.workloads import timm_workload
    from hwnas.pipeline.profiles import ProfileDetails, ProfileSummary, list_profiles, load_profile
    from hwnas.pipeline.push import PushedNetwork, push_network
    from hwnas.pipeline.quantisation import QuantisationOptions
    from hwnas.pipeline.report import Report, write_report
    from hwnas.pipeline.search.options import SearchOptions
    from hwnas.pipeline.search.query import QueryResult, query
    from hwnas.pipeline.search.run import SearchRun, search_networks
    from hwnas.pipeline.spaces import SpaceSummary, spaces
    from hwnas.pipeline.study_comparison import SearchComparison, compare_searches
    from hwnas.pipeline.study_export import ExportedStudy, export_study
    from hwnas.pipeline.train import TrainingResult, train_model
    from hwnas.predict.predictor import Prediction, Predictor
    from hwnas.predict.selector import find_predictor
    from hwnas.profile.options import CampaignOptions
    from hwnas.search.result import FoundNetwork, SearchResult, load_search
    from hwnas.search.spec import PostSearch
    from hwnas.train.data.sources import register_dataset
    from hwnas.train.options import PretrainedModel, TrainOptions
    from hwnas.train.trainer import TrainerConfig
    from hwnas.workload import Workload

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library leaves it to its user what is logged where

__all__ = [
    "CampaignOptions",
    "CustomMetric",
    "Deployment",
    "Description",
    "DoctorReport",
    "EngineOptions",
    "Evaluation",
    "Explanation",
    "ExportedModule",
    "ExportedNetwork",
    "ExportedPlan",
    "ExportedStudy",
    "FitOptions",
    "FitReport",
    "FoundNetwork",
    "ImportOptions",
    "ImportedCheckpoint",
    "ImportedTable",
    "LatencyTable",
    "MeasureResult",
    "ModuleMeasurement",
    "NetworkPredictions",
    "PostSearch",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "PretrainedModel",
    "ProfileDetails",
    "ProfileSummary",
    "PushedNetwork",
    "QuantisationOptions",
    "QueryResult",
    "Report",
    "SearchComparison",
    "SearchOptions",
    "SearchResult",
    "SearchRun",
    "SpaceSummary",
    "StoppingRule",
    "TrainOptions",
    "TrainerConfig",
    "TrainingResult",
    "Workload",
    "__version__",
    "compare_searches",
    "describe",
    "doctor",
    "evaluate",
    "explain",
    "export_module",
    "export_network",
    "export_plan",
    "export_study",
    "find_predictor",
    "fit_predictors",
    "import_checkpoint",
    "import_timm",
    "list_profiles",
    "load_profile",
    "load_search",
    "measure",
    "measure_module",
    "optimize",
    "predict_networks",
    "push_network",
    "query",
    "register_dataset",
    "search_networks",
    "spaces",
    "timm_workload",
    "trace_workload",
    "train_model",
    "write_report",
]

_MODULES = {
    "CampaignOptions": "hwnas.profile.options",
    "CustomMetric": "hwnas.pipeline.optimize",
    "Deployment": "hwnas.metrics",
    "Description": "hwnas.pipeline.describe",
    "DoctorReport": "hwnas.pipeline.doctor",
    "EngineOptions": "hwnas.pipeline.export_network",
    "Evaluation": "hwnas.pipeline.evaluate",
    "Explanation": "hwnas.pipeline.explain",
    "ExportedModule": "hwnas.export.export",
    "ExportedNetwork": "hwnas.pipeline.export_network",
    "ExportedPlan": "hwnas.pipeline.export_plan",
    "ExportedStudy": "hwnas.pipeline.study_export",
    "FitOptions": "hwnas.pipeline.predictors.fit",
    "FitReport": "hwnas.pipeline.predictors.fit",
    "FoundNetwork": "hwnas.search.result",
    "ImportOptions": "hwnas.pipeline.predictors.import_timm",
    "ImportedCheckpoint": "hwnas.pipeline.import_checkpoint",
    "ImportedTable": "hwnas.pipeline.predictors.import_timm",
    "LatencyTable": "hwnas.pipeline.optimize",
    "MeasureResult": "hwnas.pipeline.measure",
    "ModuleMeasurement": "hwnas.pipeline.modules",
    "NetworkPredictions": "hwnas.pipeline.predictors.predict",
    "PostSearch": "hwnas.search.spec",
    "PredictOptions": "hwnas.pipeline.predictors.predict",
    "Prediction": "hwnas.predict.predictor",
    "Predictor": "hwnas.predict.predictor",
    "ProfileDetails": "hwnas.pipeline.profiles",
    "ProfileSummary": "hwnas.pipeline.profiles",
    "PushedNetwork": "hwnas.pipeline.push",
    "QuantisationOptions": "hwnas.pipeline.quantisation",
    "QueryResult": "hwnas.pipeline.search.query",
    "Report": "hwnas.pipeline.report",
    "SearchComparison": "hwnas.pipeline.study_comparison",
    "SearchOptions": "hwnas.pipeline.search.options",
    "SearchResult": "hwnas.search.result",
    "SearchRun": "hwnas.pipeline.search.run",
    "SpaceSummary": "hwnas.pipeline.spaces",
    "StoppingRule": "hwnas.pipeline.measure_until",
    "PretrainedModel": "hwnas.train.options",
    "TrainOptions": "hwnas.train.options",
    "TrainerConfig": "hwnas.train.trainer",
    "TrainingResult": "hwnas.pipeline.train",
    "Workload": "hwnas.workload",
    "compare_searches": "hwnas.pipeline.study_comparison",
    "describe": "hwnas.pipeline.describe",
    "doctor": "hwnas.pipeline.doctor",
    "evaluate": "hwnas.pipeline.evaluate",
    "explain": "hwnas.pipeline.explain",
    "export_module": "hwnas.pipeline.modules",
    "export_network": "hwnas.pipeline.export_network",
    "export_plan": "hwnas.pipeline.export_plan",
    "export_study": "hwnas.pipeline.study_export",
    "find_predictor": "hwnas.predict.selector",
    "fit_predictors": "hwnas.pipeline.predictors.fit",
    "import_checkpoint": "hwnas.pipeline.import_checkpoint",
    "import_timm": "hwnas.pipeline.predictors.import_timm",
    "list_profiles": "hwnas.pipeline.profiles",
    "load_profile": "hwnas.pipeline.profiles",
    "load_search": "hwnas.search.result",
    "measure": "hwnas.pipeline.measure",
    "measure_module": "hwnas.pipeline.modules",
    "optimize": "hwnas.pipeline.optimize",
    "predict_networks": "hwnas.pipeline.predictors.predict",
    "push_network": "hwnas.pipeline.push",
    "query": "hwnas.pipeline.search.query",
    "register_dataset": "hwnas.train.data.sources",
    "search_networks": "hwnas.pipeline.search.run",
    "spaces": "hwnas.pipeline.spaces",
    "timm_workload": "hwnas.pipeline.predictors.workloads",
    "trace_workload": "hwnas.pipeline.modules",
    "train_model": "hwnas.pipeline.train",
    "write_report": "hwnas.pipeline.report",
}
"""The module of each public name, imported on first use: `import hwnas` alone must stay quick."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'hwnas' has no attribute {name!r}")
    item: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = item
    return item


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
