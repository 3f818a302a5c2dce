"""Repair of exported networks and of winners, and networks as folders of timm."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hwnas.config import load_json, to_mapping
from hwnas.errors import CheckFailedError, InputError, UsageError
from hwnas.export.tracer import trace_module
from hwnas.pipeline import export_timm, repair
from hwnas.pipeline.export_network import ExportedNetwork, export_network
from hwnas.pipeline.quantisation import QuantisationOptions
from hwnas.pipeline.search import winners
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import search_networks
from hwnas.pipeline.train import train_model
from hwnas.report import network_card
from hwnas.search.record import ExportedWinner, Repair, read_record
from hwnas.search.spec import PostSearch
from hwnas.space.arch import canonical_json
from hwnas.space.elastic import ElasticArch, ElasticBlock
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.store import load_network, load_supernet, save_supernet
from hwnas.train.options import PretrainedModel, TrainOptions
from hwnas.train.pretrained import supernet_of
from hwnas.train.repair import repair_network
from hwnas.train.trainer import TrainerConfig
from tests.pipeline.search.workbench import write_supernet
from tests.search.test_record import RECORD

SMALL = QuantisationOptions(num_images=64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks of a model with random weights and a classifier that was fitted to them, without training."""
    folder = tmp_path_factory.mktemp("elastic")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), folder / "weights.pth")
    model = PretrainedModel(name="timm:test_vit", checkpoint=folder / "weights.pth")
    options = TrainOptions(
        elastic=model, data="digits", image_size=32, max_images=256, heldout=0.2, epochs=0, batch_size=64
    )
    train_model(options, out=folder / "run", trainer_config=TrainerConfig(threads=1))
    return folder / "run"


@pytest.fixture(scope="module")
def supernet(run: Path) -> ElasticSupernet:
    found = load_supernet(run / "supernet.safetensors").eval()
    assert isinstance(found, ElasticSupernet)
    return found


@pytest.fixture(scope="module")
def narrow(supernet: ElasticSupernet) -> str:
    config = supernet.space.config
    block = ElasticBlock(num_heads=config.num_heads[1], hidden_dim=config.hidden_dims[1])
    return canonical_json(ElasticArch(blocks=(block,) * config.depth).to_mapping())


def export(run: Path, arch: str, out: Path, **options: Any) -> ExportedNetwork:
    given: dict[str, Any] = {"format": "safetensors", "repair": True, "quantisation": SMALL, **options}
    return export_network(str(run), arch, out=out, **given)


def weights(found: ExportedNetwork) -> dict[str, torch.Tensor]:
    return load_file(found.files[0])


def changed(found: ExportedNetwork, supernet: ElasticSupernet) -> set[str]:
    """Names of the tensors that are not those of the supernet."""
    assert isinstance(found.arch, ElasticArch)
    before, after = supernet.subnet(found.arch).state_dict(), weights(found)
    assert before.keys() == after.keys()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_a_repaired_network_is_exported_with_its_figures(
    run: Path, supernet: ElasticSupernet, narrow: str, tmp_path: Path
) -> None:
    found = export(run, narrow, tmp_path)
    effect = found.repair
    assert effect is not None
    assert (effect.data, effect.images) == ("digits", 64)
    assert effect.heldout_images == len((run / "heldout.txt").read_text().splitlines())
    assert effect.divergence < effect.divergence_before
    assert effect.accuracy is not None
    assert effect.accuracy_before is not None
    better = (effect.accuracy, -effect.divergence) > (effect.accuracy_before, -effect.divergence_before)
    assert effect.kept == better
    names = changed(found, supernet)
    assert bool(names) == effect.kept
    assert all(".attention.proj." in name or ".mlp.fc2." in name for name in names)
    with safe_open(found.files[0], "pt") as file:
        about = json.loads(file.metadata()["hwnas"])
    assert json.loads(about["repair"]) == to_mapping(effect)
    assert found.to_mapping()["repair"] == effect


def scored(monkeypatch: pytest.MonkeyPatch, *accuracies: float) -> list[str]:
    """Give networks these accuracies in turn, the model 0.9; return the penalties that are tried."""
    tried, left = [], list(accuracies)

    def score(networks: Sequence[Any], images: Any, *, labelled: bool) -> list[Any]:
        assert labelled
        given = [0.9, *(left.pop(0) for _ in networks[1:])]
        return [repair._Score(images=10, accuracy=value, agreement=0.5, divergence=0.1) for value in given]

    def fit(*arguments: Any, damping: Any) -> int:
        tried.append(damping)
        return repair_network(*arguments, damping=damping)

    monkeypatch.setattr(repair, "_scores", score)
    monkeypatch.setattr(repair, "repair_network", fit)
    return tried


def test_a_repair_that_makes_it_worse_is_tried_again_and_not_kept(
    run: Path, supernet: ElasticSupernet, narrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = scored(monkeypatch, 0.6, 0.7, 0.65)  # the first repair, the network itself, the second repair
    found = export(run, narrow, tmp_path)
    assert tried == ["mean", "max"]
    assert found.repair is not None
    assert (found.repair.kept, found.repair.accuracy_before, found.repair.accuracy) == (False, 0.7, 0.65)
    assert changed(found, supernet) == set()


def test_a_larger_penalty_may_help_where_the_smaller_one_did_not(
    run: Path, supernet: ElasticSupernet, narrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = scored(monkeypatch, 0.6, 0.7, 0.8)
    found = export(run, narrow, tmp_path)
    assert tried == ["mean", "max"]
    assert found.repair is not None
    assert found.repair.kept
    assert changed(found, supernet)


def test_images_of_other_classes_show_the_divergence_alone(run: Path, narrow: str, tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    options = QuantisationOptions(data=str(tmp_path / "images"), num_images=32)
    effect = export(run, narrow, tmp_path / "out", quantisation=options).repair
    assert effect is not None
    assert (effect.model_accuracy, effect.accuracy_before, effect.accuracy) == (None, None, None)
    assert effect.kept == (effect.divergence < effect.divergence_before)


def test_the_largest_network_is_exported_as_it_is(run: Path, supernet: ElasticSupernet, tmp_path: Path) -> None:
    found = export(run, "max", tmp_path)
    assert found.repair is None
    assert changed(found, supernet) == set()


@pytest.mark.slow
def test_int8_quantises_the_repaired_network(
    run: Path, narrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = export(run, narrow, tmp_path)
    options = replace(SMALL, max_drop=1.0)
    found = export(run, narrow, tmp_path, format="onnx", precision="int8", batch=8, quantisation=options)
    assert found.repair == plain.repair
    assert found.repair is not None
    assert found.repair.accuracy is not None
    assert found.repair.accuracy_before is not None
    accuracy = found.parity.accuracy
    assert accuracy is not None
    expected = found.repair.accuracy if found.repair.kept else found.repair.accuracy_before
    # Of torch and of ONNX Runtime: a tie of two classes may fall to either.
    assert accuracy.float_top1 == pytest.approx(expected, abs=2.5 / accuracy.images)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"space": "autoformer-micro", "arch": "min"},
            InputError,
            "only networks that are cut from a pretrained model",
        ),
        ({"space": "elastic:timm:test_vit", "arch": "min"}, UsageError, "a repair needs the run with the model"),
        ({"quantisation": replace(SMALL, max_drop=0.5)}, UsageError, "are for int8 and fp8"),
        ({"repair": False}, UsageError, "are for int8 and fp8"),
    ],
)
def test_what_cannot_be_repaired_is_an_error_and_leaves_no_file(
    run: Path, narrow: str, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"space": str(run), "arch": narrow, "repair": True, "quantisation": SMALL, **arguments}
    with pytest.raises(error, match=message):
        export_network(out=tmp_path / "out", format="safetensors", **given)
    assert not (tmp_path / "out").exists()


def test_a_precision_that_the_format_lacks_is_refused_before_the_repair(
    run: Path, narrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repaired = scored(monkeypatch)
    with pytest.raises(InputError, match="networks in int8 are ONNX graphs"):
        export(run, narrow, tmp_path / "out", format="pt2", precision="int8")
    assert repaired == []
    assert not (tmp_path / "out").exists()


def test_a_run_without_its_model_or_of_another_one_is_refused(run: Path, narrow: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "original.safetensors").unlink()
    with pytest.raises(InputError, match="must hold the model that its networks were cut from"):
        export(copy, narrow, tmp_path / "out")
    other = supernet_of(timm.create_model("test_vit", num_classes=3, img_size=32), name="test_vit")
    save_supernet(other, copy / "original.safetensors")
    with pytest.raises(InputError, match="must hold the model that the network was cut from"):
        export(copy, narrow, tmp_path / "out")


def test_winners_are_repaired_and_their_cards_say_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winners.WinnerExporter, "_onnx_formats", lambda self, batches: ())
    options = SearchOptions(
        supernet=run,
        budget=4,
        strategy="random",
        runs=tmp_path,
        post_search=PostSearch(verify=False, export_top=1, repair=True),
    )
    found = search_networks(options, out=tmp_path / "search")
    (item,) = found.record.winners
    assert item.failure is None
    assert item.repair is not None
    assert read_record(found.run).winners == (item,)
    stored = load_network(found.run / item.folder / "network.safetensors")
    before = load_supernet(run / "supernet.safetensors").subnet(stored.arch).state_dict()
    same = all(torch.equal(value, before[name]) for name, value in stored.network.state_dict().items())
    assert same != item.repair.kept
    card = (found.run / item.folder / "card.md").read_text()
    assert item.repair.accuracy is not None
    assert "by least squares on" in card or "as least squares on" in card
    assert f"accuracy {item.repair.accuracy_before:.2%} before and {item.repair.accuracy:.2%} after" in card
    assert search_networks(resume=found.run).record.winners == found.record.winners
    again = export(found.run, item.arch_id, tmp_path / "again")
    assert again.is_repaired_winner == item.repair.kept
    assert again.repair == item.repair or not item.repair.kept
    after = stored.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in weights(again).items()) or not item.repair.kept


def test_a_search_that_cannot_repair_says_so_before_it_begins(tmp_path: Path, bench: dict[str, Any]) -> None:
    post_search = PostSearch(verify=False, repair=True)
    with pytest.raises(InputError, match="only networks that are cut from a pretrained model"):
        search_networks(SearchOptions(**bench, budget=4, post_search=post_search), out=tmp_path / "run")
    with pytest.raises(UsageError, match="only networks of a supernet can be repaired"):
        search_networks(SearchOptions(space="autoformer-micro", accuracy=False, post_search=post_search))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def bench(tmp_path: Path) -> dict[str, Any]:
    return {"supernet": write_supernet(tmp_path, "autoformer-micro"), "data": "digits", "runs": tmp_path}


def uniform(supernet: ElasticSupernet) -> ElasticArch:
    """A plain model: all heads, fewer hidden units, and a block less."""
    original = supernet.space.largest().blocks
    narrow = replace(original[0], hidden_dim=supernet.space.config.hidden_dims[1])
    return ElasticArch(blocks=(narrow, ElasticBlock(num_heads=0, hidden_dim=0), *(narrow,) * (len(original) - 2)))


def test_a_uniform_network_is_a_folder_that_timm_loads(run: Path, supernet: ElasticSupernet, tmp_path: Path) -> None:
    arch = uniform(supernet)
    found = export_network(str(run), arch, out=tmp_path, format="timm")
    folder, record = found.files
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert found.parity.passed
    assert found.parity.tolerance == 1e-5
    assert load_json(record)
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = supernet.subnet(arch)(x)
        assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    macs = supernet.space.costs(supernet.space.encode([arch])).macs[0]
    assert trace_module(model, input_shape=(1, 3, 32, 32)).macs == macs
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 32, 32)
    with_seven: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    assert with_seven.head.out_features == 7


def test_winners_that_are_models_of_timm_are_written_as_such(
    run: Path, supernet: ElasticSupernet, narrow: str, tmp_path: Path
) -> None:
    texts: list[str] = []
    context = SimpleNamespace(space=supernet.space)
    exporter: Any = SimpleNamespace(context=context, reporter=SimpleNamespace(message=texts.append))
    write: Any = winners.WinnerExporter._timm_files
    plain, other = uniform(supernet), supernet.space.parse(json.loads(narrow))
    file = run / "supernet.safetensors"
    folder, record = write(exporter, plain, tmp_path, file)
    assert (folder.suffix, record.name) == (".timm", f"{folder.name}.parity.json")
    assert write(exporter, other, tmp_path, file) == ()
    assert texts == []


def test_cards_say_what_a_repair_did() -> None:
    found = Repair(
        data="digits",
        images=256,
        heldout_images=719,
        kept=False,
        model_accuracy=0.8,
        accuracy_before=0.5,
        accuracy=0.4,
        agreement_before=0.55,
        agreement=0.45,
        divergence_before=0.25,
        divergence=0.5,
    )
    spec = replace(RECORD.spec, post_search=PostSearch(repair=True))
    winner = ExportedWinner(
        arch_id="a",
        network_id="b",
        folder="networks/a",
        why="the knee",
        files=(),
        test_accuracy=None,
        failure=None,
        repair=found,
    )
    (line,) = network_card._repair(spec, winner)
    assert line.startswith(
        "- not repaired, as least squares on 256 training images of digits made it worse; on 719 held"
    )
    (line,) = network_card._repair(spec, replace(winner, repair=None))
    assert line == "- not repaired: the network has all heads and hidden units"
    assert network_card._repair(RECORD.spec, replace(winner, repair=None)) == []


def test_a_model_of_timm_takes_batches_of_any_size_in_fp32(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a model of timm is written in fp32"):
        export_network(str(run), "max", out=tmp_path / "out", format="timm", precision="bf16")
    with pytest.raises(UsageError, match="takes batches of any size"):
        export_network(str(run), "max", out=tmp_path / "out", format="timm", batch=8)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_timm_reads_otherwise_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_timm._Loaded, "__call__", lambda self, images: torch.ones(len(images), 10).numpy())
    with pytest.raises(CheckFailedError, match="must be within 1e-05 of the largest logit"):
        export_network(str(run), "max", out=tmp_path, format="timm")
    assert not list(tmp_path.glob("*.timm"))
