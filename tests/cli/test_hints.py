"""The commands and options that errors suggest: each is one that there is, so that it can be pasted."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

import hwnas
from hwnas.cli.app import COMMANDS, run
from hwnas.cli.group import load
from hwnas.cli.train import _print_trained
from hwnas.devices import detect
from hwnas.errors import InputError
from hwnas.pipeline.train import TrainingResult
from hwnas.runs import Run
from hwnas.train.options import TrainOptions, resolve_config
from tests.docs.test_pages import require_parsed
from tests.report.example import Example, make_run

ROOT = Path(hwnas.__file__).parent
NAMES = {row.name for row in COMMANDS}
_PROSE = re.compile(r"(?:[,;:]| (?:or|on|for|with|without|of|lists)(?= )| \().*")
"""Words that follow a command in a hint."""


def text_of(node: ast.expr) -> str | None:
    """A text, with X for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{\w*\}", "X", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return None


def hints() -> Iterator[tuple[str, str]]:
    """The places of hints in the code, with their texts."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_hint = isinstance(node, ast.keyword) and node.arg == "hint"
            if isinstance(node, ast.Assign):
                is_hint = "hint" in ast.unparse(node.targets[0])
            if is_hint and isinstance(node, (ast.keyword, ast.Assign)) and (text := text_of(node.value)):
                yield f"{path.relative_to(ROOT)}:{node.value.lineno}", text


HINTS = list(hints())


def test_hints_are_found() -> None:
    assert len(HINTS) > 150
    assert "hwnas export RUN --arch ID --out exported" in {text for _, text in HINTS}


def problem(hint: str) -> str | None:
    """Return what keeps the command of a hint from being pasted; None: nothing, or the command is filled in."""
    words = shlex.split(_PROSE.sub("", hint))[1:]
    try:
        if words[:1] != ["X"]:
            require_parsed(words)
    except (AssertionError, KeyError) as error:
        return repr(error)
    return None


def test_commands_of_hints_exist() -> None:
    commands = [(where, hint) for where, hint in HINTS if hint.startswith("hwnas ")]
    assert [(where, hint, found) for where, hint in commands if (found := problem(hint))] == []
    assert problem("hwnas nothing --at-all") is not None


def test_an_option_of_a_hint_is_one_of_some_command() -> None:
    known = {"--help"}
    for row in COMMANDS:
        command = load(row)
        for item in (command, *getattr(command, "commands", {}).values()):
            known |= {
                spelling for parameter in item.params for spelling in (*parameter.opts, *parameter.secondary_opts)
            }
    named = [(where, option) for where, hint in HINTS for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", hint)]
    assert [item for item in named if item[1] not in known] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, and with the runs of a search and of a training that hwnas.toml does not name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    make_run(tmp_path / "runs" / "other", Example(count=40))
    options = TrainOptions(space="autoformer-micro", data="digits")
    config = resolve_config(options, num_classes=10, num_images=99)
    Run.create(tmp_path / "runs" / "net", command=("hwnas",), config=config)
    (tmp_path / "runs" / "net" / "supernet.safetensors").touch()
    return tmp_path


def hint_of(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command with a mistake, and return what it suggests."""
    assert run(shlex.split(line)) in (1, 2, 3)
    captured = capsys.readouterr()
    return captured.err.partition("  try     ")[2].partition("\n")[0]


CPU = detect().cpu.slug


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("describ autoformer-micro max", "hwnas describe autoformer-micro max"),
        ("train --epoch 3", "hwnas train --epochs 3"),
        ("train --epoch=3", "hwnas train --epochs=3"),
        ("train --space vitas-twins-mini-69 --out runs/y", "hwnas train --space vitas-twins-mini-96 --out runs/y"),
        (
            "train --space autoformer-micro --data digits --recipe smal",
            "hwnas train --space autoformer-micro --data digits --recipe small",
        ),
        ("train --space autoformer-micro --data photo", "hwnas train --space autoformer-micro --data photos"),
        ("train --data digits --supernet runs/nett", "hwnas train --data digits --supernet runs/net"),
        ("export vitas-twins-mini-96 mx --out e", "hwnas export vitas-twins-mini-96 max --out e"),
        ("export runs/oter --arch max --out e", "hwnas export runs/other --arch max --out e"),
        ("evaluate runs/nett min", "hwnas evaluate runs/net min"),
        ("report runs/othr", "hwnas report runs/other"),
        ("predict autoformer-mirco:max --device cpu", "hwnas predict autoformer-micro:max --device cpu"),
        ("predict autoformer-micro:max --device h1000", "hwnas predict autoformer-micro:max --device h100"),
        ("search --constraint 'latency_ms<=3sec'", "hwnas search --constraint 'latency_ms<=3s'"),
        ("search --constraint 'latency_ms<=3parsec'", "hwnas search --constraint 'latency_ms<=3'"),
        ("profile --space autoformer-micro --dry-run", "hwnas profile --plan-only --out plan.jsonl"),
        ("explain autoformer-micro max --precision bf61", "hwnas explain autoformer-micro max --precision bf16"),
        (f"fit --device {CPU[:-1]}", f"hwnas fit --device {CPU}"),
        (f"fit --device {CPU[:8]}", f"hwnas fit --device {CPU}"),
        (f"profile --space autoformer-micro --device {CPU}x", f"hwnas profile --space autoformer-micro --device {CPU}"),
    ],
)
def test_a_mistake_is_answered_with_the_command_as_it_was_meant(
    line: str, hint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint_of(line, capsys) == hint
    require_parsed(shlex.split(hint)[1:])


@pytest.mark.parametrize("line", ["search --resume", "init --minutes", "train --epochs", "-v export --arch"])
def test_a_missing_argument_leads_to_the_help_of_the_command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(word for word in line.split() if word in NAMES)
    assert hint_of(line, capsys) == f"hwnas {name} --help"


def test_the_run_of_a_search_is_evaluated_by_its_supernet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.create(Path("search"), command=("hwnas",), config={"supernet": {"path": str(folder / "runs" / "net")}})
    assert hint_of("evaluate search 2630 --split test", capsys) == "hwnas evaluate runs/net 2630 --split test"
    assert hint_of("profile --supernet search", capsys) == "hwnas profile --supernet runs/net"


def test_a_run_of_the_project_that_is_not_there_is_answered_with_the_command_that_makes_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "hwnas.toml").write_text(
        '[train]\nout = "runs/supernet"\n[profile]\nsupernet = "runs/supernet"\n'
        '[search]\nsupernet = "runs/supernet"\nout = "runs/search"\n'
    )
    for line, hint in (
        ("-q profile", "hwnas train"),
        ("-q evaluate runs/supernet", "hwnas train"),
        ("-q report", "hwnas search"),
        ("-q report runs/search", "hwnas search"),
        ("-q search --resume runs/search", "hwnas search"),
        ("-q query", "hwnas search"),
    ):
        assert hint_of(line, capsys) == hint


def test_a_training_of_one_network_suggests_test_images_where_there_are_some(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = TrainingResult(
        run=Path("runs/net"),
        weights=Path("runs/net/network.safetensors"),
        steps=1,
        planned_steps=1,
        loss=None,
        seconds=0.0,
        images_per_s=0.0,
        accuracies={},
        divergences={},
        metric="accuracy",
        task_quality={},
        bad_images=(),
        notes=(),
        test_images=5,
    )
    export, test = "next: hwnas export runs/net --out exported-net", "or: hwnas evaluate runs/net --split test"
    for result, expected in ((found, [export, test]), (replace(found, test_images=0), [export])):
        with click.Context(click.Command("train")):
            _print_trained(result)
        assert capsys.readouterr().out.splitlines()[1:] == expected


@pytest.mark.parametrize(("rank", "count"), [("0", 1), ("1", 0)])
def test_of_several_processes_one_says_that_the_machine_is_busy(
    rank: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*options: object, **more: object) -> None:
        raise InputError("no training")

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("hwnas.cli.train.load_note", lambda: "the machine is busy")
    monkeypatch.setattr("hwnas.pipeline.train.train_model", refuse)
    assert run(["train", "--space", "autoformer-micro", "--data", "digits", "--out", str(tmp_path / "run")]) != 0
    assert capsys.readouterr().err.count("note: the machine is busy") == count
