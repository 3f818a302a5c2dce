import gzip
import json
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.predictors.import_timm import ImportOptions, import_timm
from hwnas.pipeline.predictors.measured_networks import measured_table
from hwnas.pipeline.predictors.predict import PredictOptions, predict_networks
from hwnas.pipeline.predictors.workloads import _timm_workload, timm_workload
from hwnas.pipeline.profiles import list_profiles, load_profile
from hwnas.profile.lookup import table_entries
from hwnas.progress import MessageRecorder
from hwnas.records.workloads import load_workloads, operations_to_mappings, workload_from_mappings
from tests.pipeline.measured_profiles import fast_fits

NAME = "benchmark-infer-amp-nhwc-pt291-cu128-4090-dynamo.csv"
HEAD = "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts"
MODELS = {
    "test_vit": (160, 188343.61, 1024),
    "test_vit2": (160, 150000.0, 1024),
    "test_vit3": (160, 140000.5, 512),
    "vit_tiny_patch16_224": (224, 20000.0, 1024),
    "vit_no_such_thing": (224, 100.0, 1),
    "resnet18": (224, 15000.0, 256),
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [f"{name},{size},{speed},1.0,{batch},1.0,1.0,1.0" for name, (size, speed, batch) in MODELS.items()]
    path = tmp_path / NAME
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return path


def test_a_table_is_kept_as_it_is_with_what_its_name_tells(table: Path, tmp_path: Path) -> None:
    (found,) = import_timm([table], ImportOptions(out=tmp_path / "profiles", match="test_vit|vit_"))
    assert found.path == tmp_path / "profiles/rtx4090/timm-torch-compile-fp16-bany"
    assert (found.num_rows, found.num_used, found.not_traced) == (6, 4, ("vit_no_such_thing",))
    assert (found.path / "table.csv").read_bytes() == table.read_bytes()
    manifest = json.loads((found.path / "table.json").read_text())
    assert manifest["environment"] == {
        "torch": "2.9.1",
        "cuda": "12.8",
        "memory_format": "channels_last",
        "autocast": "fp16",
    }
    assert manifest["source"] == f"timm results/{NAME}"
    assert manifest["command"][:4] == ["hwnas", "profiles", "import-timm", NAME]
    (entry,) = table_entries(((tmp_path / "profiles", "own"),), device="rtx4090")
    networks = measured_table(entry)
    assert networks.space_names == ("timm",) * 4
    assert networks.values["latency_ms"][0] == pytest.approx(1e3 * 1024 / 188343.61)
    traced = load_workloads(tmp_path / "profiles" / "timm-workloads.jsonl.gz").models
    assert traced["vit_no_such_thing", 224] is None
    tiny = traced["vit_tiny_patch16_224", 224]
    assert tiny is not None
    assert tiny.params == 5_717_416


def test_traced_models_are_not_traced_again(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ImportOptions(out=tmp_path / "profiles", match="test_vit")
    recorder = MessageRecorder()
    import_timm([table], options, reporter=recorder)
    before = (tmp_path / "profiles" / "timm-workloads.jsonl.gz").read_bytes()
    monkeypatch.setattr("hwnas.pipeline.predictors.import_timm.trace_timm", None)
    import_timm([table], options, reporter=recorder)
    assert recorder.messages == ["3 of 3 models traced"]
    assert (tmp_path / "profiles" / "timm-workloads.jsonl.gz").read_bytes() == before


def test_a_model_that_was_traced_before_is_not_traced_for_a_question(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _timm_workload.cache_clear()
    import_timm([table], ImportOptions(match="test_vit$"))
    monkeypatch.setattr("hwnas.pipeline.predictors.workloads.trace_timm", None)
    own = timm_workload("test_vit")
    assert own == timm_workload("test_vit", image_size=160)
    file = tmp_path / "profiles" / "timm-workloads.jsonl.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b'"timm": "', b'"timm": "0.')))
    _timm_workload.cache_clear()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert workload_from_mappings(operations_to_mappings(timm_workload("test_vit"))) == own
    _timm_workload.cache_clear()


def test_workloads_of_another_form_are_traced_again(table: Path, tmp_path: Path) -> None:
    options = ImportOptions(out=tmp_path / "profiles", match="test_vit$")
    import_timm([table], options)
    file = tmp_path / "profiles" / "timm-workloads.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).replace(b"hwnas.workloads/2", b"hwnas.workloads/1")
    file.write_bytes(gzip.compress(lines))
    (entry,) = table_entries(((tmp_path / "profiles", "own"),))
    with pytest.raises(InputError, match="has an unsupported schema") as refused:
        measured_table(entry)
    assert refused.value.hint == "remove it: hwnas profiles import-timm traces the models again"
    recorder = MessageRecorder()
    import_timm([table], options, reporter=recorder)
    assert recorder.messages == [
        f"{file} has an unsupported schema: all models are traced again",
        "1 of 1 models traced",
    ]
    assert len(measured_table(entry)) == 1


def test_a_table_of_autocast_is_read_under_autocast(table: Path, tmp_path: Path) -> None:
    import_timm([table], ImportOptions(out=tmp_path, match="test_vit$"))
    plain = table.rename(table.with_name("benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv"))
    import_timm([plain], ImportOptions(out=tmp_path, match="test_vit$"))
    found = {
        entry.manifest.deployment.precision: measured_table(entry).conditions
        for entry in table_entries(((tmp_path, "own"),))
    }
    assert {name: (of.torch_layouts, of.autocast) for name, of in found.items()} == {
        "fp16": (True, True),
        "fp32": (True, False),
    }


def test_a_changed_table_is_found_out(table: Path, tmp_path: Path) -> None:
    (found,) = import_timm([table], ImportOptions(out=tmp_path, match="test_vit"))
    (found.path / "table.csv").write_text(table.read_text().replace("188343.61", "199999.99"))
    (entry,) = table_entries(((tmp_path, "own"),))
    with pytest.raises(InputError, match=r"table\.csv was changed after it was imported"):
        measured_table(entry)


def test_a_table_takes_no_other_ones_place(table: Path, tmp_path: Path) -> None:
    options = ImportOptions(out=tmp_path / "profiles", match="test_vit$")
    other = table.with_name(table.name.replace("nhwc", "nchw"))
    other.write_text(table.read_text())
    with pytest.raises(InputError, match="holds the table of another file"):
        import_timm([table, other], options)
    assert not (tmp_path / "profiles").exists()
    import_timm([table], options)
    with pytest.raises(InputError, match="holds the table of another file") as caught:
        import_timm([other], options)
    assert caught.value.known == (f"timm results/{NAME}",)
    import_timm([table], options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("188343.61", "nan"), r"line 2\.throughput must be a finite number"),
        (("188343.61", "-1"), r"line 2\.throughput must be greater than 0"),
        (("188343.61", "fast"), "line 2 must have numbers"),
        ((",infer_batch_size", ",train_batch_size"), "must be a table of timm's inference benchmark"),
    ],
)
def test_bad_rows_are_named(table: Path, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    table.write_text(table.read_text().replace(*change))
    with pytest.raises(InputError, match=message):
        import_timm([table], ImportOptions(out=tmp_path / "profiles"))
    assert not (tmp_path / "profiles").exists()


def test_a_name_that_tells_nothing_needs_options(table: Path, tmp_path: Path) -> None:
    other = table.rename(tmp_path / "results.csv")
    with pytest.raises(InputError, match="must state what was measured"):
        import_timm([other], ImportOptions(out=tmp_path / "profiles"))
    options = ImportOptions(
        out=tmp_path, deployment=Deployment(device="h100", precision="bf16", runtime="torch"), match="test_vit"
    )
    (found,) = import_timm([other], options)
    assert found.path == tmp_path / "h100/timm-torch-bf16-bany"
    cpu = other.rename(tmp_path / "benchmark-infer-fp32-nchw-pt240-cpu-k6_2-dynamo.csv")
    with pytest.raises(InputError, match="device 'cpu-k6_2' is not known"):
        import_timm([cpu], ImportOptions(out=tmp_path / "profiles"))


PUBLISHED = {
    "benchmark-infer-amp-nchw-pt210-cu121-rtx3090.csv": ("rtx3090", "torch", "fp16", "2.1.0"),
    "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv": ("rtx3090", "torch", "fp16", "2.4.0"),
    "benchmark-infer-amp-nchw-pt240-cu124-rtx4090-dynamo.csv": ("rtx4090", "torch-compile", "fp16", "2.4.0"),
    "benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo.csv": ("rtx4090", "torch-compile", "fp16", "2.9.1"),
    "benchmark-infer-amp_bf16-nchw-pt2100-cu130-5090.csv": ("rtx5090", "torch", "bf16", "2.10.0"),
    "benchmark-infer-amp-nchw-pt291-cu130-pro6000maxq.csv": ("rtx-pro-6000-maxq", "torch", "fp16", "2.9.1"),
    "benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv": (
        "intel-core-i9-10940x-28c-avx512vnni",
        "torch-compile",
        "fp32",
        "2.4.0",
    ),
}


def test_published_tables_are_imported_under_their_names(table: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in PUBLISHED]
    for file in files:
        file.write_text(table.read_text().replace(",1024,", ",1024.0,") + "vit_failed,224,,,,1.0,1.0,1.0\n")
    options = ImportOptions(out=tmp_path / "profiles", match="test_vit$")
    found = import_timm(files, options)
    stated = [
        (of.device, of.runtime, of.precision, item.manifest.environment["torch"])
        for item in found
        for of in (item.manifest.deployment,)
    ]
    assert stated == list(PUBLISHED.values())
    assert len({item.path for item in found}) == len(files)
    assert found[1].path.name == "timm-torch-fp16-bany-pt240"
    assert found[4].manifest.environment["autocast"] == "bf16"
    assert [item.path for item in import_timm(files, options)] == [item.path for item in found]


def test_tables_are_listed_with_the_profiles(table: Path, tmp_path: Path) -> None:
    import_timm([table], ImportOptions(out=tmp_path / "profiles", match="test_vit"))
    (found,) = list_profiles(tmp_path / "profiles")
    assert (found.name, found.num_networks, found.deployment.batch) == (
        "rtx4090/timm-torch-compile-fp16-bany",
        6,
        "any",
    )
    with pytest.raises(InputError, match="holds figures that others published"):
        load_profile("timm-torch-compile-fp16-bany", profiles=tmp_path / "profiles")


def test_models_of_timm_are_predicted_from_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_fits(monkeypatch)
    sizes = [size for size in range(96, 320, 16) if size != 192]
    rows = [f"vit_tiny_patch16_224,{size},{1e9 / size**2.1},1.0,256,1,1,1" for size in sizes]
    table = tmp_path / "benchmark-infer-amp-nchw-pt291-cu128-4090.csv"
    table.write_text("\n".join([HEAD, *rows]) + "\n")
    import_timm([table], ImportOptions(out=tmp_path / "profiles"))
    out = tmp_path / "predictors"
    report = fit_predictors(
        FitOptions(deployment=Deployment(device="rtx4090"), profiles=tmp_path / "profiles", out=out)
    )
    assert [str(item.path.relative_to(out)) for item in report.fitted] == [
        "rtx4090/any-torch-fp16-bany/latency_ms",
        "rtx4090/any-torch-fp16-bany/throughput",
    ]
    asked = PredictOptions(
        deployment=Deployment(device="4090"), metrics=("throughput",), predictors=out, confidence=0.8
    )
    (figure,) = predict_networks(["timm:vit_tiny_patch16_224@192"], asked).predictions
    assert figure.metric == "throughput@rtx4090/torch/fp16/b256"
    assert figure.mean == pytest.approx(1e9 / 192**2.1, rel=0.15)
    assert figure.network_id == "timm:vit_tiny_patch16_224@192"
