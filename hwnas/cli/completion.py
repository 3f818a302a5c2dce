"""`hwnas completion`."""

import click
from click.shell_completion import ShellComplete, get_completion_class

from hwnas.cli.app import COMPLETE, hwnas
from hwnas.cli.options import json_option
from hwnas.cli.output import print_json, print_line

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@json_option
def completion(shell: str, *, as_json: bool) -> None:
    """Print the script that lets SHELL complete commands and options.

    \b
    Add one line to the shell's own file, and start the shell again:
      bash   ~/.bashrc                     eval "$(hwnas completion bash)"
      zsh    ~/.zshrc                      eval "$(hwnas completion zsh)"
      fish   ~/.config/fish/config.fish    hwnas completion fish | source

    bash must be of version 4.4 or newer; zsh needs `autoload -Uz compinit && compinit` before that line.
    """  # noqa: D301 - a backslash and a b: click keeps the lines of this paragraph
    script = completion_script(shell)
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        print_line(script.strip())


def completion_script(shell: str) -> str:
    """The script of click for `hwnas` in a shell; nothing is run to make it."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    # bash's own class first starts a bash to ask for its version; the help says which one is needed.
    return ShellComplete.source(kind(hwnas, {}, "hwnas", COMPLETE))
