"""The page on networks inside a pretrained model is run as it stands there."""

from pathlib import Path

import pytest

from tests.docs.pages import blocks, commands, page, run_commands, run_python


@pytest.mark.slow
def test_the_space_of_a_model_is_described_and_its_supernet_is_the_model(tmp_path: Path) -> None:
    text = page("elastic.md")
    original, smallest = run_commands(commands(text)[:2], folder=tmp_path)
    assert "22,050,664" in original.out
    assert "params" in smallest.out
    (code,) = blocks(text, "python")
    (tmp_path / "check.py").write_text(code)
    run_python("check.py", folder=tmp_path)
