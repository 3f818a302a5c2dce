"""The code that is sent: what it imports, and that Python 3.10 can read it."""

import ast
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

from hwnas.profile.agent_code import agent_code, bootstrap, code_digest

ENTRIES = (
    "hwnas.profile.remote.agent",
    "hwnas.profile.worker_process",
    "hwnas.profile.network_timer",
    "hwnas.profile.runners.onnxruntime",
    "hwnas.profile.runners.openvino",
)
"""What the agent and its worker processes import."""

NEW_IN_3_11 = {
    "datetime": {"UTC"},
    "enum": {"StrEnum", "ReprEnum", "verify"},
    "typing": {"Self", "Never", "assert_never", "NotRequired", "Unpack", "LiteralString", "TypeVarTuple"},
    "hashlib": {"file_digest"},
    "contextlib": {"chdir"},
}

PROGRAM = f"""
import json, sys
sys.path[:0] = [sys.argv[1]]
before = set(sys.modules)
import {", ".join(ENTRIES)}
ours = [name for name in sys.modules if name.split(".")[0] == "hwnas"]
assert all(sys.modules[name].__file__.startswith(sys.argv[1]) for name in ours)
packages = {{name.split(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names
print(json.dumps([ours, sorted(packages)]))
"""


def imported(tmp_path: Path) -> tuple[list[str], list[str]]:
    """The modules of hwnas that the agent imports from its zip file, and all packages."""
    code = tmp_path / "agent.zip"
    code.write_bytes(agent_code())
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours, packages = json.loads(done.stdout)
    return ours, packages


def names_at_run_time(tree: ast.Module) -> set[tuple[str, str]]:
    """What a module imports but for types alone, and its attributes of modules."""
    found: set[tuple[str, str]] = set()
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.ImportFrom):
                found |= {(inner.module or "", alias.name) for alias in inner.names}
            elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                found.add((inner.value.id, inner.attr))
    return found


def test_the_agent_imports_numpy_and_nothing_else(tmp_path: Path) -> None:
    ours, packages = imported(tmp_path)
    assert set(packages) == {"hwnas", "numpy"}
    assert set(ENTRIES) <= set(ours)
    assert not any(name.startswith(("hwnas.space", "hwnas.supernet", "hwnas.cli")) for name in ours)


def test_python_3_10_can_read_what_the_agent_imports(tmp_path: Path) -> None:
    new = {(module, name) for module, names in NEW_IN_3_11.items() for name in names}
    with zipfile.ZipFile(io.BytesIO(agent_code())) as archive:
        members = set(archive.namelist())
        for module in imported(tmp_path)[0]:
            path = module.replace(".", "/")
            text = archive.read(f"{path}.py" if f"{path}.py" in members else f"{path}/__init__.py").decode()
            tree = ast.parse(text, feature_version=(3, 10))
            assert not names_at_run_time(tree) & new, module
            top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
            assert "tomllib" not in top, module


def test_any_python_3_can_read_the_program_that_starts_the_agent() -> None:
    assert ast.parse(bootstrap(), feature_version=(3, 6)).body


def test_the_code_is_the_same_whenever_it_is_packed() -> None:
    first, digest = agent_code(), code_digest()
    agent_code.cache_clear()
    code_digest.cache_clear()
    assert (agent_code(), code_digest()) == (first, digest)
    assert len(first) < 2_000_000
