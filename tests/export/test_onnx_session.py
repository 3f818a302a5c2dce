"""Graphs run on the CPU, those in bfloat16 widened to float32."""

import gc
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import MissingError
from hwnas.export.onnx_session import (
    can_run_graphs,
    detach_weights,
    needs_widening,
    open_session,
    run_graph,
    runnable,
)
from hwnas.export.onnxruntime_library import load_onnxruntime

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def graph(precision: str) -> onnx.ModelProto:
    """images @ weight + 1, in a precision, with casts around."""
    kind = TYPES[precision]
    weight = helper.make_tensor("weight", kind, [2, 2], [1.0, 2.0, 3.001, 4.0])
    one = helper.make_tensor("one", kind, [1], [1.0])
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=kind),
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Constant", [], ["bias"], value=one),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["logits"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 2])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])]
    body = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", 4.001), ("fp16", 4.001953), ("bf16", 4.0)])
def test_logits_have_the_rounding_of_the_precision(precision: str, expected: float) -> None:
    model = graph(precision)
    before = model.SerializeToString()
    logits = run_graph(model, np.array([[0.0, 1.0]], np.float32))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, [[expected, 5.0]], atol=1e-6)
    assert needs_widening(model) is (precision == "bf16")
    assert model.SerializeToString() == before


def test_a_widened_graph_has_no_narrow_number_left() -> None:
    assert str(TensorProto.BFLOAT16) not in {
        str(tensor.data_type) for tensor in runnable(graph("bf16")).graph.initializer
    }
    onnx.checker.check_model(runnable(graph("bf16")), full_check=True)


def large() -> onnx.ModelProto:
    """images @ weight, with a weight that is worth handing over."""
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 32), dtype=np.float32), "weight")
    node = helper.make_node("MatMul", ["images", "weight"], ["logits"])
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 64])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 32])]
    body = helper.make_graph([node], "g", inputs, outputs, [weight])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_large_weights_are_handed_over_and_outlive_the_graph() -> None:
    model = large()
    before = model.SerializeToString()
    images = np.random.default_rng(1).standard_normal((1, 64), dtype=np.float32)
    session, serialised = open_session(model), open_session(before)
    assert model.SerializeToString() == before
    expected = images @ numpy_helper.to_array(model.graph.initializer[0])
    del model
    gc.collect()
    (found,), (other,) = (one.run(None, {"images": images}) for one in (session, serialised))
    np.testing.assert_array_equal(found, other)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_graph_without_weights_names_them() -> None:
    content, weights = detach_weights(large())
    assert list(weights) == ["weight"]
    assert len(content) < 300
    content, weights = detach_weights(graph("fp32"))
    assert weights == {}
    assert onnx.load_from_string(content).graph == graph("fp32").graph


def test_a_missing_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_run_graphs()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match="onnxruntime must be installed") as caught:
        open_session(large())
    assert caught.value.hint is not None
    assert "'hwnas[cpu]', or 'hwnas[gpu]'" in caught.value.hint
    assert not can_run_graphs()


def test_the_remains_of_two_builds_are_not_taken_for_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime").mkdir()  # a folder without __init__.py is imported as a namespace
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingError, match="is installed, but not complete"):
        load_onnxruntime()
