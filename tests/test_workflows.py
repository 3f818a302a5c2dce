"""Files that other services read: workflows, hooks, templates of issues, the citation and the version."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import hwnas

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in load(path)["jobs"].values():
        yield from job["steps"]


def make_targets(path: Path) -> set[str]:
    lines = [line for step in steps(path) for line in step.get("run", "").splitlines()]
    words = [line.split()[1:] for line in lines if line.startswith("make ")]
    return {word for line in words for word in line if re.fullmatch(r"[a-z-]+", word)}


def test_workflows_name_targets_that_exist() -> None:
    named = {target for path in WORKFLOWS for target in make_targets(path)}
    assert named <= TARGETS
    assert {"check", "test", "test-slow", "docs", "package"} <= named


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_pins_its_actions(path: Path) -> None:
    content = load(path)
    assert content["permissions"] == {"contents": "read"}
    assert {"on", True} & content.keys()  # YAML 1.1 reads `on` as true
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_the_tested_pythons_are_those_that_the_package_names() -> None:
    tested = load(ROOT / ".github" / "workflows" / "check.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in project["classifiers"]]
    assert tested == [match.group(1) for match in named if match]
    assert project["requires-python"] == f">={tested[0]}"


def test_hooks_run_the_tools_of_make_check() -> None:
    recipe = MAKEFILE.split("\ncheck:")[1].split("\n\n")[0]
    tools = re.findall(r"\$\(BIN\)/([\w-]+(?: check| format)?)", recipe)
    entries = [hook["entry"] for repo in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    run = [re.match(r"\.venv/bin/([\w-]+(?: check| format)?)", entry) for entry in entries]
    assert [match and match.group(1) for match in run] == tools


@pytest.mark.parametrize("name", ["bug", "feature", "measurement"])
def test_a_template_asks_for_something(name: str) -> None:
    template = load(ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= template.keys()
    ids = [item["id"] for item in template["body"]]
    assert len(set(ids)) == len(ids)
    assert any(item.get("validations", {}).get("required") for item in template["body"])


def test_version_and_date_are_the_same_everywhere() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert citation["version"] == hwnas.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{hwnas.__version__}] - {citation['date-released']}\n" in changelog
