"""The one entry for exporting: a module to a file that runs without hwnas, checked against torch."""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hwnas.errors import InputError, unknown
from hwnas.export.onnx_graph import build_onnx, facts
from hwnas.export.parity import (
    Array,
    Parity,
    Runner,
    Twin,
    check_parity,
    forget_parity,
    parity_path,
    write_checked,
)
from hwnas.export.precision import in_precision, precision_type
from hwnas.export.rounding import rounded_weights

if TYPE_CHECKING:
    from hwnas.export.compose import Composition
    from hwnas.export.templates import TemplateStore

DESCRIPTION = "hwnas.json"
"""The file inside a pt2 archive, and the entry of a safetensors file is `hwnas`, in which it says how it was made."""

_ANY_BATCH = (1, 3)
"""The batches that a file for any batch is checked with."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for beside the module."""

    input_shape: tuple[int, ...]
    """Of one image: channels, height, width."""
    precision: str = "fp32"
    batch: int | None = 1
    """None: any."""
    exporter: str = "auto"
    metadata: Mapping[str, str] | None = None
    store: "TemplateStore | None" = None

    def describe(self, exporter: str) -> dict[str, str]:
        """What the file says of itself."""
        return facts(exporter=exporter, precision=self.precision, batch=self.batch, metadata=self.metadata)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The content of a file, and a way to run it from that content."""

    content: bytes
    exporter: str
    run: Runner
    runtime: str
    twin: Twin | None = None
    """Of a lower precision: what tells a wrong network from a rounded one."""
    composition: "Composition | None" = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written file, and how far it gives what torch gives."""

    path: Path
    files: tuple[Path, ...]
    """The file and what stands beside it."""
    format: str
    precision: str
    batch: int | None
    exporter: str
    parity: Parity
    composition: "Composition | None" = None
    seconds: float


def export_module(
    module: nn.Module,
    *,
    format: str,
    path: Path,
    input_shape: Sequence[int],
    precision: str = "fp32",
    batch: int | None = 1,
    exporter: str = "auto",
    metadata: Mapping[str, str] | None = None,
    store: "TemplateStore | None" = None,
    images: int = 16,
    seed: int = 0,
) -> Exported:
    """Write a network to a file, after comparing what will be in it with torch on seeded images.

    The figures are written to `NAME.parity.json` with the digest of the file that they are of; the network is written
    only if they are good. The module is exported as it is in evaluation mode, and left as it was.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    precision_type(precision)
    start = time.perf_counter()
    _make_folder(path.parent)
    request = Request(
        input_shape=tuple(input_shape),
        precision=precision,
        batch=batch,
        exporter=exporter,
        metadata=metadata,
        store=store,
    )
    forget_parity(path)
    reference = in_precision(module, "fp32")
    artifact = FORMATS[format](reference, request)
    found = check_parity(
        reference,
        artifact.run,
        input_shape=input_shape,
        precision=precision,
        batches=_ANY_BATCH if batch is None else (batch,),
        images=images,
        seed=seed,
        runtime=artifact.runtime,
        twin=artifact.twin,
    )
    parity = write_checked(found, path, content=artifact.content)
    return Exported(
        path=path,
        files=(path, parity_path(path)),
        format=format,
        precision=precision,
        batch=batch,
        exporter=artifact.exporter,
        parity=parity,
        composition=artifact.composition,
        seconds=time.perf_counter() - start,
    )


def _onnx(module: nn.Module, request: Request) -> Artifact:
    from hwnas.export.onnx_session import is_widened, open_session, runnable, widened

    graph = build_onnx(
        module,
        input_shape=request.input_shape,
        batch=request.batch,
        precision=request.precision,
        exporter=request.exporter,
        metadata=request.metadata,
        store=request.store,
    )
    content = graph.model.SerializeToString()
    run = _session_runner(open_session(runnable(graph.model)))
    twin = None
    if request.precision != "fp32":
        exact = run if is_widened(graph.model) else _session_runner(open_session(widened(graph.model)))
        twin = Twin(run=exact, module=rounded_weights(module, precision=request.precision))
    return Artifact(
        content=content,
        exporter=graph.exporter,
        run=run,
        runtime="onnxruntime, widened to fp32" if is_widened(graph.model) else "onnxruntime",
        twin=twin,
        composition=graph.composition,
    )


def _pt2(module: nn.Module, request: Request) -> Artifact:
    from hwnas.export.dynamo import trace_program

    network = in_precision(module, request.precision)
    program = trace_program(network, input_shape=request.input_shape, batch=request.batch)
    program.example_inputs = None  # torch would keep the images that it was traced with, as a pickle
    buffer = io.BytesIO()
    description = json.dumps(request.describe("torch.export"))
    torch.export.save(program, buffer, extra_files={DESCRIPTION: description})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    run = _runner(loaded)
    # The program runs torch's own operations: beside the module in the same precision, it rounds alike.
    twin = None if request.precision == "fp32" else Twin(run=run, module=network)
    return Artifact(content=buffer.getvalue(), exporter="torch.export", run=run, runtime="torch.export", twin=twin)


def _safetensors(module: nn.Module, request: Request) -> Artifact:
    from safetensors.torch import load, save

    dtype = precision_type(request.precision)
    tensors = {name: _saved(tensor, dtype) for name, tensor in module.state_dict().items()}
    content = save(tensors, metadata={"format": "pt", "hwnas": json.dumps(request.describe("module"))})
    own = in_precision(module, "fp32")
    own.load_state_dict(load(content))
    run = _runner(own)
    narrow = request.precision != "fp32"
    twin = Twin(run=run, module=rounded_weights(module, precision=request.precision)) if narrow else None
    return Artifact(content=content, exporter="module", run=run, runtime="torch", twin=twin)


FORMATS: Mapping[str, Callable[[nn.Module, Request], Artifact]] = {
    "onnx": _onnx,
    "pt2": _pt2,
    "safetensors": _safetensors,
}
"""What can be written: a graph, a program of torch operations, or the weights alone."""


def _saved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of its own, as safetensors wants it: names that share one each get a copy."""
    return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()


def _session_runner(session: Any) -> Runner:
    def run(images: Array) -> Array:
        logits: Array = session.run(None, {session.get_inputs()[0].name: images})[0]
        return logits

    return run


def _runner(module: Callable[[Tensor], Tensor]) -> Runner:
    def run(images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = module(torch.from_numpy(images)).float().numpy()
        return logits

    return run


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made a folder", got=error.strerror or str(error)) from error
