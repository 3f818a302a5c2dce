"""The workload of any `nn.Module`, traced from shapes alone: nothing is computed and no weight is copied.

The module is copied in structure, with every tensor on the `meta` device, and run once in evaluation mode. Under
inference mode torch hands its operations over whole (a linear, a norm, an attention), and each becomes one row.

- Rows are named by the module that ran them: `blocks.3.attn.qkv`, `blocks.3.attn.attention`, `blocks.3.add`.
- A parameter is counted once, where it is first used: by the linear, convolution or norm whose weight or bias it is,
  else by a table row of its own (class tokens, position tables, layer scales, weights that are computed from
  parameters). What the forward does not use is not counted.
- Attention that is written out stays as written: two matrix products and a softmax.
- What sizes do not tell is noted as traits (`hwnas.export.traits`).
- Multiply-accumulates are half of what `torch.utils.flop_counter` counts on the `meta` device, but for products with
  a single vector (`mv`, `dot`), which it leaves out and which are counted here. Interpolations, Fourier transforms,
  distances and bilinear forms count none in either.
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
from hwnas.export.aten import COPIES, IMAGE, RULES, Call, Shape, is_whole, operation, reads_nothing
from hwnas.export.traits import with_traits
from hwnas.workload import Operation, Table, Workload


@runtime_checkable
class Summarised(Protocol):
    """A module whose operations are better told as others than they are executed."""

    def summarise_workload(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        """What to list in place of the traced operations, with the same products and parameters in sum."""


def trace_workload(module: nn.Module, *, image_size: int | tuple[int, int], channels: int = 3) -> Workload:
    """The workload of a network for one image, `image_size` pixels high and wide; the network is left as it is."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return trace_module(module, input_shape=(1, channels, height, width))


def trace_module(module: nn.Module, *, input_shape: Sequence[int]) -> Workload:
    """The workload of a module for one input of this shape, the batch of 1 included."""
    model = _on_meta(getattr(module, "_orig_mod", module))
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
    calls = _calls(model, input_shape)
    return Workload(tuple(_Ledger(parameters, model).operations(with_traits(calls, _of_two(model, input_shape)))))


# ------------------------------------------------------------------------------------ copy and record


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode: its structure, and tensors that have a shape and no values."""
    _require_eager(module)
    try:
        memo: dict[int, Any] = {id(tensor): _shape_only(tensor) for tensor in module.parameters()}
        with _ShapesOnly():
            return copy.deepcopy(module, memo).eval()
    except Exception as error:
        raise InputError(
            "a network must be a module that can be copied to be traced",
            got=_first_line(error),
            hint="run lazy modules once before, and leave out what cannot be copied (locks, open files)",
        ) from error


def _require_eager(module: nn.Module) -> None:
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise InputError(
            "a network must be a plain module to be traced",
            got=f"{type(module).__name__} with scripted parts",
            hint="give the module as it was before torch.jit.script or torch.jit.trace",
        )


def _shape_only(tensor: torch.Tensor) -> torch.Tensor:
    shape = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(shape, requires_grad=tensor.requires_grad)
    return shape


class _ShapesOnly(TorchFunctionMode):
    """While it is on, a deep copy of a tensor has its shape and not its values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), _shape_only(tensor))


def _dtype(model: nn.Module) -> torch.dtype:
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(kinds, torch.get_default_dtype())


def _of_two(model: nn.Module, input_shape: Sequence[int]) -> list[Call]:
    """The calls for two images; none where the network takes one image alone."""
    try:
        return _calls(model, (2 * input_shape[0], *input_shape[1:]))
    except InputError:
        return []


def _calls(model: nn.Module, input_shape: Sequence[int]) -> list[Call]:
    """The calls that a model makes, in order; the model is ours to hook."""
    example = torch.empty(tuple(input_shape), device="meta", dtype=_dtype(model))
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
    """Notes every operation that runs: whole where a rule knows it, else taken apart as far as torch can."""

    def __init__(self, example: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._modules = [""]
        self._image = example.untyped_storage()
        self._storages = [self._image]
        """Kept, so that no address is used twice."""

    def enter(self, name: str) -> Callable[..., None]:
        """The hook that runs before a module."""

        def hook(*_: object) -> None:
            self._modules.append(name)

        return hook

    def leave(self, *_: object) -> None:
        """The hook that runs after a module."""
        self._modules.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        _require_aten(func)
        call = self._call(func, args, kwargs)
        if not (is_whole(call) or _is_copy(func)):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            _require_known(func, call)
        out = func(*args, **kwargs)
        self._note(replace(call, outputs=self._shapes(out)))
        return out

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        names = [argument.name for argument in func._schema.arguments]
        given = tree_map_only(torch.Tensor, self._shape, {**dict(zip(names, args, strict=False)), **kwargs})
        return Call(
            name=_name(func),
            module=self._modules[-1],
            arguments=given,
            inputs=tuple(leaf for leaf in tree_leaves(given) if isinstance(leaf, Shape)),
            outputs=(),
            is_copy=_is_copy(func),
            is_in_place=func._overloadpacket.__name__.endswith("_"),
        )

    def _note(self, call: Call) -> None:
        """Keep a call that reads tensors and makes new ones."""
        seen = {shape.storage for shape in call.inputs}
        is_view = call.is_copy and all(shape.storage in seen for shape in call.outputs)
        if call.inputs and call.outputs and not is_view and not reads_nothing(call.name):
            self.calls.append(call)

    def _shapes(self, out: Any) -> tuple[Shape, ...]:
        return tuple(self._shape(leaf) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))

    def _shape(self, tensor: torch.Tensor) -> Shape:
        storage = tensor.untyped_storage()
        self._storages.append(storage)
        return Shape(
            tuple(tensor.shape),
            IMAGE if storage._cdata == self._image._cdata else storage._cdata,
            in_order=_lies_in_order(tensor),
            promotes=tensor.is_floating_point() and tensor.ndim > 0,
        )


def _lies_in_order(tensor: torch.Tensor) -> bool:
    """Whether a tensor is contiguous, along dimensions in which it has more than one element of its own."""
    length = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if size > 1 and stride:
            if stride != length:
                return False
            length *= size
    return True


def _name(func: Any) -> str:
    """The name of a torch operation, that of its in-place form alike."""
    name: str = func._overloadpacket.__name__
    return name.removesuffix("_")


def _is_copy(func: Any) -> bool:
    """Whether an operation is a view, may be one, or hands its values on as they are."""
    is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
    return is_view or torch.Tag.inplace_view in func.tags or _name(func) in COPIES


def _require_aten(func: Any) -> None:
    if getattr(func, "namespace", None) not in ("aten", "prim"):
        raise InputError(
            "a network must consist of torch's own operations to be traced",
            got=str(func),
            hint="switch the compiled or custom kernel off, or put torch operations in its place",
        )


def _require_known(func: Any, call: Call) -> None:
    """Refuse what torch counts as a product and no rule here does, rather than count it as free."""
    if func._overloadpacket in flop_registry and call.name not in RULES:
        raise InputError("a network must use operations that the tracer can count", got=str(func))


# --------------------------------------------------------------------------------- calls to operations


@dataclass(frozen=True)
class _Parameter:
    name: str
    elements: int


class _Ledger:
    """Gives every operation its name and its parameters, each parameter to the first that uses it."""

    def __init__(self, parameters: Mapping[int, _Parameter], model: nn.Module) -> None:
        self._parameters = parameters
        self._leaves = _plain_leaves(model)
        self._summaries = {name: part for name, part in model.named_modules() if isinstance(part, Summarised)}
        self._open = set(parameters)
        self._names: Counter[str] = Counter()

    def operations(self, calls: Iterable[Call]) -> Iterator[Operation]:
        """The rows of all calls, those of a module that sums up its own in its words."""
        for name, group in itertools.groupby(calls, key=self._summary):
            rows = self._all_rows(group)
            if name is None:
                yield from rows
            else:
                summary = self._summaries[name].summarise_workload(tuple(rows))
                yield from (replace(row, name=self._unique(f"{name}.{row.name}")) for row in summary)

    def _summary(self, call: Call) -> str | None:
        """The module around a call that sums up its operations itself."""
        around = (name for name in self._summaries if f"{call.module}.".startswith(f"{name}."))
        return next(around, None)

    def _all_rows(self, calls: Iterable[Call]) -> Iterator[Operation]:
        for call in calls:
            if call.is_copy:
                yield from self._tables(self._unclaimed(call))
            else:
                yield from self._rows(call)

    def _rows(self, call: Call) -> Iterator[Operation]:
        bare = operation(call)
        owned = self._claim(call) if bare.params else 0
        if tables := self._unclaimed(call):
            yield from self._tables(tables)
            bare = operation(replace(call, tables=frozenset(tables)))
        yield replace(
            bare,
            name=self._unique(self._title(call, bare)),
            shared=bare.params - owned,
            traits=call.traits,
        )

    def _claim(self, call: Call) -> int:
        """How many elements of its own weight and bias a call is the first to use."""
        return sum(self._take(shape) for shape in _weights(call) if self._is_all_of_one(shape))

    def _is_all_of_one(self, shape: Shape) -> bool:
        return shape.storage in self._open and self._parameters[shape.storage].elements == shape.numel

    def _take(self, shape: Shape) -> int:
        self._open.remove(shape.storage)
        return shape.numel

    def _unclaimed(self, call: Call) -> list[int]:
        """The parameters among what a call reads that no row has counted yet."""
        return list(dict.fromkeys(shape.storage for shape in call.inputs if shape.storage in self._open))

    def _tables(self, storages: Iterable[int]) -> Iterator[Table]:
        """Rows for parameters that enter as they are."""
        for storage in storages:
            self._open.remove(storage)
            parameter = self._parameters[storage]
            yield Table(name=self._unique(parameter.name), elements=parameter.elements)

    def _title(self, call: Call, bare: Operation) -> str:
        """The module whose weight it is, else the module that ran it and what it did there."""
        for shape in _weights(call) if bare.params else ():
            if owner := self._owner(shape):
                return owner
        if call.module in self._leaves:
            return call.module
        return f"{call.module}.{bare.label}".removeprefix(".")

    def _owner(self, shape: Shape) -> str:
        parameter = self._parameters.get(shape.storage)
        return parameter.name.rpartition(".")[0] if parameter else ""

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        count = self._names[name]
        return name if count == 1 else f"{name}_{count}"


def _weights(call: Call) -> list[Shape]:
    given = (call.arguments.get(name) for name in ("weight", "bias"))
    return [shape for shape in given if shape is not None]


def _plain_leaves(model: nn.Module) -> frozenset[str]:
    """The modules of torch itself that hold no others: an activation, a pool."""
    return frozenset(
        name
        for name, module in model.named_modules()
        if name and type(module).__module__.startswith("torch.nn.") and not any(module.children())
    )
