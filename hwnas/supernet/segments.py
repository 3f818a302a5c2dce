"""Segments of a sub-network: modules without weights, run with slices of the shared tensors.

Building a module takes about a millisecond, and hundreds of segments differ in the shapes of their weights or in their
rate of stochastic depth alone. Modules are therefore built once for each structure and kept, one for each mode, so that
no mode has to be set before a run.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hwnas.supernet.layers import DropPath
from hwnas.supernet.network import SegmentConfig
from hwnas.supernet.sharing import Axes, Part, Source, take

Places = Mapping[str, tuple[dict[str, Tensor], str]]
"""Per name of a tensor of a module, the dictionary of a part of it that holds the tensor, and its key there."""


@dataclass(frozen=True, kw_only=True)
class SlicedSegment:
    """One segment of a sub-network, and the shared weights that each of its tensors is taken from."""

    config: SegmentConfig
    sources: Mapping[str, Source]


@dataclass(frozen=True, kw_only=True)
class _Template:
    """A module without weights, with the places of its tensors and what is there between runs."""

    module: nn.Module
    places: Places
    empty: Mapping[str, Tensor]


@dataclass(frozen=True)
class PreparedSegment:
    """A segment that can be run on shared tensors."""

    template: _Template
    sources: Mapping[str, Source]

    def run(self, x: Any, shared: Mapping[str, Tensor], **options: Any) -> Any:
        """Run the segment on slices of the shared tensors; options are arguments of its module."""
        weights = {name: take(source, shared) for name, source in self.sources.items()}
        if torch.compiler.is_compiling():
            return functional_call(self.template.module, weights, (x,), options)
        # functional_call checks names and ties at every call, which takes as long as a small layer.
        places, empty = self.template.places, self.template.empty
        try:
            for name, tensor in weights.items():
                tensors, own = places[name]
                tensors[own] = tensor
            return self.template.module(x, **options)
        finally:
            for name in weights:
                tensors, own = places[name]
                tensors[own] = empty[name]


def sliced_segment(name: str, config: SegmentConfig, axes: Axes) -> SlicedSegment:
    """Slice a segment, each of its tensors one part of the shared tensor of the same name.

    Args:
        name: Name of the shared segment.
        config: Config of the sub-network's segment.
        axes: Per tensor, the index of each axis.
    """
    places = _template(config, training=True).places
    return SlicedSegment(
        config=config, sources={tensor: (Part(f"{name}.{tensor}", axes.get(tensor, ())),) for tensor in places}
    )


def prepared(path: Iterable[SlicedSegment], *, training: bool) -> list[PreparedSegment]:
    """Return segments that can be run, in training mode or for evaluation."""
    return [PreparedSegment(_template(segment.config, training=training), segment.sources) for segment in path]


def tensor_places(module: nn.Module) -> Places:
    """Return the places of the parameters of a module, then those of its buffers."""
    parts = list(module.named_modules())
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for kind in ("_parameters", "_buffers"):
        for path, part in parts:
            tensors: dict[str, Any] = getattr(part, kind)
            for own in (own for own, tensor in tensors.items() if tensor is not None):
                found[f"{path}.{own}" if path else own] = tensors, own
    return found


def _template(config: SegmentConfig, *, training: bool) -> _Template:
    """Return the template of a config, which is that of all configs whose modules compute the same from given weights.

    Sizes of weights alone are 1, or stay 0.
    """
    kind: Any = type(config)
    sizes = getattr(config, "weight_sizes", ())
    values = [(name, getattr(config, name)) for name in _fields(kind)]
    key = tuple([(name, min(1, value)) if name in sizes else (name, value) for name, value in values])
    return _built(kind, key, training=training)


@cache
def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@lru_cache(maxsize=4096)
def _built(kind: Any, values: tuple[tuple[str, Any], ...], *, training: bool) -> _Template:
    options = dict(values)
    rate = options.get("drop_path", 0.0)
    if rate:  # all but stochastic depth is that of the others
        template = _built(kind, tuple({**options, "drop_path": 0.0}.items()), training=training)
        module = copy.copy(template.module)
        module._modules = {**template.module._modules, "drop_path": DropPath(rate).train(training)}
        return replace(template, module=module)
    with torch.device("meta"):
        module = kind(**options).build().train(training)
    places = tensor_places(module)
    return _Template(module=module, places=places, empty={name: part[own] for name, (part, own) in places.items()})
