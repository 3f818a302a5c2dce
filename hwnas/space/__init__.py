"""What can be searched: the spaces of four published systems, and what each of their networks costs. Numpy only."""

from hwnas.registry import Registry
from hwnas.space import autoformer, glit, resnas, vitas, vitas_twins
from hwnas.space.space import AnySpace

SPACES: Registry[AnySpace] = Registry("space", hint="hwnas describe {} max")
"""All named spaces."""

FAMILIES: Registry[type[AnySpace]] = Registry("family")
"""The families, each a kind of space."""

for _kind in (autoformer.AutoFormer, resnas.ResNas, vitas.Vitas, vitas_twins.Twins, glit.Glit):
    FAMILIES.add(_kind.family, _kind)

for _family in (autoformer, resnas, vitas, vitas_twins, glit):
    for _space in _family.SPACES:
        SPACES.add(_space.name, _space)
