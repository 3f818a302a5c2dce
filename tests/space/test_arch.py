import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.space import autoformer, glit, resnas, vitas, vitas_twins
from hwnas.space.arch import canonical_json, digest

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_the_plain_values_of_each_family() -> None:
    assert autoformer.MICRO.smallest().to_mapping() == {
        "embed_dim": 32,
        "blocks": 2 * [{"num_heads": 1, "mlp_ratio": 1.0}],
    }
    assert resnas.MICRO.smallest().to_mapping()["stages"][0] == {
        "embed_dim": 12,
        "blocks": [{"num_heads": 2, "hidden_dim": 16}, None],
    }
    assert vitas.DEIT_SMALL.published["ViTAS-A"].to_mapping()["blocks"][:2] == [
        {"num_heads": 12, "qkv_dim": 288, "hidden_dim": 1008},
        None,
    ]
    assert vitas_twins.MICRO.smallest().to_mapping()["stages"][2] == {
        "embed_dim": 48,
        "blocks": [{"num_heads": 1, "qkv_dim": 24, "hidden_dim": 16}],
    }
    assert glit.TINY.published["GLiT-T"].to_mapping()["blocks"][:3] == [
        {"groups": 3, "mlp_ratio": 4, "value_ratio": 0.5},
        {"groups": 0, "mlp_ratio": 4, "expansion": 2, "kernel_size": 31},
        {"groups": 1, "mlp_ratio": 6, "value_ratio": 1.0, "expansion": 4, "kernel_size": 31},
    ]


def test_the_text_has_sorted_keys_and_no_white_space() -> None:
    assert canonical_json({"b": [1, None, 0.5], "a": {"d": True, "c": "x y"}}) == (
        '{"a":{"c":"x y","d":true},"b":[1,null,0.5]}'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_has_no_text(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": value})


def test_the_digest_is_the_start_of_sha_256() -> None:
    assert digest({}) == "44136fa355b3678a"  # printf '{}' | sha256sum


@given(st.dictionaries(st.text(), _PLAIN, max_size=4))
def test_the_text_is_json_and_ignores_the_order_of_keys(values: dict[str, object]) -> None:
    text = canonical_json(values)
    assert json.loads(text) == values
    assert canonical_json(dict(reversed(values.items()))) == text
    assert digest(values) == digest(json.loads(text))
