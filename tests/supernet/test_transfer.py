"""Weights for other images and classes."""

import pytest
import torch

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from hwnas.supernet.transfer import carry_over, resize_positions

MICROS = ("autoformer-micro", "resnas-micro", "vitas-micro", "vitas-twins-micro", "glit-micro")


@pytest.mark.parametrize("name", MICROS)
def test_classifiers_for_other_classes_stay_fresh_and_the_rest_is_copied(name: str) -> None:
    space = SPACES.get(name)
    old, new = make_supernet(space), make_supernet(space.adapted(num_classes=7))
    fresh = carry_over(old.shared.state_dict(), new.shared)
    assert fresh == ("head.classifier.weight", "head.classifier.bias")
    for key, tensor in new.shared.state_dict().items():
        assert key in fresh or torch.equal(tensor, old.shared.state_dict()[key])


def test_positions_are_interpolated() -> None:
    space = SPACES.get("autoformer-micro")
    old, new = make_supernet(space), make_supernet(space.adapted(image_size=64))
    assert carry_over(old.shared.state_dict(), new.shared) == ()
    position = new.shared.state_dict()["stem.position"]
    torch.testing.assert_close(
        position, resize_positions(old.shared.state_dict()["stem.position"], tokens=position.shape[1])
    )


def test_weights_of_another_network_are_refused() -> None:
    space = SPACES.get("autoformer-micro")
    supernet = make_supernet(space)
    small, large = supernet.subnet(space.smallest()), supernet.subnet(space.largest())
    with pytest.raises(InputError, match="those of the same network"):
        carry_over(small.state_dict(), large)
    narrow = dict(large.state_dict())
    narrow["blocks.0.mlp.fc1.weight"] = narrow["blocks.0.mlp.fc1.weight"][:-1]
    with pytest.raises(InputError, match=r"mlp\.fc1\.weight must have the shape"):
        carry_over(narrow, large)


def test_a_table_of_the_right_size_is_left_alone() -> None:
    table = torch.randn(1, 17, 3)
    assert resize_positions(table, tokens=17) is table


def test_the_row_of_the_class_token_stays_and_a_constant_stays_constant() -> None:
    table = torch.cat([torch.full((1, 1, 3), 9.0), torch.full((1, 16, 3), 2.0)], dim=1)
    resized = resize_positions(table, tokens=1 + 36)
    assert resized.shape == (1, 37, 3)
    assert resized[0, 0].tolist() == [9.0] * 3
    torch.testing.assert_close(resized[:, 1:], torch.full((1, 36, 3), 2.0))


@pytest.mark.parametrize("shape", [(), (17,), (17, 3), (1, 1, 17, 3), (2, 17, 3), (1, 0, 3), (1, 16, 0)])
def test_what_is_no_table_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"must have the shape \(1, tokens, channels\)") as caught:
        resize_positions(torch.zeros(shape), tokens=17)
    assert caught.value.got == shape


def test_tables_that_are_no_square_or_differ_in_the_class_token_are_refused() -> None:
    with pytest.raises(InputError, match="square grid"):
        resize_positions(torch.zeros(1, 15, 3), tokens=17)
    with pytest.raises(InputError, match="only one of the two"):
        resize_positions(torch.zeros(1, 16, 3), tokens=26)
