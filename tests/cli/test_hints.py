"""The commands and options that errors suggest: each is one that there is, so that it can be pasted."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import hwnas
from hwnas.cli.app import COMMANDS
from hwnas.cli.group import load
from tests.docs.test_pages import require_parsed

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
