"""`hwnas agent`: measure what a campaign on another machine asks for."""

import click

from hwnas.cli.options import json_option


@click.command()
@json_option
def agent(*, as_json: bool) -> None:
    """Measure what a campaign on another machine asks for.

    Started there by `hwnas profile --fleet` for hosts with `agent = "installed"`; else the campaign sends the agent
    itself. Requests come on stdin and answers go to stdout, as lines of JSON with and without --json.
    """
    from hwnas.profile.remote.agent import main

    main()
