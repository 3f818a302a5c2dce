"""The `hwnas` commands in the README are run as they stand there."""

import re
import shlex
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from hwnas.cli.app import run
from hwnas.records import load_profile

ROOT = Path(__file__).parents[1]


def commands(text: str) -> list[str]:
    """The lines of fenced code blocks that call `hwnas`, in order, without their comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith("hwnas ")]


README = commands((ROOT / "README.md").read_text(encoding="utf-8"))


def test_commands_are_taken_from_code_blocks_alone() -> None:
    text = (
        "hwnas no\n```sh\nmake no\nhwnas a 'b c'   # why\n```\nhwnas no\n"
        "```\n$ hwnas d --e\n  hwnas no\n```\nhwnas no\n"
    )
    assert commands(text) == ["hwnas a 'b c'", "hwnas d --e"]


MICRO = (
    (
        "--device a100 --batch 1,64",
        "--device cpu --samples 8 --repeats 0 --pairs 8 --no-reference-networks",
    ),
    (
        "timm:vit_small_patch16_224 --pretrained --data photos",
        "timm:test_vit --checkpoint vit.safetensors --data digits --image-size 32 --max-images 256 --epochs 0",
    ),
    ("--constraint 'latency_ms<=8'", "--constraint 'latency_ms<=8' --budget 8 --no-verify --export-top 0"),
    ("fit --device a100", "fit --device cpu --profiles profiles --metric latency_ms --metric throughput"),
    ("--device a100", "--device cpu"),
    ("explain autoformer-tiny AutoFormer-T", "explain autoformer-micro max"),
    ("export autoformer-tiny AutoFormer-T", "export autoformer-micro max"),
)
"""What stands in a command of the README, and what is run in its place: the same at micro size, on this CPU."""


def small(command: str) -> str:
    """The command at micro size."""
    for written, less in MICRO:
        command = command.replace(written, less)
    return command


def test_the_readme_shows_the_whole_job() -> None:
    words = [command.split()[1] for command in README]
    assert words[:5] == ["train", "profile", "fit", "search", "report"]
    assert {"doctor", "spaces", "describe", "profiles", "predict", "explain", "export"} == set(words[5:])


def test_the_commands_of_the_readme_work_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has loaded torch already; `tests/cli/test_main.py` starts some of their own."""
    monkeypatch.chdir(tmp_path)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), "vit.safetensors")
    for command in map(small, README):
        code = run(shlex.split(command)[1:])
        out, err = capsys.readouterr()
        assert code == 0, f"{command}\n{err}"
        assert out, command
    (profile,) = tmp_path.glob("profiles/*/elastic-*")
    rows = load_profile(profile).measurements
    assert {row.subject.num_classes for row in rows if row.subject.source == "space"} == {10}  # those of the images


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_python_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "autoformer-tiny autoformer" in capsys.readouterr().out
