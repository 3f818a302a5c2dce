"""Identifiers are kept in stores and files: a change of one is a change for everybody who has them."""

import numpy as np
import pytest

from hwnas.profile.subjects import space_subject
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

SAMPLED = {
    "autoformer-tiny": (("9f3b68b6adbc6825", "2320aac84b2ac74d"), ("64b83ccb780b34bd", "1f2ea34bfc3a8f70")),
    "resnas-tiny": (("914ba9e2ecc5faa9", "4e3441ca99b9c320"), ("78e91916e3e422cb", "f3f9840f6d6dae53")),
    "vitas-deit-small": (("562785b2ad29cfd2", "27cdb792226911cf"), ("698ce049185ae7ba", "e6133453ebc58750")),
    "vitas-deit-small-shifted": (("69f8f1faa04c174f", "67c16d0d36b835ba"), ("db8d96b83143fdb3", "3ee3101e41dd9863")),
    "vitas-twins-small": (("6d5d377472c192a7", "acbc5798dea62b72"), ("88292a383a995d3b", "6c4d0369d94571ec")),
    "glit-tiny": (("305c4346fda186b6", "e51c956c58fa0f7d"), ("dad4c7b249f9c527", "043d9f118c5dbdba")),
}
"""The ids of `space.sample(np.random.default_rng(0), 2)`."""


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


@pytest.mark.parametrize("name", SAMPLED)
def test_candidates_of_genomes_carry_the_ids_of_their_networks(name: str) -> None:
    space = SPACES.get(name)
    genomes = space.sample(np.random.default_rng(0), 2)
    candidates = space.candidates(genomes)
    assert tuple((candidate.arch_id, candidate.network_id) for candidate in candidates) == SAMPLED[name]
    assert tuple(candidate.arch for candidate in candidates) == space.decode(genomes)
    assert (np.stack([candidate.genome for candidate in candidates]) == genomes).all()
    assert tuple(space.candidate(candidate.arch) for candidate in candidates) == candidates


def test_no_genomes_are_no_candidates() -> None:
    assert SPACES.get("glit-tiny").candidates(SPACES.get("glit-tiny").encode([])) == ()


def test_a_population_with_ids_and_subjects_is_decoded_once(coded_rows: dict[str, list[int]]) -> None:
    space = SPACES.get("autoformer-tiny")
    candidates = space.candidates(space.sample(np.random.default_rng(0), 300))
    subjects = [space_subject(space, candidate) for candidate in candidates]
    assert coded_rows == {"encode": [], "decode": [300]}
    assert [subject.arch_id for subject in subjects] == [candidate.arch_id for candidate in candidates]
