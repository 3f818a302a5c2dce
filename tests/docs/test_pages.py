"""What holds for every page of the documentation."""

import re
import shlex
from collections.abc import Sequence

import click
import pytest

from hwnas.cli.app import COMMANDS
from hwnas.cli.group import load
from tests.docs.pages import DOCS, blocks, commands

PAGES = sorted(path.name for path in DOCS.glob("*.md"))
ROWS = {row.name: row for row in COMMANDS}


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def shown_commands(text: str) -> list[str]:
    """The commands that a page shows: those that are run here, and those at a prompt."""
    lines = [line for block in blocks(text, "console") for line in block.splitlines()]
    asked = [line.removeprefix("$ ") for line in lines if line.startswith("$ hwnas ")]
    return [*commands(text), *(shlex.join(shlex.split(line, comments=True)) for line in asked)]


def require_parsed(words: Sequence[str]) -> None:
    """A command line must name a command and options that there are; values are not looked at."""
    name, *rest = words
    command = load(ROWS[name])
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        command, rest = command.commands[rest[0]], rest[1:]
    known = {spelling for item in command.params for spelling in (*item.opts, *item.secondary_opts)} | {"--help"}
    assert [word for word in rest if word.startswith("--") and word.split("=")[0] not in known] == []
    takes_words = any(isinstance(item, click.Argument) for item in command.params)
    assert takes_words or not rest or rest[0].startswith("--")


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_exist(name: str) -> None:
    for line in shown_commands(text_of(name)):
        try:
            require_parsed(shlex.split(line)[1:])
        except (AssertionError, KeyError) as error:
            pytest.fail(f"{name}: {line}: {error!r}")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", text_of(name), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (DOCS / link).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_are_there(name: str) -> None:
    named = re.findall(r"`((?:hwnas|tests|benchmarks|docs)/[a-z0-9_/]+\.(?:py|md))`", text_of(name))
    assert [path for path in named if not (DOCS.parent / path).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_plain_text(name: str) -> None:
    text = text_of(name)
    assert "—" not in text
    assert text.startswith("# ")
    assert text.endswith("\n")


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(AssertionError, match="--thruput"):
        require_parsed(["describe", "space", "arch", "--thruput", "3"])
    with pytest.raises(KeyError):
        require_parsed(["descripe"])
    with pytest.raises(KeyError):
        require_parsed(["profiles", "shwo"])
    require_parsed(["profiles", "show", "x", "--json"])
