"""Weights for other images and classes."""

import pytest
import torch

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from hwnas.supernet.positions import resize_positions
from hwnas.supernet.transfer import carry_over

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
