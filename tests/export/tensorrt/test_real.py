"""The same end to end, on a machine with TensorRT and a GPU."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.errors import InputError
from hwnas.export.tensorrt import (
    EngineSettings,
    TensorRtError,
    TimingCache,
    build_engine,
    gpu_facts,
    load_engine,
    load_tensorrt,
    save_engine,
)
from hwnas.export.tensorrt.build import STRONGLY_TYPED_SINCE
from hwnas.export.tensorrt.execution import Execution, TorchCuda
from hwnas.export.tensorrt.library import major_version
from tests.export.tensorrt.api_list import VERSIONS, read_list
from tests.export.tensorrt.behaviour import BODIES
from tests.export.tensorrt.graphs import TOLERANCE, expected_logits, small_graph, small_images
from tests.records.rows import make_setting

pytestmark = [pytest.mark.tensorrt, pytest.mark.gpu]

PRECISIONS = ("fp32", "fp16", "bf16")


def test_the_library_is_the_real_one() -> None:
    assert load_tensorrt() is sys.modules["tensorrt"]
    assert Path(load_tensorrt().__file__).exists()


def test_the_library_has_what_the_double_answers_in_every_version() -> None:
    library = load_tensorrt()
    for owner in BODIES:
        entries = [read_list(version).classes[owner] for version in VERSIONS]
        common = set.intersection(*({*entry.methods, *entry.properties} for entry in entries))
        assert [name for name in common if not hasattr(getattr(library, owner), name)] == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_strongly_typed_engine_answers_as_torch_does(precision: str) -> None:
    settings = EngineSettings(precision=precision, batch=2)  # type: ignore[arg-type]
    built = build_engine(small_graph(precision=precision), settings)
    execution = Execution(built.engine, small_images(2), cuda=TorchCuda())
    expected = expected_logits(small_images(2), precision=precision)
    np.testing.assert_allclose(execution.logits(), expected, atol=TOLERANCE[precision])
    np.testing.assert_allclose(execution.logits(), expected, atol=TOLERANCE[precision])
    execution.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_flags_are_taken_by_version_10_alone(precision: str) -> None:
    settings = EngineSettings(precision=precision, batch=2, typing="flags")  # type: ignore[arg-type]
    if major_version(load_tensorrt()) >= STRONGLY_TYPED_SINCE:
        with pytest.raises(InputError, match="has no precision flags"):
            build_engine(small_graph(), settings)
        return
    execution = Execution(build_engine(small_graph(), settings).engine, small_images(2), cuda=TorchCuda())
    np.testing.assert_allclose(execution.logits(), expected_logits(small_images(2)), atol=TOLERANCE[precision])


def test_an_open_batch_runs_what_it_is_given() -> None:
    built = build_engine(small_graph(batch=None), EngineSettings(batch=4, batch_range=(1, 8)))
    for batch in (1, 3, 8):
        execution = Execution(built.engine, small_images(batch), cuda=TorchCuda())
        np.testing.assert_allclose(execution.logits(), expected_logits(small_images(batch)), atol=1e-5)
    with pytest.raises(InputError, match="must have a shape that the engine was built for"):
        Execution(built.engine, small_images(9), cuda=TorchCuda())


def test_files_load_here_and_nowhere_else(tmp_path: Path) -> None:
    built = build_engine(small_graph(), EngineSettings(batch=2))
    files = save_engine(built, tmp_path / "small.engine")
    loaded = load_engine(files.engine)
    assert loaded == built
    assert json.loads(loaded.layers)["Layers"]
    execution = Execution(loaded.engine, small_images(2), cuda=TorchCuda())
    np.testing.assert_allclose(execution.logits(), expected_logits(small_images(2)), atol=1e-5)
    other = dataclasses.replace(gpu_facts(), compute_capability="1.0")
    with pytest.raises(InputError, match="must be built for the GPU of this machine"):
        load_engine(files.engine, gpu=other)


def test_the_layer_table_has_details() -> None:
    rows = json.loads(build_engine(small_graph(), EngineSettings(batch=2)).layers)["Layers"]
    assert all({"Name", "LayerType"} <= set(row) for row in rows)


def test_a_pinned_timing_cache_builds_the_same_network_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    first = build_engine(small_graph(), EngineSettings(batch=2, timing_cache=TimingCache(path=path))).card.timing_cache
    assert first is not None
    assert first.after is not None
    pinned = TimingCache(path=path, use="pinned", sha256=first.after)
    second = build_engine(small_graph(), EngineSettings(batch=2, timing_cache=pinned)).card.timing_cache
    assert second is not None
    assert (second.before, second.after) == (first.after, first.after)
    with pytest.raises(TensorRtError):
        build_engine(small_graph(batch=64), EngineSettings(batch=64, timing_cache=pinned))


def test_an_operator_that_is_not_known_is_named() -> None:
    import onnx

    model = onnx.load_model_from_string(small_graph(extra="Erf"))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "NoSuchOperator", "nobody"
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    with pytest.raises(TensorRtError, match="NoSuchOperator") as caught:
        build_engine(model.SerializeToString(), EngineSettings(batch=2))
    assert caught.value.kind == "unsupported"


def test_what_is_no_engine_is_not_loaded() -> None:
    with pytest.raises(TensorRtError, match="must be able to load the engine"):
        Execution(b"not an engine", small_images(2), cuda=TorchCuda())


def test_device_time_is_not_longer_than_wall_time() -> None:
    from hwnas.profile.runners.runner import load_runner
    from tests.export.tensorrt.graphs import small_network

    setting = make_setting(device=gpu_facts().device, runtime="tensorrt", precision="fp16", batch=2, exporter="dynamo")
    session = load_runner("tensorrt").prepare(small_network(), small_images(2), setting)
    samples = [session.run_once() for _ in range(20)]
    assert all(0 < (sample.device_ns or 0) < sample.wall_ns for sample in samples)
    expected = expected_logits(small_images(2), precision="fp16")
    np.testing.assert_allclose(session.outputs(), expected, atol=TOLERANCE["fp16"])
    assert torch.cuda.memory_allocated() > 0
    session.close()
