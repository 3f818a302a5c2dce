import pytest

from hwnas.errors import InputError
from hwnas.space.dimension import Dimension, per_block, per_network, per_stage


def test_the_scope_follows_from_stage_and_block() -> None:
    assert per_network("depth", (1, 2)).scope == "network"
    assert [dimension.scope for dimension in per_stage("depth", [(1, 2), (3,)])] == ["stage", "stage"]
    assert {dimension.scope for dimension in per_block("num_heads", (1, 2), blocks=2)} == {"block"}
    assert {dimension.scope for dimension in per_block("num_heads", (1, 2), blocks=2, stage=0)} == {"block"}


def test_stages_have_choices_of_their_own_and_blocks_share_theirs() -> None:
    stages = per_stage("embed_dim", [(8, 16), (32,)])
    assert [(dimension.stage, dimension.block, dimension.choices) for dimension in stages] == [
        (0, None, (8, 16)),
        (1, None, (32,)),
    ]
    blocks = per_block("num_heads", [3, 1], blocks=2, stage=4, kind="categorical")
    assert [(dimension.stage, dimension.block, dimension.choices, dimension.kind) for dimension in blocks] == [
        (4, 0, (3, 1), "categorical"),
        (4, 1, (3, 1), "categorical"),
    ]


def test_a_range_will_do() -> None:
    assert per_network("depth", range(1, 4)).choices == (1, 2, 3)


@pytest.mark.parametrize(
    ("choices", "kind", "message"),
    [
        ((), "ordinal", "depth must have distinct choices"),
        ((), "categorical", "depth must have distinct choices"),
        ((2, 2), "ordinal", "depth must have distinct choices"),
        ((1, 1.0), "categorical", "depth must have distinct choices"),
        ((3, 2), "ordinal", "the ordinal choices of depth must be in ascending order"),
    ],
)
def test_choices_that_no_gene_can_index_are_refused(choices: tuple[float, ...], kind: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Dimension(name="depth", kind=kind, choices=choices)  # type: ignore[arg-type]
    assert caught.value.message == message
    assert caught.value.got == choices
