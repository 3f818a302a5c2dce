"""The search spaces of four published systems, with the exact costs of their networks. Numpy only."""

from hwnas.registry import Registry, require_named
from hwnas.space import autoformer, glit, resnas, vitas, vitas_twins
from hwnas.space.space import AnySpace, Space

SPACES: Registry[AnySpace] = Registry("space", hint="hwnas describe {} max", check=require_named("space", Space))
"""All named spaces."""

FAMILIES: Registry[type[AnySpace]] = Registry("family")
"""The classes of spaces, by family."""

for _kind in (autoformer.AutoFormer, resnas.ResNas, vitas.Vitas, vitas_twins.Twins, glit.Glit):
    FAMILIES.add(_kind.family, _kind)

for _family in (autoformer, resnas, vitas, vitas_twins, glit):
    for _space in _family.SPACES:
        SPACES.add(_space.name, _space)
