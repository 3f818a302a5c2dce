"""A small network as an ONNX graph, and the same in torch."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

KINDS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}


def small_network() -> nn.Module:
    """A convolution, its mean over the image, a linear: 3x8x8 to 10 classes."""
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)
    )
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return network.eval()


def small_images(batch: int, *, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def small_graph(
    *, precision: str = "fp32", batch: int | None = 2, extra: str | None = None, outside: str | None = None
) -> bytes:
    """The network's graph; `batch=None` leaves the batch open, `extra` adds an operator of that name at the end.

    `outside` is the precision of images and logits, where it is another one: the graph casts them.
    """
    kind, length = KINDS[precision], "batch" if batch is None else batch
    edge = KINDS[outside or precision]
    network = small_network()
    names = ("conv_w", "conv_b", "fc_w", "fc_b")
    weights = [_initialiser(name, value, kind) for name, value in zip(names, network.parameters(), strict=True)]
    nodes = [
        helper.make_node(
            "Conv", ["images", "conv_w", "conv_b"], ["a"], name="conv", kernel_shape=[4, 4], strides=[4, 4]
        ),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["d"], name="flatten"),
        helper.make_node("Gemm", ["d", "fc_w", "fc_b"], ["e" if extra else "logits"], name="fc", transB=1),
    ]
    if extra:
        nodes.append(helper.make_node(extra, ["e"], ["logits"], name="last"))
    if outside:
        nodes[0].input[0], nodes[-1].output[0] = "cast_images", "own_logits"
        nodes.insert(0, helper.make_node("Cast", ["images"], ["cast_images"], name="cast_in", to=kind))
        nodes.append(helper.make_node("Cast", ["own_logits"], ["logits"], name="cast_out", to=edge))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", edge, [length, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", edge, [length, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def expected_logits(images: Tensor, *, precision: str = "fp32") -> Tensor:
    """What torch answers, with weights and images rounded to the precision."""
    dtype = DTYPES[precision]
    with torch.inference_mode():
        logits: Tensor = small_network().to(dtype).float()(images.to(dtype).float())
    return logits


def _initialiser(name: str, value: Tensor, kind: int) -> onnx.TensorProto:
    array = value.detach().numpy()
    if kind == TensorProto.BFLOAT16:
        array = array.astype(helper.tensor_dtype_to_np_dtype(kind))
    if kind == TensorProto.FLOAT16:
        array = array.astype(np.float16)
    return numpy_helper.from_array(array, name)
