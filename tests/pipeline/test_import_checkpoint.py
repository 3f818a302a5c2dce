"""Official checkpoints, wrapped as the official trainers wrap them, turned into our files."""

import argparse
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from hwnas.cli.app import run
from hwnas.errors import InputError, UnknownNameError
from hwnas.pipeline.import_checkpoint import import_checkpoint
from hwnas.space import SPACES
from hwnas.supernet.official import checkpoint as reading
from hwnas.supernet.official.keys import fill
from hwnas.supernet.official.rules import close_gaps
from hwnas.supernet.store import load_network, load_supernet
from tests.marks import slow_but
from tests.supernet.golden import assert_golden, golden, images, weights

PUBLISHED = {
    "autoformer-t": ("autoformer", "autoformer-tiny", "AutoFormer-T"),
    "resnas-t": ("resnas", "resnas-tiny", "ViT-ResNAS-T"),
    "vitas-a": ("vitas", "vitas-deit-small", "ViTAS-A"),
    "glit-t": ("glit", "glit-tiny", "GLiT-T"),
}


def empty(name: str) -> dict[str, Tensor]:
    """Weights of that golden network's shapes, all 0: what is refused is so before a number counts."""
    return {key: torch.zeros(shape) for key, shape in golden(name)["shapes"].items()}


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint as the official trainers save it after distributed training."""
    weight = next(iter(state.values()))
    optimizer = torch.optim.AdamW([weight.clone().requires_grad_()])
    return {
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": optimizer.state_dict(),
        "epoch": 299,
        "args": argparse.Namespace(lr=1e-3, data_path="/data", gp=True),
    }


@pytest.mark.parametrize("name", slow_but(PUBLISHED, "autoformer-t", "glit-t", "vitas-a"))
def test_a_published_network_is_imported_and_gives_the_official_outputs(name: str, tmp_path: Path) -> None:
    family, space, arch = PUBLISHED[name]
    record, out = golden(name), tmp_path / "network.safetensors"
    torch.save(wrapped(weights(record["shapes"])), tmp_path / "official.pth")
    imported = import_checkpoint(family, tmp_path / "official.pth", space=space, out=out, arch=arch)
    stored = load_network(out)
    assert imported.params == SPACES.get(space).costs(SPACES.get(space).encode([stored.arch])).params[0]
    with torch.inference_mode():
        assert_golden(stored.network.eval()(images(record)), record)


def test_a_supernet_is_imported_and_gives_the_official_outputs(tmp_path: Path) -> None:
    record, out = golden("autoformer-t"), tmp_path / "supernet.safetensors"
    torch.save(wrapped(weights(record["shapes"])), tmp_path / "official.pth")
    imported = import_checkpoint("autoformer", tmp_path / "official.pth", space="autoformer-tiny", out=out)
    assert imported.params == 11_669_224
    supernet = load_supernet(out).eval()
    assert supernet.space is SPACES.get("autoformer-tiny") or supernet.space == SPACES.get("autoformer-tiny")
    with torch.inference_mode():
        assert_golden(supernet(images(record), supernet.space.published["AutoFormer-T"]), record)


@pytest.mark.slow
def test_timms_twins_is_imported(tmp_path: Path) -> None:
    model = timm.create_model("twins_svt_small", pretrained=False).eval()
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    out = tmp_path / "network.safetensors"
    import_checkpoint("vitas-twins", tmp_path / "timm.pth", space="vitas-twins-small", out=out, arch="twins-svt-s")
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(load_network(out).network.eval()(x), model(x), rtol=0, atol=1e-5)


def test_positions_are_interpolated_to_another_image_size(tmp_path: Path) -> None:
    record, out = golden("vitas-a"), tmp_path / "network.safetensors"
    torch.save(weights(record["shapes"]), tmp_path / "official.pth")
    given = {"space": "vitas-deit-small", "out": out, "arch": "ViTAS-A", "image_size": 256}
    assert import_checkpoint("vitas", tmp_path / "official.pth", **given).image_size == 256  # type: ignore[arg-type]
    stored = load_network(out)
    assert stored.space.config.image_size == 256
    assert stored.network.eval()(torch.zeros(1, 3, 256, 256)).isfinite().all()


class Code:
    """An object whose unpickling would run a program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def refused(path: Path, content: object, **given: Any) -> InputError:
    """Why a checkpoint of that content is not imported as AutoFormer's; nothing may be left behind."""
    torch.save(content, path / "official.pth")
    arguments = {"space": "autoformer-tiny", "out": path / "ours.safetensors", **given}
    with pytest.raises(InputError) as caught:
        import_checkpoint(arguments.pop("family", "autoformer"), path / "official.pth", **arguments)
    assert sorted(file.name for file in path.iterdir()) == ["official.pth"]
    return caught.value


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    error = refused(tmp_path, {"model": {}, "args": Code(tmp_path / "ran")})
    assert "cannot be read without running code" in error.message or "without running code" in error.message
    assert not (tmp_path / "ran").exists()


def test_another_familys_checkpoint_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, wrapped(empty("glit-t")))
    assert error.message == "the checkpoint holds keys that this family does not have"
    assert "blocks.0.0.norm1.weight" in str(error.got)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    state = empty("autoformer-t")
    del state["blocks.3.fc1.weight"]
    error = refused(tmp_path, wrapped(state))
    assert error.message == "the checkpoint lacks weights of this network"
    assert "blocks.3.mlp.fc1.weight" in str(error.got)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    state = empty("autoformer-t")
    deeper = {key.replace("blocks.13.", "blocks.14."): value for key, value in state.items()}
    assert "blocks.14" in str(refused(tmp_path, wrapped({**state, **deeper})).got)
    error = refused(tmp_path, wrapped(state), num_classes=10)
    assert "head.classifier" in error.message
    assert "(10," in error.message


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "must hold weights" in refused(tmp_path, {"epoch": 3, "args": argparse.Namespace()}).message
    assert "must hold weights" in refused(tmp_path, [1, 2]).message
    (tmp_path / "official.pth").write_bytes(b"hello")
    with pytest.raises(InputError, match="not a checkpoint"):
        reading.read_checkpoint(tmp_path / "official.pth")
    with pytest.raises(InputError, match="there is no file"):
        reading.read_checkpoint(tmp_path / "absent.pth")


def test_a_family_without_released_supernets_says_so(tmp_path: Path) -> None:
    error = refused(tmp_path, empty("glit-t"), family="glit", space="glit-tiny")
    assert error.hint == "--arch GLiT-T"


def test_a_space_of_another_family_is_refused(tmp_path: Path) -> None:
    assert "autoformer-tiny" in refused(tmp_path, {}, space="glit-tiny").known


def test_the_command_line_ends_with_code_1_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "args": Code(tmp_path / "ran")}, "official.pth")
    arguments = ["autoformer", "official.pth", "--space", "autoformer-tiny", "--out", "ours.safetensors"]
    assert run(["import", *arguments]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: official.pth is not a checkpoint")
    assert "Traceback" not in printed
    assert not (tmp_path / "ours.safetensors").exists()


# ---------------------------------------------------------------------------------------------- what is written where


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two entries of weights; those of `model_ema` are half as large."""
    state = weights(golden("glit-t")["shapes"])
    path = tmp_path_factory.mktemp("official") / "official.pth"
    torch.save({**wrapped(state), "model_ema": {name: tensor / 2 for name, tensor in state.items()}}, path)
    return path


GLIT: dict[str, Any] = {"space": "glit-tiny", "arch": "GLiT-T"}


def test_the_checkpoint_is_never_replaced(official: Path, tmp_path: Path) -> None:
    (tmp_path / "soft.pth").symlink_to(official)
    os.link(official, tmp_path / "hard.pth")
    before = official.read_bytes()
    for out in (official, official.parent / ".." / official.parent.name / official.name, *tmp_path.iterdir()):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another file than the checkpoint"):
                import_checkpoint("glit", official, out=out, overwrite=overwrite, **GLIT)
    assert official.read_bytes() == before


def test_a_file_that_exists_is_replaced_only_when_told_so(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ours.safetensors"
    out.write_text("mine")
    arguments = ["import", "glit", str(official), "--space", "glit-tiny", "--arch", "GLiT-T", "--out", str(out)]
    assert run(arguments) == 1
    assert "must be a new file" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert run([*arguments, "--force"]) == 0
    assert load_network(out).arch == SPACES.get("glit-tiny").published["GLiT-T"]
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match="must be a new file"):
        import_checkpoint("glit", official, out=tmp_path / "dangling", **GLIT)


@pytest.mark.parametrize("name", ["", "absent/ours.safetensors", "x" * 300, "file/ours.safetensors"])
def test_where_to_write_is_looked_at_before_the_checkpoint_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "official.pth").write_bytes(b"hello")
    (tmp_path / "file").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"in a folder that exists|cannot be written|path of at most"):
        import_checkpoint("glit", tmp_path / "official.pth", out=tmp_path / name, **GLIT)


def test_a_folder_that_takes_no_file_is_found_before_the_checkpoint_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    (tmp_path / "official.pth").write_bytes(b"hello")
    with pytest.raises(InputError, match="cannot be written") as caught:
        import_checkpoint("glit", tmp_path / "official.pth", out=tmp_path / "ours.safetensors", **GLIT)
    assert caught.value.got == "Permission denied"


def test_an_unknown_space_is_answered_with_the_option(tmp_path: Path) -> None:
    assert refused(tmp_path, {}, family="glit", space="glit-micr").hint == "--space glit-micro"
    error = refused(tmp_path, {}, arch="AutoFormer-S")
    assert error.hint == "--space autoformer-small --arch AutoFormer-S"


# ------------------------------------------------------------------------------------------ which weights of the file


def test_the_entry_is_said_and_can_be_chosen(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = import_checkpoint("glit", official, out=tmp_path / "a.safetensors", **GLIT)
    assert (first.entry, first.other_entries) == ("model", ("model_ema",))
    arguments = ["import", "glit", str(official), "--space", "glit-tiny", "--arch", "GLiT-T", "--entry", "model_ema"]
    assert run([*arguments, "--out", str(tmp_path / "b.safetensors"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["entry"], printed["other_entries"]) == ("model_ema", ["model"])
    model, ema = (load_network(tmp_path / f"{name}.safetensors").network.state_dict() for name in "ab")
    for name, tensor in model.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(ema[name], tensor / 2, rtol=0, atol=0)
    assert run([*arguments, "--out", str(tmp_path / "c.safetensors")]) == 0
    source = f"from {official}, entry model_ema (weights are also in model: --entry)"
    assert capsys.readouterr().out.splitlines()[1] == source


def test_an_entry_that_holds_no_weights_is_answered_with_those_that_do(official: Path, tmp_path: Path) -> None:
    for name in ("ema", "optimizer"):
        with pytest.raises(UnknownNameError) as caught:
            reading.read_checkpoint(official, entry=name)
        assert caught.value.known == ("model", "model_ema")
    torch.save({"a": torch.zeros(1)}, tmp_path / "bare.pth")
    assert reading.read_checkpoint(tmp_path / "bare.pth").entry is None
    with pytest.raises(InputError, match="has no entries"):
        reading.read_checkpoint(tmp_path / "bare.pth", entry="model")


def test_weights_under_another_name_are_offered_and_not_taken(tmp_path: Path) -> None:
    error = refused(tmp_path, {"ema": {"a": torch.zeros(1)}, "epoch": 3})
    assert (error.got, error.hint) == ("ema, epoch", "--entry ema")


# ----------------------------------------------------------------------------------------------------- bad checkpoints


@pytest.mark.parametrize("shape", [(), (192,), (197, 192), (1, 1, 197, 192), (2, 197, 192)])
@pytest.mark.parametrize("image_size", [None, 256])
@pytest.mark.parametrize("family", slow_but(["autoformer", "glit"], "autoformer"))
def test_a_position_table_of_another_shape_is_refused(
    family: str, shape: tuple[int, ...], image_size: int | None, tmp_path: Path
) -> None:
    name, space, arch = {"autoformer": PUBLISHED["autoformer-t"], "glit": PUBLISHED["glit-t"]}[family]
    state = empty(f"{family}-t")
    state["pos_embed"] = torch.zeros(shape)
    error = refused(tmp_path, state, family=name, space=space, arch=arch, image_size=image_size)
    assert error.message == "a position table must have the shape (1, tokens, channels)"
    assert error.got == shape


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (torch.ones(3, 3).to_sparse(), "a sparse or nested tensor"),
        (torch.ones(3, dtype=torch.int64), "numbers of the type int64"),
        (torch.ones(3, dtype=torch.bool), "numbers of the type bool"),
        (torch.ones(3, dtype=torch.complex64), "numbers of the type complex64"),
        (torch.tensor([1.0, float("nan")]), "NaN or infinite values"),
        (torch.tensor([1.0, float("-inf")], dtype=torch.float16), "NaN or infinite values"),
        (torch.tensor([1e300], dtype=torch.float64), "NaN or infinite values"),  # in float32, as we keep it
        (torch.zeros(0, 3), "the shape (0, 3) with fewer numbers stored, or none"),
        (torch.zeros(1).expand(1, 10**12), "the shape (1, 1000000000000) with fewer numbers stored, or none"),
        (torch.empty(3, device="meta"), "the shape (3,) with fewer numbers stored, or none"),
    ],
)
def test_a_tensor_that_is_no_weight_is_refused_by_name(bad: torch.Tensor, got: str, tmp_path: Path) -> None:
    error = refused(tmp_path, {"model": {"module.a": torch.ones(1), "module.b": bad, "module.c": bad}})
    assert error.message == f"{tmp_path / 'official.pth'}: module.b must be a dense tensor of finite numbers"
    assert error.got == got


def test_counters_may_be_whole_numbers_and_weights_of_any_precision(tmp_path: Path) -> None:
    state = {"n.num_batches_tracked": torch.tensor(3), "h": torch.ones(2).half(), "b": torch.ones(2).bfloat16()}
    torch.save(state, tmp_path / "official.pth")
    assert list(reading.read_checkpoint(tmp_path / "official.pth").weights) == list(state)


def test_refused_code_is_named_without_torchs_advice(tmp_path: Path) -> None:
    for content, name in (
        ({"a": Code(tmp_path)}, "posix.system"),
        (torch.nn.ReLU(), "torch.nn.modules.activation.ReLU"),
    ):
        error = refused(tmp_path, content)
        assert error.got == f"a call of {name}"
        assert "torch.load" not in str(error)
        assert "can still be loaded" not in str(error)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "text that begins with 'version https://git"),
        ("é".encode() * 300, "text that begins with 'éé"),
        (b"PK\x03\x04" + bytes(100), "PytorchStreamReader failed"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{}}        ', "a safetensors file"),
        (b"\x80\x02}q\x00.", ""),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_by_what_it_is(content: bytes, got: str, tmp_path: Path) -> None:
    (tmp_path / "official.pth").write_bytes(content)
    with pytest.raises(InputError, match="is not a checkpoint") as caught:
        reading.read_checkpoint(tmp_path / "official.pth")
    assert str(caught.value.got).startswith(got)
    assert "\n" not in str(caught.value.got)


def test_a_folder_and_a_name_too_long_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        reading.read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        reading.read_checkpoint(tmp_path / ("x" * 300))


# ----------------------------------------------------------------------------------------------------------- its keys


def test_keys_are_named_up_to_forty() -> None:
    for count, shown in ((40, "k38, k39"), (41, "k38, k39, … (41 in all)")):
        with pytest.raises(InputError) as caught:
            fill(torch.nn.Module(), {f"k{index:02}": torch.zeros(1) for index in range(count)})
        assert str(caught.value.got).startswith("k00, k01, k02, k03, k04, k05, ")
        assert str(caught.value.got).endswith(shown)


def test_one_block_has_one_spelling() -> None:
    value = torch.zeros(1)
    names = ["blocks.1.norm1.bias", "blocks.01.norm1.bias", f"blocks.{'9' * 5000}.norm1.bias"]
    assert list(close_gaps(dict.fromkeys(names, value))) == ["blocks.0.norm1.bias", *names[1:]]


def test_an_archive_that_would_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/0", bytes(5_000_000))
    assert file.stat().st_size < 100_000
    monkeypatch.setattr("hwnas.devices.memory.available_bytes", lambda: 4_000_000)
    with pytest.raises(InputError, match="must fit into memory") as caught:
        import_checkpoint("autoformer", file, space="autoformer-micro", out=tmp_path / "o.safetensors")
    assert caught.value.got == "5 MB, of which 4 MB are free"
