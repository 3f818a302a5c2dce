import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import hwnas
from hwnas.errors import CheckFailedError, InputError, MissingError, UnknownNameError, UsageError
from hwnas.export.calibration import CalibrationRecipe
from hwnas.export.parity import parity_path, require_parity
from hwnas.export.tensorrt import TimingCache, read_engine
from hwnas.pipeline.export_network import EngineOptions, export_network
from hwnas.pipeline.quantisation import QuantisationOptions
from hwnas.pipeline.train import train_model
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from hwnas.supernet.loading import weighted_network
from hwnas.supernet.store import save_supernet
from hwnas.train.data.preprocess import Preprocess, write_preprocess
from hwnas.train.data.sources import DataConfig, open_data
from hwnas.train.options import TrainOptions
from hwnas.train.trainer import TrainerConfig
from tests.export.tensorrt.api_list import VERSIONS
from tests.export.tensorrt.conftest import GPU, put_in_place

SPACE = SPACES.get("autoformer-micro")
ARCH = SPACE.smallest()


def test_weights_of_a_supernet_are_those_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    supernet = make_supernet(SPACE)
    save_supernet(supernet, tmp_path / "supernet.safetensors")
    found = export_network(
        "autoformer-micro", "min", out=tmp_path, format="safetensors", weights=tmp_path / "supernet.safetensors"
    )
    network_id = SPACE.network_id(ARCH)
    assert found.files[0] == tmp_path / f"autoformer-micro-{network_id}-fp32-b1.safetensors"
    assert all(file.exists() for file in found.files)
    assert (found.fresh_weights, found.weights) == (False, str(tmp_path / "supernet.safetensors"))
    tensors, expected = load_file(found.files[0]), supernet.subnet(ARCH).state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert found.parity.passed


def test_fresh_weights_are_said_to_be_so(tmp_path: Path) -> None:
    found = export_network("autoformer-micro", "min", out=tmp_path, format="safetensors")
    assert (found.fresh_weights, found.weights) == (True, "fresh, random, of seed 0")
    values = json.loads(json.dumps(found.to_mapping(), default=str))
    assert values["arch"] == ARCH.to_mapping()


def test_a_graph_says_how_images_are_prepared_and_what_its_classes_are(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = tmp_path / "supernet.safetensors"
    save_supernet(make_supernet(SPACE), weights)
    names = tuple("abcdefghij")
    write_preprocess(tmp_path, Preprocess(input_size=(3, 32, 32), num_classes=10, crop_pct=1.0, label_names=names))
    found = export_network("autoformer-micro", "min", out=tmp_path, weights=weights)
    entries = {entry.key: entry.value for entry in onnx.load(found.files[0]).metadata_props}
    record = json.loads(entries["preprocess"])
    assert record == json.loads(json.dumps(found.preprocess))
    assert (record["crop_pct"], record["label_names"], record["interpolation"]) == (1.0, list(names), "bicubic")
    assert record["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("format", ["onnx", "pt2", "safetensors", "timm"])
def test_files_name_no_folder_of_this_machine(tmp_path: Path, format: str) -> None:
    weights = tmp_path / "supernet" / "supernet.safetensors"
    weights.parent.mkdir()
    save_supernet(make_supernet(SPACE), weights)
    found = export_network(
        "autoformer-micro",
        "min",
        out=tmp_path / "out",
        format=format,
        weights=weights,
        batch=None if format == "onnx" else 1,  # for any batch torch exports the graph, otherwise hwnas composes it
    )
    folders = (str(tmp_path), str(Path(torch.__file__).parent), str(Path(hwnas.__file__).parent))
    for path in found.files[0].rglob("*") if found.files[0].is_dir() else found.files:
        content = path.read_bytes() if path.is_file() else b""
        assert [folder for folder in folders if folder.encode() in content] == [], path
    assert found.weights == str(weights)


@pytest.mark.slow
def test_a_second_file_takes_any_batch(tmp_path: Path) -> None:
    found = export_network("vitas-micro", "min", out=tmp_path, batch=4, any_batch=True)
    fixed, _, open_, _ = found.files
    assert [file.name.rpartition("-")[2] for file in (fixed, open_)] == ["b4.onnx", "bany.onnx"]
    sizes = [
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_inputs()[0].shape[0]
        for file in (fixed, open_)
    ]
    assert sizes[0] == 4
    assert not isinstance(sizes[1], int)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "safetensors", "timm"])
def test_other_weights_of_a_network_replace_its_files_only_on_request(tmp_path: Path, format: str) -> None:
    def export(seed: int, **more: Any) -> Path:
        return export_network("autoformer-micro", "min", out=tmp_path, format=format, seed=seed, **more).files[0]

    path = export(1)
    record = json.loads(parity_path(path).read_text())
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="a file of this network with other weights") as caught:
        export(2)
    assert (caught.value.got, caught.value.hint) == (path, "another --out, or --replace")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert export(1) == path  # the same weights
    assert json.loads(parity_path(path).read_text())["weights"] == record["weights"]
    assert export(2, replace_files=True) == path
    assert json.loads(parity_path(path).read_text())["weights"] != record["weights"]
    parity_path(path).unlink()  # of a file without a record nothing is known
    assert export(1) == path


def test_a_second_file_of_other_weights_is_kept_too(tmp_path: Path) -> None:
    first = export_network("autoformer-micro", "min", out=tmp_path, batch=None, seed=1).files[0]
    assert first.name.endswith("-bany.onnx")
    with pytest.raises(InputError, match="a file of this network with other weights"):
        export_network("autoformer-micro", "min", out=tmp_path, any_batch=True, seed=2)
    assert list(tmp_path.glob("*-b1.onnx")) == []


def test_an_onnx_file_runs_without_hwnas_for_any_batch(tmp_path: Path) -> None:
    found = export_network("autoformer-micro", "min", out=tmp_path, batch=None)
    assert found.files[0].name.endswith("-fp32-bany.onnx")
    session = onnxruntime.InferenceSession(found.files[0], providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        (logits,) = session.run(None, {"images": np.zeros((batch, 3, 32, 32), dtype=np.float32)})
        assert logits.shape == (batch, 10)
    assert found.parity.max_relative < 1e-4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"space": "autoformer-mikro"}, UnknownNameError, "space 'autoformer-mikro' is not known"),
        ({"format": "onyx"}, UnknownNameError, "format 'onyx' is not known"),
        ({"precision": "int4"}, UnknownNameError, "precision 'int4' is not known"),
        ({"format": "tensorrt", "batch": None}, UsageError, "an engine is built for one batch"),
        ({"weights": Path("x"), "image_size": 64}, UsageError, "are those of the file of weights"),
        ({"arch": None}, InputError, "a network of the space must be named"),
        ({"space": "."}, InputError, "a folder must be a run"),
    ],
)
def test_what_cannot_work_is_an_error_and_leaves_no_file(
    tmp_path: Path, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    given = {"space": "autoformer-micro", "arch": "min", "out": tmp_path / "out", **arguments}
    with pytest.raises(error, match=message):
        export_network(**given)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.skipif("tensorrt" in sys.modules, reason="the library is here")
def test_without_tensorrt_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingError):
        export_network("autoformer-micro", "min", out=tmp_path / "out", format="tensorrt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimization_level": 6}, "optimization_level must be 0 to 5"),
        ({"workspace_mb": 0}, "workspace_mb must be at least 1"),
        ({"precision": "int4"}, "precision 'int4' is not known"),
    ],
)
def test_invalid_engine_settings_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    precision = options.pop("precision", "fp32")
    out, engine = tmp_path / "out", EngineOptions(**options)
    with pytest.raises(InputError, match=message):
        export_network("autoformer-micro", "min", out=out, format="tensorrt", precision=precision, engine=engine)
    assert not out.exists()


def test_engine_options_are_for_engines_alone(tmp_path: Path) -> None:
    given = {"out": tmp_path, "format": "safetensors"}
    with pytest.raises(UsageError, match="for --format tensorrt") as caught:
        export_network("autoformer-micro", "min", engine=EngineOptions(workspace_mb=64), **given)  # type: ignore[arg-type]
    assert caught.value.got == "--workspace-mb"
    with pytest.raises(UsageError, match="tf32 is a way to compute products"):
        export_network("autoformer-micro", "min", precision="tf32", **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs its file"):
        EngineOptions(timing_cache_use="pinned")
    assert list(tmp_path.iterdir()) == []


def test_engine_options_name_a_timing_cache(tmp_path: Path) -> None:
    assert EngineOptions().settings(library="tensorrt", precision="fp16", batch=1).timing_cache is None
    options = EngineOptions(timing_cache=Path("own.cache"))
    own = options.settings(library="tensorrt", precision="fp16", batch=1).timing_cache
    assert own == TimingCache(path=Path("own.cache"))
    with pytest.raises(UsageError, match="times no kernels"):
        export_network("autoformer-micro", "min", out=tmp_path, format="tensorrt-rtx", engine=options)


def test_an_exported_engine_uses_the_timing_cache_of_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double = put_in_place(max(VERSIONS, key=lambda version: int(version.partition(".")[0])), monkeypatch)
    monkeypatch.setattr("hwnas.pipeline.export_network.gpu_facts", lambda: GPU)
    monkeypatch.setattr("hwnas.export.tensorrt.build.gpu_facts", lambda: GPU)
    monkeypatch.setattr("hwnas.export.tensorrt.export.TorchCuda", double.cuda)
    for environment, expected in ((None, "test-gpu"), (str(tmp_path / "shared"), "shared"), ("none", None)):
        if environment:
            monkeypatch.setenv("HWNAS_TIMING_CACHE", environment)
        exported = export_network("autoformer-micro", "min", out=tmp_path / "out", format="tensorrt")
        cache = read_engine(exported.files[0]).card.settings.timing_cache
        assert (cache is None) if expected is None else (cache is not None and cache.path.name.startswith(expected))


def test_int8_is_calibrated_on_training_images_and_checked_on_others(tmp_path: Path) -> None:
    options = QuantisationOptions(data="digits", num_images=40, method="mse", max_drop=1.0)
    found = export_network("autoformer-micro", "min", out=tmp_path, precision="int8", batch=8, quantisation=options)
    assert found.files[0].name.endswith("-int8-b8.onnx")
    accuracy = found.parity.accuracy
    assert accuracy is not None
    assert accuracy.calibration == CalibrationRecipe(data="digits", num_images=40, seed=0, method="mse")
    heldout = open_data(DataConfig(name="digits"), image_shape=(3, 32, 32)).heldout
    assert (accuracy.data, accuracy.images) == ("digits", len(heldout))
    assert len(accuracy.noisiest_layers) > 0
    graph = onnx.load(found.files[0])
    entries = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(entries["calibration"]) == {"data": "digits", "num_images": 40, "seed": 0, "method": "mse"}


def test_int8_of_a_network_of_a_run_uses_the_images_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = TrainOptions(
        space="autoformer-micro",
        data="digits",
        heldout=0.5,
        max_images=64,
        batch_size=64,
        epochs=1,
        overrides={"schedule.warmup_epochs": "0"},
    )
    train_model(options, out=run, trainer_config=TrainerConfig(threads=1))
    small = QuantisationOptions(num_images=16, max_drop=1.0)
    found = export_network(str(run), "min", out=tmp_path, precision="int8", batch=8, quantisation=small)
    accuracy = found.parity.accuracy
    assert accuracy is not None
    assert accuracy.images == len((run / "heldout.txt").read_text().splitlines())
    weights = run / "supernet.safetensors"
    named = replace(small, run=run)
    again = export_network(
        "autoformer-micro",
        "min",
        out=tmp_path / "again",
        precision="int8",
        batch=8,
        weights=weights,
        quantisation=named,
    )
    assert again.parity.accuracy == accuracy


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"precision": "int8"}, UsageError, "int8 needs labelled images"),
        ({"precision": "int8-dynamic"}, UsageError, "int8-dynamic needs labelled images"),
        ({"quantisation": QuantisationOptions(data="digits")}, UsageError, "are for int8"),
        (
            {"precision": "int8", "quantisation": QuantisationOptions(data="digits"), "num_classes": 7},
            InputError,
            "digits has 10 classes, and so must the network",
        ),
        (
            {"precision": "int8", "quantisation": QuantisationOptions(data="no/folder")},
            InputError,
            "there is no folder or file",
        ),
        (
            {"precision": "int8", "quantisation": QuantisationOptions(data="digits"), "format": "pt2"},
            InputError,
            "networks in int8 are ONNX graphs",
        ),
    ],
)
def test_int8_without_its_images_writes_nothing(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_network("autoformer-micro", "min", out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_detector_is_not_quantised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int8 is for networks that classify"):
        export_network(
            "retinanet-vitas-twins-micro",
            "min",
            out=tmp_path,
            precision="int8",
            quantisation=QuantisationOptions(data="digits"),
        )
    assert not list(tmp_path.iterdir())


def test_a_backbone_is_exported_without_its_head(tmp_path: Path) -> None:
    found = export_network("fcos-vitas-twins-micro", "min", out=tmp_path, part="backbone")
    assert found.files[0].name.endswith("-backbone-fp32-b1.onnx")
    again = export_network("fcos-vitas-twins-micro", "min", out=tmp_path, part="backbone")
    assert again.parity.weights == found.parity.weights
    with pytest.raises(InputError, match="a file of this network with other weights"):
        export_network("fcos-vitas-twins-micro", "min", out=tmp_path, part="backbone", seed=1)
    assert [(row["num_chs"], row["reduction"]) for row in found.feature_info] == [(8, 4), (24, 8), (48, 16)]
    graph = onnx.load(found.files[0])
    entries = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(entries["feature_info"]) == list(found.feature_info)
    assert not any(tensor.name.startswith("head") for tensor in graph.graph.initializer)
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    session = onnxruntime.InferenceSession(found.files[0], providers=["CPUExecutionProvider"])
    outputs = session.run([f"features_{number}" for number in range(3)], {"images": images})
    torch.manual_seed(0)
    network = weighted_network("fcos-vitas-twins-micro", "min", command="").module
    with torch.no_grad():
        maps = network.forward_intermediates(torch.from_numpy(images), intermediates_only=True)
    for output, expected in zip(outputs, maps, strict=True):
        np.testing.assert_allclose(output, expected.numpy(), atol=1e-5)


def test_a_backbone_of_one_map_is_compared_as_a_map(tmp_path: Path) -> None:
    found = export_network("vitas-micro", "min", out=tmp_path, part="backbone", precision="fp16")
    assert len(found.feature_info) == 1
    assert found.parity.passed
    assert found.parity.exact_relative is not None
    assert found.parity.top1_agreement is None
    assert json.loads(parity_path(found.files[0]).read_text())["top1_agreement"] is None
    failed = replace(found.parity, max_relative=1.0)
    with pytest.raises(CheckFailedError, match="of the largest value of a feature map of torch's") as caught:
        require_parity(failed)
    assert "classes" not in str(caught.value)


def test_a_backbone_has_several_outputs_and_no_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which has several outputs"):
        export_network("vitas-micro", "min", out=tmp_path, part="backbone", format="safetensors")
    with pytest.raises(UsageError, match="int8 is for whole networks"):
        export_network("vitas-micro", "min", out=tmp_path, part="backbone", precision="int8")
    with pytest.raises(UnknownNameError, match="part"):
        export_network("vitas-micro", "min", out=tmp_path, part="neck")
    assert not any(tmp_path.iterdir())
