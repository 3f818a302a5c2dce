"""`hwnas.toml`: what commands take from it, and its errors."""

import json
import re
import tomllib
from pathlib import Path

import click
import pytest

from hwnas.cli.app import COMMANDS, run
from hwnas.cli.group import load
from hwnas.cli.project import in_project, note_tables, project_options, project_supernet, project_words
from hwnas.devices import detect
from hwnas.errors import InputError

NAMES = [row.name for row in COMMANDS]


def command(name: str) -> click.Command:
    return load(next(row for row in COMMANDS if row.name == name))


def options(tmp_path: Path, text: str, line: str, name: str = "train") -> dict[str, object]:
    (tmp_path / "hwnas.toml").write_text(text)
    return project_options(tmp_path / "hwnas.toml", command(name), line.split(), commands=NAMES)


TRAIN = (
    '[train]\ndata = "photos"\nspace = "autoformer-micro"\nepochs = 3\nmax-images = 64\nset = ["optimizer.lr=1e-3"]\n'
)


def test_options_are_those_that_the_command_line_lacks(tmp_path: Path) -> None:
    found = options(tmp_path, TRAIN, "--epochs 5 --dry-run")
    changes = ("optimizer.lr=1e-3",)
    assert found == {"data": "photos", "space": "autoformer-micro", "max_images": 64, "overrides": changes}
    assert options(tmp_path, TRAIN, "", name="fit") == {}
    assert project_options(tmp_path / "none.toml", command("train"), [], commands=NAMES) == {}


def test_a_table_for_another_model_keeps_what_does_not_describe_its_own(tmp_path: Path) -> None:
    assert options(tmp_path, TRAIN, "--model=timm:vit_tiny_patch16_224") == {"data": "photos", "max_images": 64}
    assert options(tmp_path, TRAIN, "--out runs/a --resume") == {}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--space resnas-micro", {"device", "samples", "batches"}),
        ("--supernet runs/b", {"device", "samples", "batches"}),
        ("--minutes 5", {"supernet", "classes", "device", "batches"}),
        ("--landmarks", {"device", "batches"}),
        ("--plan plan.jsonl", {"device", "batches"}),
    ],
)
def test_options_hold_unless_the_command_line_excludes_them(tmp_path: Path, line: str, found: set[str]) -> None:
    text = '[profile]\nsupernet = "runs/a"\nclasses = 10\ndevice = "cpu"\nsamples = 60\nbatch = [1, 8]\n'
    assert set(options(tmp_path, text, line, name="profile")) == found


def test_a_search_of_another_space_keeps_its_objectives_and_budget(tmp_path: Path) -> None:
    text = '[search]\nsupernet = "runs/a"\nobjective = ["throughput"]\nbudget = 99\nout = "runs/search"\n'
    found = options(tmp_path, text, "--space resnas-micro", name="search")
    assert found == {"objectives": ("throughput",), "budget": 99}


def test_a_training_on_other_images_takes_nothing_that_is_for_those_of_the_file(tmp_path: Path) -> None:
    text = '[train]\ndata = "torch/cifar10"\nroot = "sets"\nspace = "autoformer-micro"\n'
    assert options(tmp_path, text, "--data photos") == {"space": "autoformer-micro"}


def test_a_training_is_resumed_in_the_run_of_the_file(tmp_path: Path) -> None:
    text = TRAIN + 'out = "runs/a"\n'
    assert options(tmp_path, text, "--resume") == {"out": Path("runs/a")}
    assert options(tmp_path, text, "--resume --out runs/b") == {}
    assert options(tmp_path, '[search]\nout = "runs/search"\n', "--resume runs/other", name="search") == {}


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("train --resume runs/b", "runs/b"),
        ("train --resume runs/b --epochs 3", "runs/b"),
        ("train --out runs/b --resume", "runs/b"),
        ("train --resume --epochs 3", "runs/a"),
        ("train --resume", "runs/a"),
    ],
)
def test_a_resumed_training_is_named_as_a_resumed_search_is(
    line: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hwnas.toml").write_text('[train]\nout = "runs/a"\n')
    assert run(line.split()) == 1
    err = capsys.readouterr().err
    assert f"error: {folder} holds no training to resume" in err
    assert f"  try     the same command with --out {folder} and without --resume" in err
    assert ("hwnas.toml: --out runs/a" in err) == (folder == "runs/a")


def test_a_resumed_training_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--out", "runs/b", "--resume", "runs/c"]) == 2
    assert "unexpected extra argument (runs/c)" in capsys.readouterr().err


def test_the_options_of_the_file_are_words_of_a_command_line(tmp_path: Path) -> None:
    text = (
        '[search]\nsupernet = "runs/a b"\nobjective = ["throughput", "params"]\nprecision = ["fp32", "int8"]\n'
        "budget = 99\nno-verify = true\nno-macs = false\nseed = 7\n"
    )
    found = options(tmp_path, text, "--seed 3", name="search")
    words = project_words(tmp_path / "hwnas.toml", command("search"), found, commands=NAMES)
    expected = "--objective throughput --objective params --precision fp32,int8 --budget 99 --no-verify"
    assert words == ["--supernet", "runs/a b", *expected.split()]
    assert project_words(tmp_path / "none.toml", command("search"), {}, commands=NAMES) == []


def test_values_are_converted_as_on_the_command_line(tmp_path: Path) -> None:
    text = '[profile]\nbatch = [1, 8]\nprecision = ["fp32", "bf16"]\nreference-networks = false\n'
    found = options(tmp_path, text, "", name="profile")
    assert found == {"batches": (1, 8), "precisions": ("fp32", "bf16"), "reference_networks": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train", "is not TOML"),
        ("x = 1", "table 'x' is not known"),
        ("train = 1", "train must be a table"),
        ("[train]\nepoch = 3", "train: key 'epoch' is not known"),
        ('[train]\nepochs = "ten"', "train.epochs: .* is not a whole number"),
        ("[train]\nepochs = true", "train.epochs must be a number or a text"),
        ("[train]\nspace = 3", "train.space must be a text"),
        ("[train]\ndownload = 1", "train.download must be true or false"),
    ],
)
def test_errors_name_the_file_the_key_and_the_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        options(tmp_path, text, "")
    assert "hwnas.toml" in caught.value.message


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("data = photos-bad", 'data = "photos-bad"'),
        ("out=runs/a  # here", 'out = "runs/a"'),
        ("epochs =", None),
        ('data = "photos', None),
    ],
)
def test_a_value_without_quotes_is_shown_with_them(tmp_path: Path, line: str, hint: str | None) -> None:
    with pytest.raises(InputError, match="is not TOML") as caught:
        options(tmp_path, f"[train]\n{line}\nepochs = 3\n", "")
    assert caught.value.hint == hint


def test_misspelled_tables_and_keys_are_suggested_as_they_stand_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="table 'trian' is not known") as caught:
        options(tmp_path, "[trian]\nepochs = 3\n", "")
    assert caught.value.hint == "[train]"
    with pytest.raises(InputError, match="key 'epoch' is not known") as caught:
        options(tmp_path, "[train]\nepoch = 3\n", "")
    assert caught.value.hint == "epochs in [train]"


def test_a_command_says_what_it_takes_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hwnas.toml").write_text("[describe]\nimage-size = 64\n")
    assert run(["describe", "autoformer-micro", "max", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "hwnas.toml: --image-size 64\n"
    assert json.loads(out)["image_size"] == 64
    assert run(["-q", "describe", "autoformer-micro", "max", "--json", "--image-size", "32"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["image_size"], err) == (32, "")


PROJECT = """
[train]
space = "autoformer-micro"
out = "runs/supernet"
[profile]
supernet = "runs/supernet"
device = "cpu"
samples = 60
[fit]
device = "cpu"
space = "autoformer-micro"
[search]
supernet = "runs/supernet"
device = "cpu"
objective = ["latency_ms"]
"""


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("hwnas profile --supernet runs/supernet", "hwnas profile"),
        ("hwnas profile --space autoformer-micro --device CPU --samples 60 --classes 10", "hwnas profile"),
        ("hwnas profile --space autoformer-micro --pairs 96 --new", "hwnas profile --pairs 96 --new"),
        ("hwnas profile --space resnas-micro --device CPU", "hwnas profile --space resnas-micro --device CPU"),
        ("hwnas profile --landmarks --device CPU", "hwnas profile --landmarks --device CPU"),
        ("hwnas fit --device CPU --space autoformer-micro", "hwnas fit"),
        ("hwnas fit --device h100 --space autoformer-micro", "hwnas fit --device h100"),
        ("hwnas search --supernet runs/supernet --device CPU --objective throughput", "hwnas search"),
        ("hwnas search --space autoformer-micro --device CPU --no-accuracy", "hwnas search --no-accuracy"),
        ("hwnas search --supernet runs/b --device CPU", "hwnas search --supernet runs/b --device CPU"),
        ("hwnas report runs/search", "hwnas report runs/search"),
    ],
)
def test_a_suggested_command_leaves_out_what_the_file_gives_it(line: str, shown: str) -> None:
    with click.Context(click.Command("x")) as context:
        note_tables(context, tomllib.loads(PROJECT))
        assert in_project(line.replace("CPU", detect().cpu.slug).split()) == tuple(
            shown.replace("CPU", detect().cpu.slug).split()
        )
        assert project_supernet("autoformer-micro") == "runs/supernet"
        assert project_supernet("resnas-micro") is None


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        ({"space": "autoformer-micro"}, "hwnas search --objective throughput"),
        ({"supernet": 5}, "hwnas search --space autoformer-micro --objective throughput"),
    ],
)
def test_a_suggested_search_keeps_its_objective_where_the_file_has_none(table: dict[str, object], shown: str) -> None:
    with click.Context(click.Command("x")) as context:
        note_tables(context, {"search": table})
        words = ["hwnas", "search", "--space", "autoformer-micro", "--objective", "throughput"]
        assert in_project(words) == tuple(shown.split())
        assert project_supernet("autoformer-micro") is None


def test_a_file_for_images_and_machine_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "digits", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["options"]["train"]["space"] == "vitas-twins-micro"
    assert set(written["minutes"]) == {"train", "profile", "fit", "search", "train --arch"}
    estimated = Path("hwnas.toml").read_text().splitlines()[2]
    assert re.fullmatch(
        r"# Estimated.*: train .*, profile .*, fit .*, search .*, train --arch .*, in all \d+ (min|h) \d+ (s|min)\.",
        estimated,
    )
    for name in written["options"]:
        assert project_options(Path("hwnas.toml"), command(name), [], commands=NAMES)
    assert run(["init", "digits", "--minutes", "0.001", "--replace", "--json"]) == 0  # another recipe than small
    short = json.loads(capsys.readouterr().out)
    chosen = short["options"]
    assert (chosen["train"]["epochs"], chosen["profile"]["samples"], chosen["search"]["budget"]) == (10, 24, 24)
    assert any(note.startswith("0.001 minutes do not suffice: 10 epochs, 24 measured and") for note in short["notes"])
    assert run(["init", "digits"]) == 1
    assert "hwnas.toml exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_of_a_project_need_no_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = (
        ("init digits", "train"),
        ("train --epochs 2 --max-images 256", "evaluate runs/supernet"),
        ("evaluate runs/supernet", "profile"),
        ("profile --samples 12 --pairs 8", "fit"),
        ("fit", "search"),
        ("search --budget 8", "report runs/search"),
        ("report", "train --arch "),
    )
    for step, following in steps:
        assert run(step.split()) == 0, capsys.readouterr().err
        suggested = re.findall(r"^(?:next|or): hwnas (.+)$", capsys.readouterr().out, flags=re.MULTILINE)
        assert any(command.startswith(following) for command in suggested), suggested
    assert (tmp_path / "runs/search/search.json").is_file()
