"""What a lower precision does not speed up, in the graphs that runtimes execute."""

import pytest

from hwnas.devices import detect
from hwnas.profile.executed_graph import ExecutedNode, describe_limits, precision_limits
from hwnas.profile.subjects import space_subject
from hwnas.space import SPACES
from tests.records.rows import make_setting

CPU = detect().cpu


def limits(precision: str) -> list[str]:
    space = SPACES.get("autoformer-micro")
    subject = space_subject(space, space.candidate(space.smallest()))
    return list(precision_limits(subject, make_setting(device=CPU.slug, precision=precision)))


def nodes(**numbers: int) -> list[ExecutedNode]:
    """Nodes by kind, those of int8 in int8."""
    kinds = [kind for kind, number in numbers.items() for _ in range(number)]
    return [ExecutedNode(kind=kind, precision="int8" if "Integer" in kind else "fp32") for kind in kinds]


def test_products_in_float_pairs_that_did_not_fuse_and_conversions_are_named() -> None:
    found = nodes(MatMulIntegerToFloat=8, MatMul=4, Gemm=1, DequantizeLinear=2, QuantizeLinear=9, Softmax=2)
    assert describe_limits(found, precision="int8") == (
        "8 of 13 matrix products run in int8; the others are 4 MatMul in fp32, 1 Gemm in fp32",
        "2 DequantizeLinear did not fuse with a product, which then computes in float",
        "9 QuantizeLinear only convert a precision or a layout",
    )
    assert describe_limits(nodes(MatMulIntegerToFloat=2), precision="int8") == ("2 of 2 matrix products run in int8",)


def test_int8_speeds_up_the_linear_layers_of_two_blocks() -> None:
    """Attention, the embedding of patches and the classifier stay in float."""
    found = limits("int8")
    assert found[:2] == [
        "onnxruntime: 8 of 18 matrix products run in int8; "
        "the others are 4 MatMul in fp32, 4 Einsum in fp32, 1 Conv in fp32, 1 Gemm in fp32",
        "onnxruntime: 8 QuantizeLinear, 1 ReorderOutput only convert a precision or a layout",
    ]


def test_openvino_tells_what_it_executes() -> None:
    pytest.importorskip("openvino")
    found = [text for text in limits("int8") if text.startswith("openvino: ")]
    if not found:
        pytest.skip("OpenVINO is not available with limited instructions")
    assert found[0].startswith("openvino: 8 of 18 matrix products run in int8; the others are ")
    assert not any("did not fuse" in text for text in found)
    assert "Reorder" in found[-1]


@pytest.mark.skipif(not CPU.has_bf16, reason="this CPU has no bf16 instructions")
def test_all_products_are_in_bf16_in_openvino_alone() -> None:
    pytest.importorskip("openvino")
    found = limits("bf16")
    if not found:
        pytest.skip("OpenVINO is not available with limited instructions")
    assert found[0] == "openvino: 18 of 18 matrix products run in bf16"


def test_nothing_is_said_of_float32() -> None:
    assert limits("fp32") == []
