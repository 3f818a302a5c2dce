"""The public surface is exact, and importing it is light."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import pytest

import hwnas

HEAVY = ("matplotlib", "numpy", "onnx", "onnxruntime", "pyarrow", "rich", "sklearn", "timm", "torch", "xgboost")


def test_the_public_names_are_exactly_these() -> None:
    assert hwnas.__all__ == [
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
    assert set(hwnas.__all__) <= set(dir(hwnas))


def test_every_public_verb_is_the_function_of_its_module() -> None:
    verbs = [name for name in hwnas.__all__ if name != "__version__"]
    for name in verbs:
        module = import_module(hwnas._MODULES[name])
        assert getattr(hwnas, name) is getattr(module, name)


def test_classes_in_public_signatures_are_public() -> None:
    items = [getattr(hwnas, name) for name in hwnas.__all__ if name != "__version__"]
    annotations = [inspect.get_annotations(item) for item in items if inspect.isfunction(item)]
    results = {
        word for item in annotations for word in re.findall(r"\b[A-Z]\w+", str(item["return"])) if word != "Path"
    }
    taken = [str(text) for item in annotations for text in item.values()]
    taken += [str(field.type) for item in items if item.__name__.endswith("Options") for field in fields(item)]
    options = {word for text in taken for word in re.findall(r"\w+(?:Options|Rule|Config|Search)\b", text)}
    assert results | options <= set(hwnas.__all__)


def test_no_public_verb_has_the_name_of_a_package() -> None:
    for name in hwnas.__all__:
        with pytest.raises(ModuleNotFoundError):
            import_module(f"hwnas.{name}")


def test_errors_are_there_without_an_import_of_their_own() -> None:
    code = "import hwnas; print(hwnas.errors.HwnasError.__name__)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "HwnasError\n"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'thing'"):
        _ = hwnas.thing


@pytest.mark.parametrize("statement", ["import hwnas", "import hwnas.runs, hwnas.devices, hwnas.pipeline.doctor"])
def test_importing_hwnas_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}, sys; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


def test_public_signatures_are_typed_without_any() -> None:
    for name in hwnas.__all__:
        item = getattr(hwnas, name)
        for parameter, annotation in inspect.get_annotations(item).items() if inspect.isfunction(item) else ():
            # `AnySpace` and numpy's arrays are spelled with Any for their own parameters.
            text = re.sub(r"Space\[typing.Any, typing.Any\]|tuple\[typing.Any, ...\]", "", str(annotation))
            assert not re.search(r"\bAny\b", text), (name, parameter)
