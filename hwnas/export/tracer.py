"""Trace the workload of any `nn.Module` from shapes alone: nothing is computed and no weight is copied.

The module is copied with every tensor on the `meta` device and run once in evaluation mode. In inference mode torch
dispatches composite operations (a linear, a norm, an attention) undivided, and each becomes one row of the workload.

- A row is named after the module that ran it: `blocks.3.attn.qkv`, `blocks.3.attn.attention`, `blocks.3.add`.
- A parameter is counted once, where it is first used: by the linear, convolution or norm whose weight or bias it is,
  otherwise by a table row of its own (class tokens, position tables, layer scales, weights that are computed from
  parameters). Parameters that the forward pass does not use are not counted.
- Attention that a module spells out remains two matrix products and a softmax.
- Properties that do not follow from sizes are noted as traits (`hwnas.export.traits`).
- Multiply-accumulates are half of what `torch.utils.flop_counter` counts on the `meta` device, except that products
  with a single vector (`mv`, `dot`), which it leaves out, are counted. Neither counts interpolations, Fourier
  transforms, distances and bilinear forms.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from hwnas.errors import HwnasError, InputError
from hwnas.export.aten import (
    ATTENTION,
    IMAGE,
    PASS_THROUGH,
    RECURRENT,
    RULES,
    OperatorCall,
    TensorShape,
    is_single_operation,
    reads_shape_only,
    to_operation,
)
from hwnas.export.traits import with_traits
from hwnas.workload import Operation, Table, Workload


@runtime_checkable
class SummarisesWorkload(Protocol):
    """A module that replaces its traced operations by others, such as those of a fused kernel."""

    def summarise_workload(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        """Return the operations to list, with the same multiply-accumulates and parameters in sum."""


def trace_workload(module: nn.Module, *, image_size: int | tuple[int, int], channels: int = 3) -> Workload:
    """Trace the workload of a network for one image.

    Args:
        module: The network; it is not changed.
        image_size: Side, or height and width, of the image in pixels.
        channels: Channels of the image.

    Raises:
        InputError: The network cannot be traced; see `trace_module`.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return trace_module(module, input_shape=(1, channels, height, width))


def trace_module(module: nn.Module, *, input_shape: Sequence[int]) -> Workload:
    """Trace the workload of any module for one input.

    Args:
        module: The module; it is not changed.
        input_shape: Shape of the input, with a batch of 1.

    Returns:
        One row for each operation, in the order in which they run.

    Raises:
        InputError: The module has no parameters, cannot be copied, reads values of tensors (`.item()`, a branch on a
            result), refuses the input, or runs operations that are not torch's own.
    """
    model = _copy_to_meta(getattr(module, "_orig_mod", module))  # the module itself inside torch.compile's wrapper
    parameters = {
        parameter.untyped_storage()._cdata: _Parameter(name, parameter.numel())
        for name, parameter in model.named_parameters()
    }
    if not parameters:
        raise InputError(
            "a network must have parameters to be traced",
            got=type(module).__name__,
            hint="give the nn.Module that holds the weights",
        )
    calls = _record_calls(model, input_shape)
    # With a batch of 1 a dimension has no stride, and nothing shows which results grow with the batch. So the traits
    # are taken from a second run with two inputs; a module may refuse it, and is then traced without.
    try:
        calls_for_two = _record_calls(model, (2 * input_shape[0], *input_shape[1:]))
    except InputError:
        calls_for_two = []
    rows = _RowMaker(parameters, model).operations(with_traits(calls, calls_for_two))
    return Workload(tuple(rows))


# ------------------------------------------------------------------------------------ copy and record


def _copy_to_meta(module: nn.Module) -> nn.Module:
    """Copy a module in evaluation mode, with tensors that have a shape but no values."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise InputError(
            "a network must be a plain module to be traced",
            got=f"{type(module).__name__} with scripted parts",
            hint="give the module as it was before torch.jit.script or torch.jit.trace",
        )
    try:
        memo: dict[int, Any] = {id(tensor): _shape_only(tensor) for tensor in module.parameters()}
        with _CopyShapesOnly():
            return copy.deepcopy(module, memo).eval()
    except Exception as error:
        raise InputError(
            "a network must be a module that can be copied to be traced",
            got=_first_line(error),
            hint="run lazy modules once before, and leave out what cannot be copied (locks, open files)",
        ) from error


def _shape_only(tensor: torch.Tensor) -> torch.Tensor:
    shape = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(shape, requires_grad=tensor.requires_grad)
    return shape


class _CopyShapesOnly(TorchFunctionMode):
    """Makes `copy.deepcopy` of a tensor return one on the `meta` device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), _shape_only(tensor))


def _record_calls(model: nn.Module, input_shape: Sequence[int]) -> list[OperatorCall]:
    """Run a model on the `meta` device and return the torch operations that it calls, in order."""
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    dtype = next(kinds, torch.get_default_dtype())
    example = torch.empty(tuple(input_shape), device="meta", dtype=dtype)
    recorder = _Recorder(example)
    hooks = [
        hook
        for name, module in model.named_modules()
        for hook in (
            module.register_forward_pre_hook(recorder.enter(name)),
            module.register_forward_hook(recorder.leave, always_call=True),
        )
    ]
    try:
        with torch.inference_mode(), torch.device("meta"), recorder:
            model(example)
    except HwnasError:
        raise
    except Exception as error:
        raise _failure(error, tuple(example.shape)) from error
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.calls


def _failure(error: Exception, shape: tuple[int, ...]) -> InputError:
    if isinstance(error, NotImplementedError) or "meta" in str(error):
        return InputError(
            "a network must run on shapes alone (torch's meta device) to be traced",
            got=_first_line(error),
            hint="take out .item(), boolean masks, branches on values and arrays that are no buffers, or trace a part",
        )
    return InputError(
        f"the network must accept an input of {' x '.join(map(str, shape))}",
        got=_first_line(error),
        hint="give the image size and the channels that the network was built for",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation that runs; one without a rule is decomposed as far as torch can."""

    def __init__(self, example: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[OperatorCall] = []
        self._modules = [""]
        self._in_attention = self._in_recurrent = 0
        self._image = example.untyped_storage()
        # Tensors are identified by the addresses of their storages. All are kept alive, since torch would reuse the
        # address of one that was freed.
        self._storages = [self._image]

    def enter(self, name: str) -> Callable[..., None]:
        """Return the hook that runs before a module."""

        def hook(*_: object) -> None:
            self._modules.append(name)

        return hook

    def leave(self, *_: object) -> None:
        """Run after a module."""
        self._modules.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "namespace", None) not in ("aten", "prim"):
            raise InputError(
                "a network must consist of torch's own operations to be traced",
                got=str(func),
                hint="switch the compiled or custom kernel off, or put torch operations in its place",
            )
        call = self._describe(func, args, kwargs)
        if not (is_single_operation(call) or call.is_copy):
            self._in_attention += call.name == ATTENTION
            self._in_recurrent += call.name in RECURRENT
            with self:  # the parts are dispatched to this recorder again
                result = func.decompose(*args, **kwargs)
            self._in_attention -= call.name == ATTENTION
            self._in_recurrent -= call.name in RECURRENT
            if result is not NotImplemented:
                return result
            if func._overloadpacket in flop_registry and call.name not in RULES:
                # torch counts multiply-accumulates here, so counting it as a pointwise operation would be wrong
                raise InputError("a network must use operations that the tracer can count", got=str(func))
        result = func(*args, **kwargs)
        outputs = tuple(self._shape(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        self._record(replace(call, outputs=outputs))
        return result

    def _describe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OperatorCall:
        """Describe a call before it runs, so without outputs."""
        names = [argument.name for argument in func._schema.arguments]
        given = tree_map_only(torch.Tensor, self._shape, {**dict(zip(names, args, strict=False)), **kwargs})
        name: str = func._overloadpacket.__name__
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        plain_name = name.removesuffix("_")
        return OperatorCall(
            name=plain_name,
            module=self._modules[-1],
            arguments=given,
            inputs=tuple(leaf for leaf in tree_leaves(given) if isinstance(leaf, TensorShape)),
            outputs=(),
            is_copy=is_view or torch.Tag.inplace_view in func.tags or plain_name in PASS_THROUGH,
            is_in_place=name.endswith("_"),
            is_widened=self._in_attention > 0,
            is_fused=self._in_recurrent > 0,
        )

    def _record(self, call: OperatorCall) -> None:
        """Keep a call that reads tensors and returns new ones."""
        seen = {shape.storage for shape in call.inputs}
        is_view = call.is_copy and all(shape.storage in seen for shape in call.outputs)
        if call.inputs and call.outputs and not is_view and not reads_shape_only(call.name):
            self.calls.append(call)

    def _shape(self, tensor: torch.Tensor) -> TensorShape:
        storage = tensor.untyped_storage()
        self._storages.append(storage)
        return TensorShape(
            tuple(tensor.shape),
            IMAGE if storage._cdata == self._image._cdata else storage._cdata,
            in_order=_is_in_order(tensor),
            promotes=tensor.is_floating_point() and tensor.ndim > 0,
        )


def _is_in_order(tensor: torch.Tensor) -> bool:
    """Return True if a tensor is contiguous, ignoring dimensions of size 1 and expanded ones."""
    length = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if size > 1 and stride:
            if stride != length:
                return False
            length *= size
    return True


# --------------------------------------------------------------------------------- calls to operations


@dataclass(frozen=True)
class _Parameter:
    name: str
    elements: int


class _RowMaker:
    """Turns calls into rows with names, and assigns each parameter to the first row that uses it."""

    def __init__(self, parameters: Mapping[int, _Parameter], model: nn.Module) -> None:
        self._parameters = parameters
        # Modules of torch itself without children, an activation or a pool: their rows need no label.
        self._leaves = frozenset(
            name
            for name, module in model.named_modules()
            if name and type(module).__module__.startswith("torch.nn.") and not any(module.children())
        )
        self._summaries = {name: part for name, part in model.named_modules() if isinstance(part, SummarisesWorkload)}
        self._uncounted = set(parameters)
        self._names: Counter[str] = Counter()

    def operations(self, calls: Iterable[OperatorCall]) -> Iterator[Operation]:
        """Yield the rows of all calls; those of a module that summarises its own are replaced by its summary."""
        for name, group in itertools.groupby(calls, key=self._summarising_module):
            rows = (row for call in group for row in self._rows(call))
            if name is None:
                yield from rows
            else:
                summary = self._summaries[name].summarise_workload(tuple(rows))
                yield from (replace(row, name=self._unique(f"{name}.{row.name}")) for row in summary)

    def _summarising_module(self, call: OperatorCall) -> str | None:
        return next((name for name in self._summaries if f"{call.module}.".startswith(f"{name}.")), None)

    def _rows(self, call: OperatorCall) -> Iterator[Operation]:
        """Yield the row of a call, after rows for tables that it is the first to read."""
        row = None if call.is_copy else to_operation(call)
        if row is None or (call.is_fused and not row.macs):
            yield from self._tables(self._uncounted_inputs(call))
            return
        counted = 0
        for shape in _weights(call) if row.params else ():
            # A slice of a parameter or a reshaped part of it is no weight of its own: it becomes a table below.
            if shape.storage in self._uncounted and self._parameters[shape.storage].elements == shape.numel:
                self._uncounted.remove(shape.storage)
                counted += shape.numel
        if tables := self._uncounted_inputs(call):
            yield from self._tables(tables)
            row = to_operation(replace(call, tables=frozenset(tables)))
        yield replace(row, name=self._unique(self._title(call, row)), shared=row.params - counted, traits=call.traits)

    def _uncounted_inputs(self, call: OperatorCall) -> list[int]:
        """Return the parameters among the inputs of a call that no row has counted yet."""
        return list(dict.fromkeys(shape.storage for shape in call.inputs if shape.storage in self._uncounted))

    def _tables(self, storages: Iterable[int]) -> Iterator[Table]:
        for storage in storages:
            self._uncounted.remove(storage)
            parameter = self._parameters[storage]
            yield Table(name=self._unique(parameter.name), elements=parameter.elements)

    def _title(self, call: OperatorCall, row: Operation) -> str:
        """Return the name of the module that owns the weight, or of the module that ran the call and its label."""
        for shape in _weights(call) if row.params else ():
            parameter = self._parameters.get(shape.storage)
            if parameter and (owner := parameter.name.rpartition(".")[0]):
                return owner
        if call.module in self._leaves:
            return call.module
        return f"{call.module}.{row.label}".removeprefix(".")

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        count = self._names[name]
        return name if count == 1 else f"{name}_{count}"


def _weights(call: OperatorCall) -> list[TensorShape]:
    given = (call.arguments.get(name) for name in ("weight", "bias"))
    return [shape for shape in given if shape is not None]
