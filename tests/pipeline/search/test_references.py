"""Networks that the front of an elastic space is compared with: measured, evaluated, and shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from hwnas.cli.front import print_search_result
from hwnas.cli.query import query as query_command
from hwnas.errors import InputError
from hwnas.pipeline.search.accuracy import SupernetAccuracy, open_supernet
from hwnas.pipeline.search.query import query
from hwnas.pipeline.search.references import network_id_of, reference_subjects, references_of
from hwnas.pipeline.search.run import SearchRun, search_networks
from hwnas.report.gather import gather
from hwnas.report.verdict import plain_sizes
from hwnas.search.record import ReferenceNetwork, read_record, write_record
from hwnas.space import SPACES
from hwnas.space.elastic import Elastic
from hwnas.supernet.store import load_supernet, save_supernet
from hwnas.train.session import ORIGINAL
from tests.pipeline.campaigns import FakeEnvironment
from tests.pipeline.search.workbench import SPEED, options, unverified
from tests.profile.stand_ins import duration_us

NAMES = (
    "original",
    "uniform 66%",
    "uniform 50%",
    "original at 48 px",
    "original at 32 px",
    "original at patch 32",
)


DEIT_TI = ReferenceNetwork(
    name="DeiT-Ti", macs=1, params=1, metrics={}, measured=True, accuracy=None, network_id="timm:deit_tiny_patch16_224"
)


@pytest.fixture(scope="module")
def searched(elastic_bench: dict[str, Any]) -> SearchRun:
    wanted, out = options(elastic_bench, strategy="random", budget=6), elastic_bench["runs"] / "run"
    return search_networks(wanted, out=out, campaign_environment=FakeEnvironment().make())


def test_the_model_is_compared_with_its_cuts_its_sizes_and_a_smaller_model() -> None:
    found = references_of(SPACES.get("elastic:timm:vit_small_patch16_224"))
    names = {item.name: item for item in found}
    sizes = ["original at 192 px", "original at 160 px", "original at 128 px", "original at patch 32"]
    assert list(names) == [
        "original",
        *(name for name in names if name.startswith("uniform ")),
        *sizes,
        "vit_tiny_patch16_224",
        "DeiT-Ti",
        "DeiT-S",
    ]
    assert len(found) == 10
    shares = [int(name.split()[1].removesuffix("%")) for name in names if name.startswith("uniform")]
    assert shares == pytest.approx([65, 45], abs=5)
    assert names["original at 128 px"].subject.image_size == 128
    assert all(names[name].note.startswith("the weights of the model, resampled") for name in sizes)
    assert names["vit_tiny_patch16_224"].note == "its speed alone: it has no weights here"
    macs = {name: item.workload().macs for name, item in names.items()}
    assert macs["original"] > macs["original at 192 px"] > macs["original at 128 px"] > macs["vit_tiny_patch16_224"] / 2


def test_the_smaller_model_is_named_without_the_tag_of_weights() -> None:
    found = references_of(SPACES.get("elastic:timm:vit_base_patch16_224.mae"))
    assert "vit_small_patch16_224" in [item.name for item in found]


def test_a_space_that_chooses_sizes_has_the_smaller_ones_itself() -> None:
    space = SPACES.get("elastic:timm:test_vit@64+sizes")
    found = [item for item in references_of(space) if item.kind in ("resolution", "patch")]
    assert [item.name for item in found] == list(NAMES[3:])
    assert {item.subject.name for item in found} == {space.name}
    assert {item.note for item in found} == {""}


@pytest.mark.parametrize(
    ("space", "kinds"),
    [
        ("autoformer-tiny", ["known", "known"]),
        # Two patches a side leave no choice of sizes, and the name has no size of a model.
        ("elastic:timm:test_vit@32", ["original", "uniform", "uniform", "known", "known"]),
        # timm's smaller model is DeiT-Ti, which is there already.
        ("elastic:timm:deit_small_patch16_224@224", ["original", *["uniform"] * 2, *["resolution"] * 3, "patch"]),
    ],
)
def test_there_are_no_more_than_there_can_be(space: str, kinds: list[str]) -> None:
    found = [item.kind for item in references_of(SPACES.get(space))]
    assert found == (kinds if kinds[-1] == "known" else [*kinds, "known", "known"])


def test_all_are_measured_with_the_front_and_those_with_weights_evaluated(searched: SearchRun) -> None:
    networks = {item.name: item for item in searched.record.reference_networks}
    assert tuple(networks)[:6] == NAMES
    for item in networks.values():
        assert item.measured == (item.name in NAMES)  # DeiT takes other images
        assert not item.measured or item.metrics[SPEED] == pytest.approx(
            1e6 / duration_us(network_id_of(item)), rel=1e-3
        )
    assert all(networks[name].accuracy is not None for name in NAMES)
    assert networks["DeiT-Ti"].accuracy is None
    health = searched.record.supernet_health
    assert health is not None
    assert networks["original"].accuracy == health.largest  # no step of training has changed it


def test_they_are_shown_with_the_front(searched: SearchRun, capsys: pytest.CaptureFixture[str]) -> None:
    data = gather(searched.run)
    assert tuple(item.name for item in data.references) == NAMES  # DeiT takes other images
    assert data.baseline is not None
    assert data.baseline.name == "original"
    with click.Context(query_command):
        print_search_result(searched.run, searched.record)
    printed = capsys.readouterr().out
    table = (searched.run / "front.md").read_text()
    assert plain_sizes(data) in printed
    for name in NAMES:
        assert name in printed
        assert f"| {name} |" in table
    assert "macs_vs_original" in table
    query_command.main([str(searched.run)], standalone_mode=False)
    asked = capsys.readouterr().out
    assert all(name in asked for name in NAMES)
    assert tuple(item.name for item in query(searched.run).reference_networks) == NAMES


def test_a_resumed_search_measures_them_too(searched: SearchRun, tmp_path: Path) -> None:
    run = unverified(searched, tmp_path)
    again = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record
    assert again.reference_networks == searched.record.reference_networks


def test_records_of_earlier_versions_have_the_known_ones_alone(searched: SearchRun, tmp_path: Path) -> None:
    run = unverified(searched, tmp_path)
    old = [replace(item, network_id=None) for item in searched.record.reference_networks if item.kind == "known"]
    write_record(run, replace(read_record(run), reference_networks=tuple(old)))
    again = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record
    assert [item.name for item in again.reference_networks] == ["DeiT-Ti", "DeiT-S"]


@pytest.mark.parametrize("networks", [(), (replace(DEIT_TI, network_id=None),)])
def test_known_networks_are_measured_on_images_of_their_size(networks: tuple[ReferenceNetwork, ...]) -> None:
    measured = reference_subjects(SPACES.get("autoformer-tiny"), networks)
    assert [item.network_id for item in measured] == ["timm:deit_tiny_patch16_224", "timm:deit_small_patch16_224"]
    assert reference_subjects(SPACES.get("autoformer-micro"), networks) == ()


def test_the_model_has_the_weights_that_it_was_given(elastic_bench: dict[str, Any], tmp_path: Path) -> None:
    supernet = elastic_bench["supernet"]
    opened = open_supernet(supernet, space=None, data=None)
    changed = load_supernet(supernet / ORIGINAL)
    with torch.no_grad():
        for parameter in changed.shared.parameters():
            parameter.zero_()
    space = opened.space
    assert isinstance(space, Elastic)
    accuracy = SupernetAccuracy(opened, space=space, cache=None, device="cpu")
    before = accuracy.evaluate_archs([space.original], None)
    opened.supernet.load_state_dict(changed.state_dict())  # as a training might
    assert accuracy.evaluate_original([space.original], None, space=space) == before
    sized = SPACES.get("elastic:timm:test_vit@64+sizes").adapted(num_classes=10)
    (smaller,) = accuracy.evaluate_original([replace(space.original, image_size=32)], None, space=sized)
    assert 0 <= smaller <= 1
    save_supernet(changed, tmp_path / "weights.safetensors")
    opened = open_supernet(tmp_path / "weights.safetensors", space=None, data="digits")
    assert not SupernetAccuracy(opened, space=space, cache=None, device="cpu").has_original
    with pytest.raises(InputError, match=r"no file original\.safetensors|that the networks were cut from"):
        open_supernet(tmp_path / "weights.safetensors", space=None, data="digits", quality="divergence")
