"""Bring a module into the form that a runtime takes: a copy in a precision on a device, or an ONNX graph."""

import copy

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.export.precision import TORCH_DTYPES
from hwnas.profile.runners.runner import AVAILABLE, Availability
from hwnas.profile.runners.this_machine import device_of
from hwnas.records import Setting

DTYPES = {**TORCH_DTYPES, "tf32": torch.float32}
"""Type of weights and images in each precision; tf32 multiplies, with fewer bits, what is stored in float32."""

GRAPH_EXPORTERS = ("composed", "dynamo", "dynamo-dynamic")
"""Values of `Setting.exporter` that produce a graph."""


def precision_supported(setting: Setting) -> Availability:
    """Check if torch runs networks in the precision of a setting on its kind of device."""
    supported = list(DTYPES)
    if device_of(setting).kind == "cpu":
        supported.remove("tf32")
    if setting.precision in supported:
        return AVAILABLE
    reason = f"{setting.runtime} runs {', '.join(supported)} on {setting.device}, not {setting.precision}"
    return Availability(available=False, reason=reason)


def configure_torch(setting: Setting) -> None:
    """Set torch's threads on a CPU; on a GPU, allow TF32 products only if the precision is tf32."""
    if device_of(setting).kind == "cpu":
        torch.set_num_threads(setting.threads)
        return
    # torch's newer switches (`fp32_precision` of matmul and conv) leave its older ones in a state that cannot be read:
    # every torch.export raises from then on. `torch.set_float32_matmul_precision` would permit TF32 on the CPU as well,
    # where the reference outputs are computed.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.precision == "tf32"
    torch.backends.cudnn.benchmark = False  # its choice of kernels differs from run to run


def copy_module(module: nn.Module, setting: Setting) -> nn.Module:
    """Return a copy of a module on the device and in the precision of a setting, in its own memory layout."""
    kind = "cuda" if device_of(setting).kind == "gpu" else "cpu"
    return copy.deepcopy(module).to(kind, DTYPES[setting.precision]).eval().requires_grad_(requires_grad=False)


def onnx_graph(
    module: nn.Module, images: Tensor, setting: Setting, *, precision: str | None = None, int8_rest: str = "fp32"
) -> bytes:
    """Export a module to ONNX for one batch.

    Args:
        module: The network.
        images: A batch, of which only the shape counts.
        setting: Precision and exporter. The exporter 'composed' assembles a module that declares its segments from
            templates; any other module is exported by 'dynamo', which gives the same graph but takes longer.
        precision: Precision of the graph, for runtimes that lower it themselves; None: that of the setting, for tf32
            fp32.
        int8_rest: Precision of what int8 does not quantise.

    Returns:
        The serialized graph.

    Raises:
        InputError: The exporter does not produce graphs.
    """
    if setting.exporter not in GRAPH_EXPORTERS:
        message = f"{setting.runtime} runs graphs, so the exporter must produce one"
        raise InputError(message, got=setting.exporter, known=GRAPH_EXPORTERS)
    from hwnas.export.onnx_graph import build_onnx

    batch, *shape = images.shape
    graph = build_onnx(
        module,
        input_shape=shape,
        batch=None if setting.exporter == "dynamo-dynamic" else batch,
        precision=precision or ("fp32" if setting.precision == "tf32" else setting.precision),
        exporter="auto" if setting.exporter == "composed" else "dynamo",
        int8_rest=int8_rest,
    )
    data: bytes = graph.model.SerializeToString()
    return data


def exporter_facts() -> dict[str, str]:
    """Return the versions of the packages that make graphs here."""
    import onnx

    return {"onnx": onnx.__version__, "torch": torch.__version__}
