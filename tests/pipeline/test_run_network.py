import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError, UnknownNameError, UsageError
from hwnas.pipeline.describe import describe
from hwnas.pipeline.export_network import export_network
from hwnas.pipeline.named_network import find_network, names_run
from hwnas.pipeline.run_network import _weights, network_of_run, space_of_run
from hwnas.runs import Run
from hwnas.space import SPACES
from hwnas.space.lookup import find_arch
from hwnas.supernet.families import make_supernet
from hwnas.supernet.store import save_network, save_supernet
from hwnas.train.evaluated import deployment_of_id, resolve_arch
from hwnas.train.options import TrainOptions, resolve_config
from hwnas.train.run_folder import weights_digest
from tests.search.test_record import RECORD

SPACE = SPACES.get("autoformer-micro")


@pytest.fixture
def training(tmp_path: Path) -> Path:
    run = tmp_path / "training"
    Run.create(run, command=("hwnas",), config={})
    save_supernet(make_supernet(SPACE), run / "supernet.safetensors")
    return run


def test_a_network_of_a_supernet_is_found_by_its_name_and_by_its_id(training: Path) -> None:
    smallest = SPACE.smallest()
    for name in ("min", SPACE.arch_id(smallest), SPACE.arch_id(smallest)[:12].upper(), SPACE.arch_id(smallest)[:4]):
        found = network_of_run(training, name)
        assert (found.arch, found.weights) == (smallest, training / "supernet.safetensors")


def test_a_network_is_found_by_the_id_that_its_exported_files_have(training: Path, tmp_path: Path) -> None:
    largest = SPACE.largest()
    network_id = SPACE.network_id(largest)
    assert network_id != SPACE.arch_id(largest)
    for name in (network_id, network_id[:6]):
        found = network_of_run(training, name)
        assert (found.arch, found.weights) == (largest, training / "supernet.safetensors")
    file = export_network(str(training), network_id, out=tmp_path / "out", format="safetensors").files[0]
    assert file.name.startswith(f"{SPACE.name}-{network_id}-")


@pytest.mark.parametrize(("size", "measured"), [(None, None), (32, None), (64, 64)])
def test_the_space_of_a_training_has_its_images_and_classes(
    size: int | None, measured: int | None, tmp_path: Path
) -> None:
    options = TrainOptions(space=SPACE.name, data="digits", image_size=size)
    Run.create(tmp_path / "run", command=("hwnas",), config=resolve_config(options, num_classes=7, num_images=99))
    assert space_of_run(tmp_path / "run") == (SPACE.name, measured, 7)


def test_networks_of_a_run_are_described_by_the_first_digits_of_their_ids(training: Path) -> None:
    found = describe(str(training), SPACE.arch_id(SPACE.largest())[:6])
    assert (found.arch_id, found.num_classes) == (SPACE.arch_id(SPACE.largest()), SPACE.config.num_classes)
    with pytest.raises(InputError, match="no network with this id was evaluated in"):
        describe(str(training), "abc123")


def test_an_unknown_id_names_the_one_that_it_is_spelled_like_or_the_command_that_lists_ids(training: Path) -> None:
    networks = SPACE.candidates(SPACE.sample(np.random.default_rng(0), 2))
    ids = [network.arch_id for network in networks]
    search = training.parent / "search"
    Run.create(search, command=("hwnas",), config={"supernet": {"path": str(training)}})
    rows = [{"arch_id": network.arch_id, "arch": network.arch.to_mapping()} for network in networks]
    (search / "accuracies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = "hwnas train --supernet RUN --arch {arch}"
    wrong = ids[0][:-1] + ("0" if ids[0][-1] != "0" else "1")
    with pytest.raises(InputError, match="no network with this id") as caught:
        resolve_arch(SPACE, wrong, training, command=command)
    assert caught.value.hint == f"hwnas train --supernet RUN --arch {ids[0]}"
    with pytest.raises(InputError, match="no network with this id") as caught:
        resolve_arch(SPACE, "00000000", training, command=command)
    assert caught.value.hint == f"hwnas export {search}, which lists the ids of its front"
    with pytest.raises(InputError, match="an id must have at least four digits") as caught:
        resolve_arch(SPACE, "26", search, command=command, front=ids)
    assert caught.value.known == tuple(ids)
    assert caught.value.hint == f"hwnas export {search}, which lists the ids of its front"
    with pytest.raises(InputError, match="no network with this id") as caught:
        resolve_arch(SPACE, "00000000", None, command=command)
    assert caught.value.hint == "hwnas train --supernet RUN --arch max"


def test_a_text_of_many_digits_is_no_id() -> None:
    with pytest.raises(UnknownNameError):
        resolve_arch(SPACE, 400 * "a", None, command="{arch}")


def test_digits_of_several_ids_are_an_error_that_lists_them(training: Path) -> None:
    candidates = SPACE.candidates(SPACE.sample(np.random.default_rng(0), 1000))
    by_digits: dict[str, set[str]] = {}
    for candidate in candidates:
        by_digits.setdefault(candidate.arch_id[:4], set()).add(candidate.arch_id)
    digits, ids = next((digits, ids) for digits, ids in by_digits.items() if len(ids) > 1)
    with pytest.raises(InputError, match="enough digits to match one network") as caught:
        resolve_arch(SPACE, digits, training, command="{arch}", others=candidates)
    assert caught.value.known == tuple(sorted(ids))


def test_the_one_network_of_a_training_needs_no_name(tmp_path: Path) -> None:
    run = tmp_path / "one"
    Run.create(run, command=("hwnas",), config={})
    save_network(
        make_supernet(SPACE).subnet(SPACE.smallest()), run / "network.safetensors", space=SPACE, arch=SPACE.smallest()
    )
    found = network_of_run(run, None)
    assert (found.arch, found.weights) == (SPACE.smallest(), run / "network.safetensors")
    assert network_of_run(run, SPACE.arch_id(SPACE.smallest())[:6]).arch == network_of_run(run, "min").arch
    with pytest.raises(InputError, match="must be the one that it holds"):
        network_of_run(run, "max")
    assert names_run(str(run))
    assert not names_run(str(tmp_path))


def test_a_run_may_be_named_like_a_space_that_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("layout-glit-tiny", "distilled-run", "autoformer-tiny"):
        assert not names_run(name)
        Run.create(Path(name), command=("hwnas",), config={})
    assert list(map(names_run, ("layout-glit-tiny", "distilled-run", "autoformer-tiny"))) == [True, True, False]
    assert not names_run("distilled-" + 5000 * "x")
    with pytest.raises(InputError, match="must be a run that holds networks"):
        find_network("distilled-run", "max", command="{space} {arch}")


def test_a_network_of_a_run_is_exported_with_its_weights(training: Path, tmp_path: Path) -> None:
    done = export_network(str(training), "min", out=tmp_path / "out", format="safetensors")
    assert not done.fresh_weights
    assert done.arch_id == SPACE.arch_id(SPACE.smallest())


def test_an_exported_network_of_a_run_can_be_trained(training: Path, tmp_path: Path) -> None:
    done = export_network(str(training), "min", out=tmp_path / "out", format="safetensors")
    assert done.arch_file == tmp_path / "out" / f"autoformer-micro-{done.network_id}-arch.json"
    assert find_arch(SPACE, done.arch_file) == SPACE.smallest()
    assert export_network(SPACE.name, "min", out=tmp_path / "other", format="safetensors").arch_file is None


def test_networks_of_a_search_are_known_by_their_ids_to_the_supernet_that_was_searched(
    training: Path, tmp_path: Path
) -> None:
    sampled = SPACE.sample(np.random.default_rng(0), 3)
    networks = SPACE.candidates(sampled)
    for name, supernet, network in (("a", training, networks[0]), ("b", tmp_path / "other", networks[1])):
        Run.create(tmp_path / name, command=("hwnas",), config={"supernet": {"path": str(supernet)}})
        row = {"arch_id": network.arch_id, "arch": network.arch.to_mapping(), "accuracy": 0.5}
        (tmp_path / name / "accuracies.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "accuracies.jsonl").write_text("{}\n")
    assert resolve_arch(SPACE, networks[0].arch_id, training, command="{arch}") == networks[0].arch
    for name in (
        networks[0].arch_id[:8],
        *(f"{networks[0].arch_id}-{slug}" for slug in ("openvino-fp32", "int8-dynamic")),
    ):
        assert resolve_arch(SPACE, name, training, command="{arch}") == networks[0].arch
    for network in networks[1:]:
        with pytest.raises(InputError, match="no network with this id was evaluated in"):
            resolve_arch(SPACE, network.arch_id, training, command="{arch}")


@pytest.mark.parametrize(
    ("text", "deployment"),
    [
        ("d67a01bd9e776bcd-openvino-fp32", "openvino-fp32"),
        ("d67a01bd-OpenVINO", "openvino"),
        ("d67a-onnxruntime-int8-dynamic", "onnxruntime-int8-dynamic"),
        ("d67a-bf16", "bf16"),
        ("d67a01bd9e776bcd", None),
        ("d67a-openvino-fp33", None),
        ("max-openvino-fp32", None),
    ],
)
def test_the_id_of_a_candidate_ends_with_its_deployment(text: str, deployment: str | None) -> None:
    assert deployment_of_id(text) == deployment


def test_the_weights_are_of_the_supernet_that_was_searched(training: Path, tmp_path: Path) -> None:
    file = training / "supernet.safetensors"
    assert RECORD.spec.supernet is not None
    supernet = replace(RECORD.spec.supernet, path=training, digest=weights_digest(file))
    assert _weights(tmp_path, "0" * 12, supernet) == file
    with pytest.raises(InputError, match="must be the one that was searched"):
        _weights(tmp_path, "0" * 12, replace(supernet, digest="another"))


def test_errors_say_what_is_wrong(training: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be named") as caught:
        network_of_run(training, None)
    assert caught.value.known == ("min", "max", "random:SEED")
    with pytest.raises(InputError, match="no network with this id"):
        network_of_run(training, "0123456789abcdef")
    with pytest.raises(UsageError, match="are those of the run"):
        export_network(str(training), "min", out=tmp_path, image_size=64)
    empty = tmp_path / "empty"
    Run.create(empty, command=("hwnas",), config={})
    with pytest.raises(InputError, match="must be a run that holds networks"):
        network_of_run(empty, "min")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="a folder must be a run"):
        export_network(str(tmp_path / "folder"), "min", out=tmp_path)
