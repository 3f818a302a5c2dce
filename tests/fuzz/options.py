"""Hostile values for the options of every command, found in the commands themselves."""

from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import click

from tests.fuzz.sandbox import Attack
from tests.fuzz.seeds import PROFILE, SPACE, TOY

OPTION_PARTS = (
    *(
        "profiles",
        "predictors",
        "runs/super",
        "runs/search",
        "runs/half-search",
        "runs/half",
        "arch.json",
        "archs.jsonl",
    ),
    *("recipe.toml", "plan.jsonl", "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv"),
)

_TRAIN = ("train", "--space", SPACE, "--data", "digits", "--max-images", "200", "--heldout", "40", "--epochs", "1")
_SEARCH = ("search", "--space", SPACE, "--device", TOY, "--predictors", "predictors", "--budget", "8", "--no-verify")
BASES: tuple[tuple[str, ...], ...] = (
    ("describe", SPACE, "min"),
    (*_TRAIN, "--out", "runs/new"),
    (*_TRAIN, "--out", "runs/new", "--dry-run"),
    ("train", "--resume", "--out", "runs/half"),
    ("evaluate", "runs/super", "min"),
    ("profile", "--space", SPACE, "--device", "cpu", "--runtime", "onnxruntime", "--samples", "2"),
    ("profile", "--space", SPACE, "--samples", "2", "--plan-only", "--out", "new.jsonl"),
    ("profiles", "--profiles", "profiles"),
    ("profiles", "show", f"{TOY}/{Path(PROFILE).name}", "--profiles", "profiles"),
    ("profiles", "import-timm", "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv", "--out", "profiles"),
    ("fit", "--device", TOY, "--profiles", "profiles", "--metric", "latency_ms", "--out", "fitted"),
    ("predict", f"{SPACE}:random:1", "--device", TOY, "--allow-outside", "--predictors", "predictors"),
    (*_SEARCH, "--export-top", "0", "--no-accuracy", "--objective", "latency_ms", "--dry-run"),
    (*_SEARCH, "--export-top", "0", "--supernet", "runs/super", "--objective", "latency_ms", "--dry-run"),
    ("query", "runs/search"),
    ("explain", SPACE, "min", "--device", TOY),
    ("export", SPACE, "min", "--format", "safetensors", "--out", "network.safetensors"),
    ("import", "autoformer", "official.pth", "--space", "autoformer-tiny", "--out", "ours.safetensors"),
    ("completion", "bash"),
    ("demo", "--epochs", "-1"),
)

_NOT_TO_RUN = {"--open", "--download"}
_WORK = {
    "--epochs",
    "--budget",
    "--samples",
    "--pairs",
    "--repeats",
    "--seeds",
    "--retrain",
    "--export-top",
    "--max-images",
}
"""Large values of these within their range are long work, which is no hang."""
_INTEGERS = (
    "-1",
    "0",
    "-99999999999999999999",
    "99999999999999999999",
    "1" * 400,
    "1.5",
    "nan",
    "",
    "x",
    "1e3",
    " 1",
    "1_0",
)
_LARGE_INTEGERS = ("2147483647", "4294967296", "9223372036854775807", "1000000")
_FLOATS = ("nan", "inf", "-inf", "-1", "0", "-0.0", "1e400", "1e-400", "", "x", "0x1p3", "1,5")
_LARGE_FLOATS = ("1e308", "1e30", "0.999999999", "1", "2")
_TEXTS = (
    *(
        "",
        " ",
        "x",
        "-",
        "--",
        "../evil/x",
        "../../abs/x",
        ".",
        "..",
        "a/b",
        "é",
        "e\u0301",
        "\udcff\udcfe",
        "name\nline",
    ),
    *("\x1b[31m", "x" * 300, "x" * 100_000, "{}", "[]", "{" * 5000, '{"embed_dim": 1e400}', "random:-1", "random:1e9"),
    *("random:99999999999999999999", "min", "max", "timm:", "timm:no_such", "latency_ms@", "latency_ms<=", "macs<=nan"),
    *(
        "macs<=1e400",
        "macs<=-1",
        "latency_ms@../x",
        "accuracy>=2",
        "macs<=1G",
        "auto",
        "cpu",
        "cuda",
        "cuda:99",
        "1",
        "-1",
    ),
    *("optimizer.lr=nan", "optimizer.lr=-1", "epochs=1e26", "batch_size=0", "mix.mixup=1e308", "=", "a.b.c=1", "[=]"),
    *("regularization.drop_path=2", "initialization.token_std=-1", "optimizer.momentum=5", "seed=1", "epochs=true"),
    *(
        "torch/",
        "torch/no_such",
        "wds/",
        "wds/nowhere",
        "digits-clutter",
        "runs/super",
        "arch.json",
        "fp64",
        "%s%n",
        "0",
    ),
    *(
        "mape=3%",
        "mape=nan%",
        "mape=",
        "mape=-1%",
        "active",
        "int8",
        "(a+)+$",
        "[",
        "(",
        "1,8",
        "any",
        "0,1",
        "1," * 3000,
    ),
)
_PATHS = (
    *(
        "",
        ".",
        "nowhere/x",
        "arch.json",
        "runs",
        "runs/super",
        "runs/search",
        "runs/half",
        "arch.json/x",
        "new",
        "/dev/null",
    ),
    *(
        "/proc/self/mem",
        "/proc/x",
        "/dev/full",
        "x" * 300,
        "a/" * 3000,
        "é",
        "\udcff\udcfe",
        "name\nline",
        "predictors",
    ),
    *("pipe", "loop", "dangling", "outside", "recipe.toml", "profiles", "/dev/zero", "-"),
)


def make_options(case: Path, rng: Random) -> Attack:
    """Add one or two options with hostile values to a valid command line, or spoil one of its values."""
    import os

    os.mkfifo(case / "pipe")
    (case / "loop").symlink_to("loop")
    (case / "dangling").symlink_to("nowhere/at/all")
    (case / "outside").symlink_to(case.parent / "secret.txt")
    base = rng.choice(BASES)
    command = _commands()[_name(base)]
    added: list[str] = []
    for _ in range(rng.choice((1, 1, 2))):
        added += _hostile(rng.choice(command.params), rng)
    arguments = [*base, *added]
    if rng.random() < 0.15:
        arguments, added = _spoiled(base, rng)
    if base[0] == "demo":  # one that is accepted runs for minutes
        arguments += ["--epochs", "-1"]
    impossible = any(value in ("99999999999999999999", "1" * 400, "-99999999999999999999") for value in added[1::2])
    return Attack(arguments=tuple(arguments), what=f"options {ascii(added)[:120]}", must_fail=impossible)


def _spoiled(base: tuple[str, ...], rng: Random) -> tuple[list[str], list[str]]:
    """Replace a value of the command line, or the name of an option."""
    arguments = list(base)
    place = rng.randrange(1, len(arguments)) if len(arguments) > 1 else 0
    is_option = arguments[place].startswith("-")
    arguments[place] = arguments[place][:-1] if is_option else rng.choice((*_TEXTS, *_INTEGERS))
    return arguments, [arguments[place]]


def _hostile(parameter: click.Parameter, rng: Random) -> list[str]:
    if isinstance(parameter, click.Argument):
        return [rng.choice((*_TEXTS, *_PATHS))]
    name = parameter.opts[-1]
    if name in _NOT_TO_RUN:
        return []
    if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False):
        return [rng.choice([*parameter.opts, *parameter.secondary_opts])]
    return [name, _hostile_value(parameter.type, name, rng)]


def _hostile_value(kind: click.ParamType[Any], name: str, rng: Random) -> str:
    if name in ("--minutes", "--limit-minutes"):
        return rng.choice(_FLOATS)
    if isinstance(kind, (click.types.IntParamType, click.IntRange)):
        return rng.choice(_INTEGERS if name in _WORK else (*_INTEGERS, *_LARGE_INTEGERS))
    if isinstance(kind, (click.types.FloatParamType, click.FloatRange)):
        return rng.choice((*_FLOATS, *_LARGE_FLOATS))
    if isinstance(kind, click.Path):
        return rng.choice(_PATHS)
    values = (*_TEXTS, *_INTEGERS) if name in ("--batch", "--set") else _TEXTS
    return rng.choice(values)


def _name(base: tuple[str, ...]) -> str:
    return " ".join(base[:2]) if base[:2] in (("profiles", "show"), ("profiles", "import-timm")) else base[0]


@cache
def _commands() -> dict[str, click.Command]:
    """All commands by name, those of groups as `GROUP NAME`."""
    from hwnas.cli.app import COMMANDS

    found: dict[str, click.Command] = {}
    for row in COMMANDS:
        module, _, attribute = row.target.partition(":")
        command = getattr(import_module(module), attribute)
        found[row.name] = command
        if isinstance(command, click.Group):
            found |= {f"{row.name} {name}": inner for name, inner in command.commands.items()}
    return found
