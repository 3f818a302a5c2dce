"""What cannot work is an InputError that says where, what and what instead: never another exception, never a number."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.space import SPACES, autoformer, glit, resnas, vitas, vitas_twins
from hwnas.space.space import AnySpace
from tests.strategies import NAMED, changed, space_id

Change = Callable[[dict[str, Any]], object]

_ONE_PER_FAMILY = ["autoformer-tiny", "resnas-tiny", "vitas-deit-small", "vitas-twins-small", "glit-tiny"]


def refused(function: Callable[..., object], *arguments: object) -> InputError:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return caught.value


# Genomes.

_MICRO = autoformer.MICRO
_WIDTH = len(_MICRO.dimensions)
_TAKERS = ("contains", "canonical", "repair", "decode", "costs", "official", "workloads", "neighbours")


@pytest.mark.parametrize("taker", _TAKERS)
@pytest.mark.parametrize(
    ("genomes", "message", "got"),
    [
        ([0] * _WIDTH, "genomes of autoformer-micro must be rows of 10 whole numbers", "an array of shape (10,)"),
        ([[0] * 9], "genomes of autoformer-micro must be rows of 10 whole numbers", "an array of shape (1, 9)"),
        ([[[0] * 10]], "genomes of autoformer-micro must be rows of 10 whole numbers", "an array of shape (1, 1, 10)"),
        ([], "genomes of autoformer-micro must be rows of 10 whole numbers", "an array of shape (0,)"),
        (0, "genomes of autoformer-micro must be rows of 10 whole numbers", "an array of shape ()"),
        ([[0.0] * 10], "genomes must be whole numbers", "an array of float64"),
        ([[float("nan")] * 10], "genomes must be whole numbers", "an array of float64"),
        ([[True] * 10], "genomes must be whole numbers", "an array of bool"),
        ([["0"] * 10], "genomes must be whole numbers", "an array of <U1"),
        ([[None] * 10], "genomes must be whole numbers", "an array of object"),
        ([[2**70] * 10], "genomes must be whole numbers", "an array of object"),
        (None, "genomes must be whole numbers", "an array of object"),
    ],
)
def test_arrays_that_are_no_genomes(taker: str, genomes: object, message: str, got: str) -> None:
    error = refused(getattr(_MICRO, taker), genomes)
    assert (error.message, error.got) == (message, got)


def test_rows_of_different_lengths() -> None:
    refused(_MICRO.costs, [[0] * _WIDTH, [0]])


@pytest.mark.parametrize("value", [-1, 4, 2**40])
def test_a_gene_out_of_range_is_named_by_its_row(value: int) -> None:
    rows = np.zeros((3, _WIDTH), dtype=np.int64)
    rows[1, 0] = value
    error = refused(_MICRO.canonical, rows)
    assert error.message == "row 1 must be a network of autoformer-micro"
    assert error.got == f"[{value}, {', '.join(['0'] * 9)}]"


def test_a_genome_of_identities_alone_is_no_network() -> None:
    space = vitas.DEIT_SMALL
    row = np.zeros((1, len(space.dimensions)), dtype=np.int64)
    row[:, space.columns("num_heads")] = 4
    assert not space.contains(row).any()
    assert "row 0 must be a network of vitas-deit-small" in str(refused(space.costs, row))
    row[0, space.columns("num_heads").start + 15] = 3
    assert space.contains(row).all()


# Archs.


def _arch(space: AnySpace) -> dict[str, Any]:
    (published,) = list(space.published.values())[:1] or [space.largest()]
    return deepcopy(published.to_mapping())


def _refused_after(space: AnySpace, change: Change) -> InputError:
    values = _arch(space)
    change(values)
    return refused(space.parse, values)


def _blocks(values: dict[str, Any]) -> list[Any]:
    """The blocks of the first stage, or of the network."""
    found: list[Any] = values["stages"][0]["blocks"] if "stages" in values else values["blocks"]
    return found


def _put(index: int, **fields: object) -> Change:
    return lambda values: _blocks(values)[index].update(fields)


def _drop(index: int, field: str) -> Change:
    def change(values: dict[str, Any]) -> None:
        del _blocks(values)[index][field]

    return change


@pytest.mark.parametrize(
    ("name", "change", "message", "got", "known"),
    [
        ("autoformer-tiny", lambda v: v.update(width=1), "AutoFormerArch: key 'width'", "width", "embed_dim blocks"),
        ("autoformer-tiny", _put(3, heads=1), "blocks[3]: key 'heads'", "heads", "num_heads mlp_ratio"),
        ("autoformer-tiny", lambda v: v.__delitem__("embed_dim"), "embed_dim is missing", "only blocks", ""),
        ("autoformer-tiny", _drop(3, "mlp_ratio"), "blocks[3].mlp_ratio is missing", "only num_heads", ""),
        ("autoformer-tiny", lambda v: v.update(embed_dim=200), "embed_dim", "200", "192 216 240"),
        ("autoformer-tiny", lambda v: v.update(embed_dim="192"), "embed_dim must be a whole number", '"192"', ""),
        ("autoformer-tiny", lambda v: v.update(embed_dim=192.0), "embed_dim must be a whole number", "192.0", ""),
        ("autoformer-tiny", lambda v: v.update(blocks=None), "blocks must be a list", "null", ""),
        ("autoformer-tiny", lambda v: v.update(blocks={}), "blocks must be a list", "{}", ""),
        ("autoformer-tiny", lambda v: v.update(blocks=v["blocks"][:5]), "blocks", "5", "12 13 14"),
        ("autoformer-tiny", lambda v: v.update(blocks=v["blocks"] * 2), "blocks", "26", "12 13 14"),
        ("autoformer-tiny", lambda v: v.update(blocks=[]), "blocks", "0", "12 13 14"),
        ("autoformer-tiny", _put(2, num_heads=5), "blocks[2].num_heads", "5", "3 4"),
        ("autoformer-tiny", _put(2, num_heads=-1), "blocks[2].num_heads", "-1", "3 4"),
        ("autoformer-tiny", _put(2, num_heads=True), "blocks[2].num_heads must be a whole number", "true", ""),
        ("autoformer-tiny", _put(2, num_heads=[3]), "blocks[2].num_heads must be a whole number", "[3]", ""),
        ("autoformer-tiny", _put(12, mlp_ratio=2), "blocks[12].mlp_ratio", "2.0", "3.0 3.5 4.0"),
        ("autoformer-tiny", _put(0, mlp_ratio=float("nan")), "blocks[0].mlp_ratio must be a finite", "NaN", ""),
        ("autoformer-tiny", _put(0, mlp_ratio=None), "blocks[0].mlp_ratio must be a number", "null", ""),
        ("autoformer-tiny", lambda v: v["blocks"].__setitem__(4, None), "blocks[4] must be a table", "null", ""),
        ("resnas-tiny", lambda v: _blocks(v).__setitem__(0, None), "stages[0].blocks[0] cannot be left", "null", ""),
        ("resnas-tiny", lambda v: _blocks(v).append(None), "stages[0].blocks", "7", "6"),
        ("resnas-tiny", lambda v: _blocks(v).pop(), "stages[0].blocks", "5", "6"),
        ("resnas-tiny", lambda v: v["stages"].append(v["stages"][2]), "stages", "4", "3"),
        ("resnas-tiny", lambda v: v["stages"].__setitem__(1, None), "stages[1] must be a table", "null", ""),
        ("resnas-tiny", lambda v: v["stages"][1].update(embed_dim=176), "stages[1].embed_dim", "176", "320 352 512"),
        ("resnas-tiny", _put(1, num_heads=12), "stages[0].blocks[1].num_heads", "12", "3 4 5 6"),
        ("resnas-tiny", _put(1, hidden_dim=100), "stages[0].blocks[1].hidden_dim", "100", "384 448 704"),
        ("vitas-deit-small", lambda v: v.update(blocks=[None] * 16), "blocks must hold at least one", "none", ""),
        ("vitas-deit-small", lambda v: v.update(patch_size=15), "patch_size", "15", "14 16 32"),
        ("vitas-deit-small", _put(0, num_heads=0), "blocks[0].num_heads", "0", "3 6 12 16"),
        ("vitas-deit-small", _put(2, qkv_dim=145), "blocks[2].qkv_dim", "145", "144 288 1440"),
        ("vitas-deit-small", lambda v: _blocks(v).pop(), "blocks", "15", "16"),
        (
            "vitas-deit-small-shifted",
            lambda v: _blocks(v).insert(1, None),
            "blocks[1] cannot be an identity",
            "null",
            "",
        ),
        ("vitas-deit-small-shifted", lambda v: _blocks(v).clear(), "blocks", "0", "1 2 16"),
        ("vitas-deit-base", lambda v: _blocks(v).__setitem__(12, None), "blocks[12] cannot be an identity", "null", ""),
        ("vitas-deit-base", lambda v: v.update(blocks=[None] * 13), "blocks must hold at least one", "none", ""),
        ("vitas-twins-small", lambda v: _blocks(v).clear(), "stages[0].blocks", "0", "1 2 3 4"),
        ("vitas-twins-small", lambda v: _blocks(v).extend(_blocks(v) * 2), "stages[0].blocks", "6", "1 2 3 4"),
        (
            "vitas-twins-small",
            lambda v: _blocks(v).__setitem__(1, None),
            "stages[0].blocks[1] must be a table",
            "null",
            "",
        ),
        ("vitas-twins-small", _put(1, num_heads=16), "stages[0].blocks[1].num_heads", "16", "2 4 8"),
        ("vitas-twins-small", lambda v: v["stages"].pop(), "stages", "3", "4"),
        ("glit-tiny", _put(0, groups=4), "blocks[0].groups", "4", "0 1 2 3"),
        ("glit-tiny", _put(0, groups=-1), "blocks[0].groups", "-1", "0 1 2 3"),
        ("glit-tiny", _put(0, kernel_size=31), "blocks[0].kernel_size is not chosen", "31", "leave it out"),
        ("glit-tiny", _put(0, expansion=1), "blocks[0].expansion is not chosen", "1", "leave it out"),
        ("glit-tiny", _put(1, value_ratio=1), "blocks[1].value_ratio is not chosen", "1.0", "leave it out"),
        ("glit-tiny", _put(1, mlp_ratio=6), "blocks[1].mlp_ratio is not chosen", "6", "4"),
        ("glit-tiny", _put(2, value_ratio=2), "blocks[2].value_ratio is not chosen", "2.0", "1.0"),
        ("glit-tiny", _put(2, kernel_size=17), "blocks[2].kernel_size is not chosen", "17", "31"),
        ("glit-tiny", _drop(2, "value_ratio"), "blocks[2].value_ratio is not chosen", "null", "1.0"),
        ("glit-tiny", _drop(1, "kernel_size"), "blocks[1].kernel_size", "null", "17 31 45"),
        ("glit-tiny", _drop(0, "value_ratio"), "blocks[0].value_ratio", "null", "0.5 1.0 2.0"),
        ("glit-tiny-paper", _put(0, kernel_size=31), "blocks[0].kernel_size is not chosen", "31", "leave it out"),
        ("glit-tiny-paper", _put(2, kernel_size=30), "blocks[2].kernel_size", "30", "17 31 45"),
        ("glit-tiny", lambda v: _blocks(v).pop(), "blocks", "11", "12"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_the_choices(
    name: str, change: Change, message: str, got: str, known: str
) -> None:
    error = _refused_after(SPACES.get(name), change)
    assert error.message.startswith(message)
    assert str(error.got) == got
    assert set(known.split() if known != "leave it out" else [known]) <= set(error.known)


@pytest.mark.parametrize("values", [None, [], "AutoFormer-T", 3])
@pytest.mark.parametrize("name", _ONE_PER_FAMILY)
def test_what_is_no_table_is_no_network(name: str, values: object) -> None:
    space = SPACES.get(name)
    assert refused(space.parse, values).message == f"{space.arch_type.__name__} must be a table of named values"


@pytest.mark.parametrize(("name", "other"), list(permutations(_ONE_PER_FAMILY, 2)))
def test_a_network_of_another_family(name: str, other: str) -> None:
    space, arch = SPACES.get(name), SPACES.get(other).largest()
    for function in (space.workload, space.arch_id, lambda arch: space.encode([arch])):
        error = refused(function, arch)
        assert error.message == f"{name} takes networks of type {space.arch_type.__name__}"
        assert error.got == type(arch).__name__
    refused(space.parse, arch.to_mapping())


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param(glit.TINY.published["GLiT-T"], id="another family"),
        pytest.param(replace(autoformer.TINY.published["AutoFormer-T"], embed_dim=77), id="no choice"),
        pytest.param(replace(autoformer.TINY.published["AutoFormer-T"], blocks=()), id="no blocks"),
    ],
)
def test_what_is_no_network_of_the_space_has_no_network_id(arch: Any) -> None:
    refused(autoformer.TINY.network_id, arch)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("space", NAMED, ids=space_id)
@given(data=st.data())
@settings(max_examples=15)
def test_whatever_stands_in_a_field_it_is_a_network_or_an_input_error(space: AnySpace, data: st.DataObject) -> None:
    values = _arch(space)
    where: Any = values
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if not where[key] or not isinstance(where[key], (dict, list)) or data.draw(st.integers(0, 3)) == 0:
            break
        where = where[key]
    where[key] = data.draw(_JSON)
    try:
        arch = space.parse(values)
    except InputError:
        return
    assert space.contains(space.encode([arch])).all()
    assert space.workload(arch).params > 0


# Configs.


def _use(space: AnySpace) -> None:
    """Do with a space what a search does."""
    genomes = space.sample(np.random.default_rng(0), 4)
    assert space.size > 0
    assert (space.costs(genomes).params > 0).all()
    assert (space.costs(genomes).macs > 0).all()
    space.official(genomes)
    space.neighbours(genomes)
    for arch in (*space.decode(genomes), space.smallest(), space.largest()):
        space.network_id(arch)
        space.workload(arch)


def _config(space: AnySpace, **changes: Any) -> None:
    _use(changed(space, **changes))


def _stage(space: AnySpace, **changes: Any) -> None:
    first, *others = space.config.stages
    _config(space, stages=(replace(first, **changes), *others))


_AUTOFORMER, _RESNAS, _VITAS, _TWINS, _GLIT = (
    family.MICRO for family in (autoformer, resnas, vitas, vitas_twins, glit)
)


@pytest.mark.parametrize("space", [_AUTOFORMER, _RESNAS, _VITAS, _TWINS, _GLIT], ids=space_id)
@pytest.mark.parametrize("field", ["image_size", "channels", "num_classes"])
@pytest.mark.parametrize("value", [0, -1])
def test_images_and_classes_are_at_least_one(space: AnySpace, field: str, value: int) -> None:
    error = refused(lambda: _config(space, **{field: value}))
    assert (error.message, error.got) == (f"{field} must be at least 1", value)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        (_AUTOFORMER, {"embed_dims": (48, 32)}, "embed_dims must have choices in ascending order"),
        (_AUTOFORMER, {"embed_dims": (32, 32)}, "embed_dims must have distinct choices"),
        (_AUTOFORMER, {"num_heads": ()}, "num_heads must have distinct choices"),
        (_AUTOFORMER, {"depths": (3, 2)}, "depths must have choices in ascending order"),
        (_AUTOFORMER, {"patch_size": 0}, "patch_size must be at least 1"),
        (_AUTOFORMER, {"patch_size": 64}, "image_size must be at least 64, the size of a patch"),
        (_AUTOFORMER, {"head_dim": 0}, "head_dim must be at least 1"),
        (_RESNAS, {"image_size": 34}, "image_size must be a multiple of 4"),
        (_RESNAS, {"image_size": 3}, "image_size must be a multiple of 4"),
        (_RESNAS, {"image_size": 4}, "the grid before a spatial reduction must be a multiple of 2"),
        (_RESNAS, {"stages": tuple(reversed(_RESNAS.config.stages))}, "a stage must be at least as wide"),
        (_VITAS, {"patch_sizes": (4, 64)}, "image_size must be at least 64, the size of a patch"),
        (_VITAS, {"patch_sizes": (4, 4)}, "patch_sizes must have distinct choices"),
        (_VITAS, {"num_heads": (1, 5)}, "qkv_dim must be a multiple of 15"),
        (_VITAS, {"qkv_dims": (48, 97)}, "qkv_dim must be a multiple of 3"),
        (_VITAS, {"slots": 0}, "slots must be at least 1"),
        (_VITAS, {"hidden_dims": (96, 48)}, "hidden_dims must have choices in ascending order"),
        (_TWINS, {"window": 0}, "window must be at least 1"),
        (_TWINS, {"image_size": 30}, "image_size must be a multiple of 16"),
        (_GLIT, {"patch_size": 64}, "image_size must be at least 64, the size of a patch"),
        (_GLIT, {"depth": 0}, "depth must be at least 1"),
        (_GLIT, {"embed_dim": 50}, "embed_dim must be a multiple of 3"),
        (_GLIT, {"num_heads": 4}, "num_heads must be a multiple of 3"),
        (_GLIT, {"value_ratios": (0.3,)}, "value_ratios must give heads of a whole width"),
        (_GLIT, {"value_ratios": (float("nan"),)}, "value_ratios must have choices above 0"),
        (_GLIT, {"mlp_ratios": (4, 2)}, "mlp_ratios must have choices in ascending order"),
    ],
)
def test_a_config_that_cannot_work(space: AnySpace, changes: dict[str, Any], message: str) -> None:
    assert refused(lambda: _config(space, **changes)).message.startswith(message)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        (_RESNAS, {"slots": 0}, "slots must be at least 1"),
        (_RESNAS, {"slots": 0, "removable": ()}, "slots must be at least 1"),
        (_RESNAS, {"removable": (0, 1)}, "removable must name slots"),
        (_RESNAS, {"removable": (-1,)}, "removable must name slots"),
        (_RESNAS, {"head_dim": 0}, "head_dim must be at least 1"),
        (_RESNAS, {"embed_dims": (24, 50)}, "a stage must be at least as wide"),
        (_TWINS, {"slots": 0}, "slots must be at least 1"),
        (_TWINS, {"patch_size": 0}, "patch_size must be at least 1"),
        (_TWINS, {"reduction": 0}, "reduction must be at least 1"),
        (_TWINS, {"reduction": 9}, "the grid of reduced keys must be at least 1"),
        (_TWINS, {"num_heads": (5,)}, "qkv_dim must be a multiple of 15"),
        (_TWINS, {"embed_dims": ()}, "embed_dims must have distinct choices"),
    ],
)
def test_a_stage_that_cannot_work(space: AnySpace, changes: dict[str, Any], message: str) -> None:
    assert refused(lambda: _stage(space, **changes)).message.startswith(message)


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (_RESNAS, {"removable": ()}),
        (_RESNAS, {"removable": (0,)}),
        (_RESNAS, {"removable": (2, 0), "slots": 3}),
        (_TWINS, {"reduction": 3}),
        (_TWINS, {"num_heads": (2, 4)}),
    ],
)
def test_a_stage_that_can(space: AnySpace, changes: dict[str, Any]) -> None:
    _stage(space, **changes)


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (_AUTOFORMER, {"image_size": 35}),
        (_AUTOFORMER, {"relative_clip": 0}),
        (_AUTOFORMER, {"relative_clip": None, "pooling": "token"}),
        (_VITAS, {"patch_sizes": (16, 5), "identity": "anywhere", "slots": 1}),
        (_GLIT, {"num_heads": 6, "value_ratios": (0.5, 3.0)}),
    ],
)
def test_a_config_that_can(space: AnySpace, changes: dict[str, Any]) -> None:
    _config(space, **changes)


# What looks like a config and is none.


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (_AUTOFORMER, {"depths": ()}),
        (_AUTOFORMER, {"mlp_ratios": (float("nan"),)}),
        (_AUTOFORMER, {"mlp_ratios": (float("inf"),)}),
        (_RESNAS, {"patch_size": 0}),
        (_RESNAS, {"stages": ()}),
        (_VITAS, {"patch_sizes": ()}),
        (_VITAS, {"patch_sizes": (0,)}),
        (_VITAS, {"patch_sizes": (0, 4)}),
        (_VITAS, {"num_heads": (0,)}),
        (_VITAS, {"identity": "some"}),
        (_TWINS, {"stages": ()}),
        (_GLIT, {"patch_size": 0}),
        (_GLIT, {"num_heads": 0}),
    ],
)
def test_a_config_with_nothing_to_choose_from(space: AnySpace, changes: dict[str, Any]) -> None:
    refused(lambda: _config(space, **changes))


def test_whole_value_ratios_may_be_written_without_a_point() -> None:
    _config(_GLIT, value_ratios=(1, 2))


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (_RESNAS, {"embed_dims": ()}),
        (_TWINS, {"num_heads": (0,)}),
        (_TWINS, {"embed_dims": (0,)}),
    ],
)
def test_a_stage_with_nothing_to_choose_from(space: AnySpace, changes: dict[str, Any]) -> None:
    refused(lambda: _stage(space, **changes))


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (_AUTOFORMER, {"embed_dims": (0, 32)}),
        (_AUTOFORMER, {"num_heads": (0, 1)}),
        (_AUTOFORMER, {"depths": (0, 1)}),
        (_AUTOFORMER, {"depths": (-1, 1)}),
        (_AUTOFORMER, {"mlp_ratios": (-1.0, 1.0)}),
        (_AUTOFORMER, {"mlp_ratios": (0.001, 1.0)}),
        (_AUTOFORMER, {"relative_clip": -5}),
        (_AUTOFORMER, {"pooling": "max"}),
        (_RESNAS, {"patch_size": -2}),
        (_RESNAS, {"stem_channels": 0}),
        (_RESNAS, {"stem_channels": -3}),
        (_VITAS, {"embed_dims": (-5, 5)}),
        (_VITAS, {"patch_sizes": (-4, 4)}),
        (_VITAS, {"num_heads": (-1,)}),
        (_VITAS, {"qkv_dims": (0, 48)}),
        (_VITAS, {"hidden_dims": (0,)}),
        (_GLIT, {"form": "x"}),
        (_GLIT, {"num_heads": -3}),
        (_GLIT, {"embed_dim": 0}),
        (_GLIT, {"value_ratios": (-1.0, 1.0)}),
        (_GLIT, {"fixed_value_ratio": 0.3}),
        (_GLIT, {"fixed_kernel_size": 0}),
        (_GLIT, {"fixed_mlp_ratio": -1}),
        (_GLIT, {"expansions": (0, 1)}),
        (_GLIT, {"kernel_sizes": (0,)}),
        (_GLIT, {"mlp_ratios": (0,)}),
    ],
)
def test_a_config_with_sizes_that_no_network_has(space: AnySpace, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        changed(space, **changes).dimensions  # noqa: B018


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (_RESNAS, {"embed_dims": (-4, 24)}),
        (_RESNAS, {"num_heads": (0, 1)}),
        (_RESNAS, {"hidden_dims": (0,)}),
        (_RESNAS, {"removable": (1, 1), "slots": 3}),
        (_TWINS, {"num_heads": (-1, 1)}),
        (_TWINS, {"qkv_dims": (0,)}),
        (_TWINS, {"hidden_dims": (0,)}),
    ],
)
def test_a_stage_with_sizes_that_no_network_has(space: AnySpace, changes: dict[str, Any]) -> None:
    first, *others = space.config.stages
    with pytest.raises(InputError):
        changed(space, stages=(replace(first, **changes), *others)).dimensions  # noqa: B018
