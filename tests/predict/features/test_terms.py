import dataclasses

import numpy as np
import pytest

from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.terms import _TERMS, is_moving, terms
from hwnas.workload import (
    FLOAT32,
    ONCE,
    STRIDED,
    Attention,
    Convolution,
    Elementwise,
    Linear,
    MatMul,
    Move,
    Norm,
    Operation,
    Pool,
    RelativePosition,
    Table,
)


def convolution(name: str, *, inputs: int = 8, kernel: int = 9, groups: int = 1, positions_out: int = 16) -> Operation:
    return Convolution(
        name=name,
        positions_in=16,
        positions_out=positions_out,
        inputs=inputs,
        outputs=8,
        kernel=kernel,
        groups=groups,
    )


OPERATIONS: tuple[Operation, ...] = (
    Linear(name="linear", tokens=10, inputs=100, outputs=300, traits=(STRIDED, FLOAT32)),
    Linear(name="once", tokens=10, inputs=100, outputs=300, traits=(ONCE,)),
    convolution("convolution"),
    convolution("depthwise", groups=8),
    convolution("large depthwise", groups=8, kernel=81),
    convolution("grouped", groups=2),
    convolution("pointwise", kernel=1),
    convolution("patchify", kernel=4, positions_out=4),
    MatMul(name="matmul", batch=2, rows=10, inner=20, columns=30),
    MatMul(name="widened", batch=2, rows=10, inner=20, columns=30, traits=(FLOAT32,)),
    Attention(name="attention", heads=2, width=64, queries=9, keys=9, windows=4, mask=1),
    RelativePosition(name="relative", heads=2, grid=3, head_dim=32, clip=2),
    *(
        Norm(name=f"{variant}-{channels}", variant=variant, tokens=10, channels=channels)
        for variant in ("layer_norm", "batch_norm", "group_norm", "rms_norm")
        for channels in (64, 512)
    ),
    *(Elementwise(name=name, variant=name, elements=100) for name in ("softmax", "add", "mul", "gelu", "relu")),
    *(Move(name=name, variant=name, elements=100) for name in ("cat", "roll", "pad", "gather")),
    *(
        Pool(name=variant, variant=variant, positions_in=16, positions_out=4, channels=8)
        for variant in ("pool", "sum", "upsample_bilinear2d")
    ),
    Table(name="table", elements=100),
)


def test_terms_of_moving_data_are_those_that_depend_on_the_memory_rate() -> None:
    assert {operation.kind for operation in OPERATIONS} == set(_TERMS)
    # Little memory bandwidth, so that every operation is bound by it.
    slow = Conditions(
        kind="gpu",
        op_per_s=1e15,
        byte_per_s=1e6,
        bytes_per_element=2,
        num_sms=4,
        torch_layouts=True,
        autocast=True,
    )
    faster = dataclasses.replace(slow, byte_per_s=2e6)
    seen, changed = set(), set()
    for operation in OPERATIONS:
        pairs = zip(terms(operation, slow, 4.0), terms(operation, faster, 4.0), strict=True)
        for (name, amount), (_, other) in pairs:
            if np.any(amount):
                seen.add(name)
            if not np.allclose(amount, other, rtol=1e-9, atol=0):
                changed.add(name)
    assert {name for name in seen if is_moving(name)} == changed
    assert {
        "layer_norm.bytes<=256",
        "other_norm.bytes>256",
        "attention.masked",
        "once.bytes",
        "float32.bytes",
    } < changed
    assert {"linear.params", "patchify.memory_bound", "attention.scores", "strided.bytes"} < changed


def test_products_in_float32_have_a_rate_of_their_own_in_half_precision_of_torch_alone() -> None:
    widened = MatMul(name="widened", batch=2, rows=10, inner=20, columns=30, traits=(FLOAT32,))
    half = Conditions(
        kind="gpu", op_per_s=1e12, byte_per_s=1e12, bytes_per_element=2, torch_layouts=True, autocast=True
    )
    assert dict(terms(widened, half, 5.0))["float32.macs"] == 1e3 * 2 * 5 * 2 * 10 * 20 * 30 / 1e12
    for other in (dataclasses.replace(half, bytes_per_element=4), dataclasses.replace(half, torch_layouts=False)):
        names = set(dict(terms(widened, other, 5.0)))
        assert "float32.macs" not in names
        assert "matmul.macs<=128" in names


@pytest.mark.parametrize(
    ("variant", "group"), [("pool", "pool"), ("sum", "reduction"), ("upsample_bilinear2d", "elementwise")]
)
def test_poolings_reductions_and_interpolations_are_classes_of_their_own(variant: str, group: str) -> None:
    device = Conditions(kind="gpu", op_per_s=1e12, byte_per_s=1e12, bytes_per_element=2)
    rows = Pool(name="pool", variant=variant, positions_in=49, positions_out=196, channels=64)
    assert dict(terms(rows, device, 5.0)) == {
        f"{group}.bytes": pytest.approx(1e3 * 2 * 5 * 64 * (49 + 196) / 1e12),
        "calls.pool": 1.0,
    }


@pytest.mark.parametrize(("kernel", "group"), [(49, "depthwise"), (81, "large_depthwise")])
def test_depthwise_kernels_that_libraries_have_no_code_for_are_a_class_of_their_own(kernel: int, group: str) -> None:
    device = Conditions(kind="gpu", op_per_s=1e12, byte_per_s=1e12, bytes_per_element=2)
    found = dict(terms(convolution("depthwise", groups=8, kernel=kernel), device, 1.0))
    assert {name.partition(".")[0] for name in found} == {group, "calls", "moment"}
