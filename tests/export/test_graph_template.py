"""Graphs factored into templates and numbers, and templates filled again."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.export.graph_template import UnsupportedGraphError, factor_graph


def graph(*, heads: int, width: int, value: float = 0.5, tail: str = "Relu") -> onnx.ModelProto:
    """A weight product, a reshape, a filled constant and a scale."""
    shape = numpy_helper.from_array(np.array([1, heads, width // heads]), "shape")
    scale = numpy_helper.from_array(np.array(value, np.float32), "scale")
    filled = numpy_helper.from_array(np.full((1, heads, width // heads), 2.0, np.float32), "filled")
    nodes = [
        helper.make_node("MatMul", ["input", "weight"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["heads"], allowzero=1),
        helper.make_node("Mul", ["heads", "scale"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "scale"], ["again"]),
        helper.make_node("Add", ["again", "filled"], ["sum"]),
        helper.make_node(tail, ["sum"], ["out"]),
    ]
    inputs = [
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4, width]),
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4]),
    ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, heads, width // heads])]
    body = helper.make_graph(nodes, "g", inputs, outputs, [shape, scale, filled])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_numbers_are_constants_attributes_and_the_output_in_this_order() -> None:
    _, numbers = factor_graph(graph(heads=4, width=96))
    assert numbers == [1, 4, 24, 0.5, 0.5, 1, 4, 24, 2.0, 1, 1, 4, 24]


def test_graphs_that_differ_in_numbers_have_equal_templates() -> None:
    one, _ = factor_graph(graph(heads=4, width=96))
    other, _ = factor_graph(graph(heads=3, width=60, value=0.25))
    assert one.key() == other.key()


def test_another_operator_is_another_template() -> None:
    one, _ = factor_graph(graph(heads=4, width=96))
    other, _ = factor_graph(graph(heads=4, width=96, tail="Tanh"))
    assert one.key() != other.key()


def test_a_template_is_filled_with_the_numbers_of_another_graph() -> None:
    template, _ = factor_graph(graph(heads=4, width=96))
    _, numbers = factor_graph(graph(heads=3, width=60, value=0.25))
    filled = template.fill(numbers)
    assert filled.output_shape == (1, 3, 20)
    assert [node.op_type for node in filled.nodes] == ["MatMul", "Reshape", "Mul", "Mul", "Add", "Relu"]
    arrays = [numpy_helper.to_array(tensor) for tensor in filled.constants]
    assert arrays[0].tolist() == [1, 3, 20]
    assert arrays[0].dtype == np.int64
    assert arrays[1] == arrays[2] == np.float32(0.25)
    np.testing.assert_array_equal(arrays[3], np.full((1, 3, 20), 2.0, np.float32))
    assert filled.nodes[1].attribute[0].i == 1
    assert filled.nodes[0].input[:] == ["x", "p:weight"]


def test_filling_does_not_change_the_template() -> None:
    template, numbers = factor_graph(graph(heads=4, width=96))
    before = template.key()
    template.fill(numbers).nodes[1].attribute[0].i = 77
    assert template.key() == before


def test_numbers_in_narrow_constants_have_wider_tolerances() -> None:
    model = graph(heads=4, width=96)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(0.5, np.float16), "scale"))
    template, numbers = factor_graph(model)
    assert template.tolerances(numbers)[3:5] == [2e-3, 2e-3]
    assert set(template.tolerances(numbers)) == {1e-6, 2e-3}


def test_a_large_constant_is_part_of_the_template() -> None:
    model = graph(heads=4, width=96)
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.arange(96, dtype=np.float32), "filled"))
    template, numbers = factor_graph(model)
    assert len(numbers) == 9
    np.testing.assert_array_equal(numpy_helper.to_array(template.fill(numbers).constants[3]), np.arange(96))


def test_graphs_within_nodes_and_foreign_operators_are_refused() -> None:
    model = graph(heads=4, width=96)
    model.graph.node[-1].attribute.append(helper.make_attribute("body", onnx.GraphProto()))
    with pytest.raises(UnsupportedGraphError, match="body holds a graph"):
        factor_graph(model)
    model = graph(heads=4, width=96)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedGraphError, match=r"com\.example"):
        factor_graph(model)
