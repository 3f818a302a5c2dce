"""`hwnas push`: upload a network to the Hugging Face Hub."""

from pathlib import Path

import click

from hwnas.cli.export_network import picked_network
from hwnas.cli.options import PATH, json_option
from hwnas.cli.output import print_json, print_line
from hwnas.pipeline.push import push_network


@click.command()
@click.argument("run", type=PATH)
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--arch", "named", metavar="ARCH", help="The network of RUN: an id, or its first digits.")
@click.option("--pick", metavar="RULE", help="RUN of a search: the rule that chooses the network, as in hwnas export.")
@click.option("--private", is_flag=True, help="Create the repository as a private one.")
@json_option
def push(run: Path, repo: str, *, named: str | None, pick: str | None, private: bool, as_json: bool) -> None:
    """Upload a network to the Hugging Face Hub.

    RUN is the run of hwnas search or hwnas train that holds the network, or a folder that hwnas export --format timm
    wrote. The repository OWNER/NAME is created if necessary; it gets the files of that format: weights, config, model
    card and, where timm has no class for the network, its code. This needs the extra hub: pip install 'hwnas[hub]'.
    """
    if named is not None and pick is not None:
        raise click.UsageError("the network must be named once, with --arch or by --pick")
    pushed = push_network(
        run, repo, arch=picked_network(str(run), pick) if pick is not None else named, private=private
    )
    if as_json:
        print_json(pushed.to_mapping())
        return
    print_line(pushed.url)
    for name in pushed.files:
        print_line(f"  {name}")
