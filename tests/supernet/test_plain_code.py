import sys
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.supernet.families import make_network
from hwnas.supernet.plain_code import network_code


@dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """A segment of a family that is not part of hwnas."""

    def build(self) -> nn.Module:
        return nn.Identity()


def load(code: str) -> types.ModuleType:
    module = types.ModuleType("plain_code_of_a_test")
    sys.modules[module.__name__] = module
    try:
        exec(compile(code, "plain", "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


@pytest.mark.parametrize("name", ["autoformer-tiny", "distilled-resnas-tiny", "vitas-twins-micro", "glit-micro"])
def test_the_code_builds_the_same_segments(name: str) -> None:
    space = SPACES.get(name)
    arch = space.smallest()
    with torch.device("meta"):
        network = make_network(space, arch)
        module = load(network_code(network.outline))
        assert list(module.OUTLINE) == list(network.outline)
        for segment, config in module.OUTLINE.items():
            expected = {key: tensor.shape for key, tensor in network.get_submodule(segment).state_dict().items()}
            assert {key: tensor.shape for key, tensor in config.build().state_dict().items()} == expected


def test_what_a_network_does_not_need_is_left_out() -> None:
    space = SPACES.get("autoformer-micro")
    code = network_code(make_network(space, space.smallest()).outline)
    for word in ("hwnas", "Supernet", "token_grid", "summarise_workload", "onednn", "type: ignore"):
        assert word not in code
    assert "class RelativeAttention" in code


def test_families_that_are_not_part_of_hwnas_are_refused() -> None:
    with pytest.raises(InputError, match="whose families are part of hwnas"):
        network_code({"head": ForeignConfig()})
