"""Identifiers are kept in stores and files: a change of one is a change for everybody who has them."""

import pytest

from hwnas.space import SPACES

IDS = {
    ("autoformer-tiny", "AutoFormer-T"): ("3214cb9de42d4877", "26f765679e99d31f"),
    ("autoformer-small", "AutoFormer-S"): ("41075a065b80b875", "9c0f639bec701162"),
    ("autoformer-base", "AutoFormer-B"): ("a19ab2cf690743cb", "e4549921c0e6bf7d"),
    ("resnas-tiny", "ViT-ResNAS-T"): ("9927adc9eea95f4b", "cbc06c183de9695c"),
    ("resnas-small", "ViT-ResNAS-S"): ("499320a6de56ad68", "ffa94029ef1a7f48"),
    ("resnas-small", "ViT-ResNAS-M"): ("2ac233ce92b5a5d2", "2f4c075b2b5d7f1d"),
    ("vitas-deit-small", "ViTAS-A"): ("0247d40a903af88f", "19137569965baa64"),
    ("vitas-deit-small", "ViTAS-B"): ("56367b469b922fcd", "a85559a6b2cb1667"),
    ("vitas-deit-small", "ViTAS-C"): ("1e80b88beed18d16", "be9a0d5fe38e4f4f"),
    ("vitas-deit-small", "ViTAS-E"): ("389fa629ad72b0f7", "10d32a904db2f43c"),
    ("vitas-deit-small-shifted", "ViTAS-A"): ("89fcc07889d20b1f", "19137569965baa64"),
    ("vitas-deit-small-shifted", "ViTAS-B"): ("450124c73c2b4233", "a85559a6b2cb1667"),
    ("vitas-deit-small-shifted", "ViTAS-C"): ("4d0c7adf3cde37bd", "be9a0d5fe38e4f4f"),
    ("vitas-deit-small-shifted", "ViTAS-E"): ("b28facc18a5acb98", "10d32a904db2f43c"),
    ("vitas-deit-base", "ViTAS-F"): ("0fa86056762be268", "aed18102cf7c72fa"),
    ("vitas-deit-base-shifted", "ViTAS-F"): ("fb1daa92a46457ab", "aed18102cf7c72fa"),
    ("vitas-twins-small", "Twins-SVT-S"): ("17fea9afaae9d8b5", "fbd7a889aee422d7"),
    ("vitas-twins-base", "Twins-SVT-B"): ("ebd0104bc3cd2f09", "a38fef14ed97b57a"),
    ("glit-tiny", "GLiT-T"): ("8fcd87a155353c0e", "8ee572823c7816ff"),
    ("glit-tiny-paper", "GLiT-T"): ("34bfbf95e4d9fdd8", "8ee572823c7816ff"),
}


@pytest.mark.parametrize(("space", "network"), IDS)
def test_the_ids_of_published_networks_stay(space: str, network: str) -> None:
    chosen = SPACES.get(space)
    arch = chosen.published[network]
    assert (chosen.arch_id(arch), chosen.network_id(arch)) == IDS[space, network]


def test_the_ids_of_a_space_for_other_images_are_others() -> None:
    space = SPACES.get("autoformer-tiny")
    arch, other = space.published["AutoFormer-T"], space.adapted(num_classes=10)
    assert other.arch_id(arch) != space.arch_id(arch)
    assert other.network_id(arch) != space.network_id(arch)
