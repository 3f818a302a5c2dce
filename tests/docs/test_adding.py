"""The worked examples of the pages on adding a space, a runtime and a device are run as they stand there."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Done, blocks, commands, exports, files, page, run_commands, run_python, write_files

SPACE, RUNNER, DEVICE = "adding-a-space.md", "adding-a-runner.md", "adding-a-device.md"


def row(done: Done, name: str) -> str:
    """What stands behind a name in a table."""
    (line,) = [line for line in done.out.splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(name).strip()


@pytest.mark.slow
def test_an_own_space_is_sound_and_described(tmp_path: Path) -> None:
    text = page(SPACE)
    write_files(text, tmp_path)
    run_python("check_my_spaces.py", folder=tmp_path)
    lines = commands(text)
    assert [line.split()[1] for line in lines] == ["spaces", "describe", "train", "evaluate", "export"]
    listed, described = run_commands(lines[:2], folder=tmp_path, environ=exports(text))
    (shown,) = blocks(text, "text")
    assert shown.splitlines()[0] in listed.out.splitlines()
    assert set(shown.splitlines()[1:]) <= set(described.out.splitlines())


@pytest.mark.slow
def test_an_own_space_is_trained_judged_and_exported(tmp_path: Path) -> None:
    text = page(SPACE)
    write_files(text, tmp_path)
    *_, exported = run_commands(commands(text)[2:], folder=tmp_path, environ=exports(text))
    assert row(exported, "top-1 agreement") == "100%"
    assert list((tmp_path / "exported").glob("pocket-*.onnx"))


def test_an_own_device_is_known_by_name_and_found_by_detection(tmp_path: Path) -> None:
    text = page(DEVICE)
    write_files(text, tmp_path)
    run_python("check_my_devices.py", folder=tmp_path)
    explained, planned = run_commands(commands(text), folder=tmp_path, environ=exports(text))
    assert " on x900, fp16, batch 64" in explained.out.splitlines()[0]
    assert "Roofline: " in explained.out
    assert "on the machine with x900: hwnas profile --plan plan.jsonl" in planned.out


@pytest.mark.slow
def test_an_own_runner_passes_the_conformance_suite(tmp_path: Path) -> None:
    text = page(RUNNER)
    write_files(text, tmp_path)
    (line,) = [line for line in blocks(text, "sh")[-1].splitlines() if line.startswith("python -c ")]
    (code,) = re.findall(r'"(.*)"$', line)
    suite = str(ROOT / "tests/profile/runners/test_conformance.py")
    options = f"'--rootdir', {str(ROOT)!r}, '-c', {str(ROOT / 'pyproject.toml')!r}, '-p', 'no:cacheprovider', '-k'"
    code = code.replace("'-k'", options).replace("tests/profile/runners/test_conformance.py", suite)
    named = "from hwnas.metrics import parse_metric as p; print('named', p('latency_ms@cpu/onnx-reference/b1'))"
    code = code.replace("pytest;", f"pytest; {named};", 1)
    out = run_python("-c", code, folder=tmp_path, environ={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert "named latency_ms@cpu/onnx-reference/b1" in out
    assert re.search(r"\b8 passed, \d+ skipped, \d+ deselected", out)  # those of other devices are skipped


@pytest.mark.slow
def test_an_own_runner_measures(tmp_path: Path) -> None:
    text = page(RUNNER)
    write_files(text, tmp_path)
    (done,) = run_commands(commands(text), folder=tmp_path, environ=exports(text))
    assert re.match(r"6 measured with onnx-reference on \S+, 0 failed", done.out)


def test_the_files_of_a_page_are_those_with_a_name() -> None:
    text = "```python\n# a.py\nx = 1\n```\n```python\ny\n```\n```sh\nexport A=b C=d\nhwnas a \\\n  'b c'  # d\n```\n"
    assert files(text) == {"a.py": "# a.py\nx = 1\n"}
    assert exports(text) == {"A": "b", "C": "d"}
    assert commands(text) == ["hwnas a 'b c'"]
