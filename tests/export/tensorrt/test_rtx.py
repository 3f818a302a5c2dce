"""TensorRT for RTX: NVIDIA's parser and builder themselves, which need no GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import InputError, MissingError
from hwnas.export.onnx_graph import build_onnx
from hwnas.export.tensorrt import (
    EngineSettings,
    GpuFacts,
    TensorRtError,
    build_engine,
    load_engine,
    load_tensorrt,
    save_engine,
)
from hwnas.export.tensorrt.execution import Execution
from tests.export.tensorrt.fake_cuda import FakeCuda
from tests.export.tensorrt.graphs import small_graph, small_images
from tests.export.test_quantise import SHAPE, Tokens

rtx = pytest.importorskip("tensorrt_rtx")

PRECISIONS = ("fp32", "fp16", "bf16")


def settings(precision: str = "fp32", **changes: Any) -> EngineSettings:
    options: dict[str, Any] = {"compute_capabilities": ("8.9",), **changes}
    return EngineSettings(library="tensorrt-rtx", precision=precision, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_is_built_ahead_of_time(tmp_path: Path, precision: str) -> None:
    built = build_engine(small_graph(precision=precision), settings(precision, batch=2))
    assert built.card.gpu is None
    assert built.card.settings.compute_capabilities == ("8.9",)
    assert built.card.num_layers > 0
    saved = save_engine(built, tmp_path / "small.rtx")
    ada = GpuFacts(device="l4", reported="NVIDIA L4", compute_capability="8.9", driver="1", cuda="13")
    assert load_engine(saved.engine, gpu=ada).engine == built.engine
    ampere = GpuFacts(device="a10", reported="NVIDIA A10", compute_capability="8.6", driver="1", cuda="13")
    with pytest.raises(InputError, match=r"compute capability of this GPU, 8\.6"):
        load_engine(saved.engine, gpu=ampere)


def test_an_engine_in_int8_is_built_around_float16_or_float32() -> None:
    torch.manual_seed(0)
    for rest, capability in (("fp16", "7.5"), ("fp32", "8.0")):  # Turing has no float32 products in this library
        graph = build_onnx(Tokens().eval(), input_shape=SHAPE, batch=2, precision="int8", int8_rest=rest)
        own = settings("int8", batch=2, compute_capabilities=(capability,))
        built = build_engine(graph.model.SerializeToString(), own)
        assert built.card.settings.precision == "int8"
    with pytest.raises(InputError, match="needs an ONNX graph with weights in int8"):
        build_engine(small_graph(), settings("int8", batch=2))


def test_an_engine_in_fp8_is_built_for_gpus_that_have_it() -> None:
    torch.manual_seed(0)
    graph = build_onnx(Tokens().eval(), input_shape=SHAPE, batch=2, precision="fp8").model.SerializeToString()
    built = build_engine(graph, settings("fp8", batch=2))
    assert built.card.settings.precision == "fp8"
    assert built.card.warnings == ()
    with pytest.raises(InputError, match=r"fp8 needs a GPU of compute capability 8\.9 or later") as caught:
        settings("fp8", compute_capabilities=("8.9", "8.6"))
    assert caught.value.got == "8.6"
    with pytest.raises(InputError, match="needs an ONNX graph with weights in fp8"):
        build_engine(small_graph(), settings("fp8", batch=2))
    with pytest.raises(InputError, match="weights in fp16"):
        build_engine(graph, settings("fp16", batch=2))


def test_one_engine_serves_several_gpus() -> None:
    one = build_engine(small_graph(), settings(batch=2))
    three = build_engine(small_graph(), settings(batch=2, compute_capabilities=("8.0", "8.6", "8.9")))
    assert len(three.engine) > len(one.engine)


def test_a_precision_that_a_gpu_lacks_is_unsupported() -> None:
    with pytest.raises(TensorRtError, match="FP32 GEMM is not supported") as caught:
        build_engine(small_graph(), settings(batch=2, compute_capabilities=("7.5",)))
    assert caught.value.kind == "unsupported"


def test_a_dynamic_batch_is_built() -> None:
    assert build_engine(small_graph(batch=None), settings(batch=2, batch_range=(1, 8))).engine


def test_an_unknown_compute_capability_is_refused() -> None:
    with pytest.raises(InputError, match="must know their compute capability") as caught:
        build_engine(small_graph(), settings(batch=2, compute_capabilities=("9.0",)))
    assert "8.9" in caught.value.known


def test_only_the_library_for_rtx_builds_for_other_gpus() -> None:
    with pytest.raises(InputError, match="only TensorRT for RTX"):
        EngineSettings(compute_capabilities=("8.9",))
    with pytest.raises(InputError, match="no precision flags"):
        EngineSettings(library="tensorrt-rtx", typing="flags")


def refused(nodes: list[Any], *, initializers: list[Any] | None = None, domains: tuple[str, ...] = ()) -> TensorRtError:
    """The error for a graph of these nodes, from x to y, that NVIDIA's parser refuses."""
    shape = [2, 3, 8, 8]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers or [])
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(TensorRtError) as caught:
        build_engine(model.SerializeToString(), settings(batch=2))
    return caught.value


def test_a_refused_node_is_named_by_its_operator_and_number() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("StringNormalizer", ["a"], ["y"], name="norm")]
    error = refused(nodes)
    assert (error.kind, error.message) == (
        "unsupported",
        "TensorRT must support every operator, and lacks StringNormalizer",
    )
    assert error.got == "StringNormalizer 'norm' (node 1) [UNSUPPORTED_NODE]"
    nodes[1].name = ""
    assert refused(nodes).got == "StringNormalizer (node 1) [UNSUPPORTED_NODE]"


def test_a_refused_attribute_names_the_operator_that_the_parser_does_not() -> None:
    index = numpy_helper.from_array(np.zeros((2, 3, 8, 8), np.int64), "index")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("ScatterElements", ["a", "index", "x"], ["y"], name="scatter", reduction="add"),
    ]
    error = refused(nodes, initializers=[index])
    assert (error.kind, error.message) == (
        "unsupported",
        "TensorRT must support every operator, and lacks ScatterElements",
    )
    assert error.got == "ScatterElements 'scatter': Unsupported reduction type [UNSUPPORTED_NODE_ATTR]"
    twice = helper.make_node("ScatterElements", ["a", "index", "x"], ["b"], name="other", reduction="add")
    several = refused([nodes[0], twice, nodes[1]], initializers=[index])
    assert str(several.got).startswith("ScatterElements one of 2: Unsupported reduction type")


def test_a_plugin_that_is_not_there_is_unsupported() -> None:
    error = refused([helper.make_node("Foo", ["x"], ["y"], name="foo", domain="unknown")], domains=("unknown",))
    assert error.kind == "unsupported"
    assert "lacks Foo" in error.message


def test_types_that_do_not_agree_are_told_in_one_line() -> None:
    weight = numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["a", "w"], ["b"], name="conv"),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    error = refused(nodes, initializers=[weight])
    assert error.kind == "build"
    assert str(error.got).startswith("Conv 'conv' (node 1): ")
    assert "must be of same type" in str(error.got)
    assert "cudaError" not in str(error.got)


def test_a_build_gives_signs_of_life() -> None:
    calls: list[int] = []
    build_engine(small_graph(), settings(batch=2), on_progress=lambda: calls.append(1))
    assert len(calls) > 10


def test_a_library_without_its_driver_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    built = build_engine(small_graph(), settings(batch=2))
    with pytest.raises(MissingError, match="NVIDIA GPU with a matching driver") as caught:
        Execution(built.engine, small_images(2), cuda=FakeCuda({}), library="tensorrt-rtx")
    assert caught.value.exit_code == 3
    assert "cudaError 35" in str(caught.value.got)


def test_the_library_has_what_builds_use() -> None:
    library = load_tensorrt("tensorrt-rtx")
    config = library.IBuilderConfig
    for name in ("num_compute_capabilities", "set_compute_capability", "profiling_verbosity", "create_timing_cache"):
        assert hasattr(config, name)
