"""The examples of the page on Python run from the first to the last."""

from pathlib import Path

import pytest

from tests.docs.pages import blocks, page


def test_the_examples_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(page("python.md"), "python")):
        exec(compile(block, f"python.md, block {number + 1}", "exec"), names)
    printed = capsys.readouterr().out
    assert "SearchResult(autoformer-micro: " in printed
    assert (tmp_path / "module.onnx").is_file()
