"""Helps, and errors of options, names and paths, come before torch is imported, which takes seconds."""

import json
import subprocess
import sys

import pytest

from hwnas.runs import Run
from hwnas.train.options import TrainOptions, resolve_config
from tests.report.example import Example, make_run

LINES = (
    (0, "train --help"),
    (0, "init --help"),
    (0, "evaluate --help"),
    (0, "export --help"),
    (2, "train --spaces autoformer-micro"),
    (2, "train --space autoformer-micro --epochs ten"),
    (2, "train --resume"),
    (2, "train --data digits"),
    (1, "train --space autoformer-mikro --data digits"),
    (1, "train --space autoformer-micro --arch tiny --data digits"),
    (1, "train --space autoformer-micro --data digits --recipe smal"),
    (1, "train --space autoformer-micro --data digits --set optimizer.rate=1"),
    (1, "train --space autoformer-micro --data nowhere/photos"),
    (1, "train --supernet nowhere --data digits"),
    (1, "train --supernet trained --arch 12345678"),
    (1, "train --out nowhere --resume"),
    (1, "train --space autoformer-micro --data digits --out run"),
    (1, "init nowhere/photos"),
    (2, "evaluate run --split validation"),
    (1, "evaluate nowhere"),
    (1, "export nowhere --arch 12345678 --out exported"),
    (1, "export autoformer-micro tiny --out exported"),
    (1, "export search --arch 12345678 --out exported"),
    (2, "export search --arch 12345678 --out exported --format onyx"),
    (1, "search --supernet nowhere"),
    (1, "search --resume nowhere"),
    (1, "profile --space autoformer-mikro"),
    (1, "profile --supernet nowhere"),
    (1, "predict autoformer-mikro:max --device cpu"),
    (1, "describe autoformer-mikro max"),
    (1, "query nowhere"),
    (1, "report nowhere"),
)
"""Command lines that ask for help or have a mistake, and their exit codes."""

CODE = """
import json, shlex, sys
from hwnas.cli.app import run
for line in sys.argv[1:]:
    code = run(shlex.split(line))
    heavy = {"torch", "timm", "onnx", "onnxruntime"} & set(sys.modules)
    print("found", json.dumps([line, code, sorted(heavy)]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str]]]:
    """The exit codes of all command lines, and what was imported after each of them."""
    folder = tmp_path_factory.mktemp("light")
    Run.create(folder / "run", command=("hwnas",), config={})
    make_run(folder / "search", Example(count=40))
    options = TrainOptions(space="autoformer-micro", data="digits")
    Run.create(folder / "trained", command=("hwnas",), config=resolve_config(options, num_classes=10, num_images=99))
    (folder / "trained" / "supernet.safetensors").touch()
    command = [sys.executable, "-c", CODE, *(line for _, line in LINES)]
    output = subprocess.check_output(command, cwd=folder, text=True, stderr=subprocess.PIPE)
    rows = [json.loads(row.removeprefix("found ")) for row in output.splitlines() if row.startswith("found ")]
    return {line: (code, heavy) for line, code, heavy in rows}


@pytest.mark.parametrize(("code", "line"), LINES, ids=[line for _, line in LINES])
def test_a_help_or_a_mistake_needs_no_torch(code: int, line: str, found: dict[str, tuple[int, list[str]]]) -> None:
    assert found[line] == (code, [])


def test_an_export_needs_nothing_of_a_search() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('moocore', 'pymoo', 'xgboost')))\n"
        "from hwnas.cli.export_network import export_network; from hwnas.pipeline import run_network\n"
        "print(export_network.name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "export\n"), done.stderr
