"""Options that several commands share."""

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
"""`--json`: the command gets `as_json` and prints its result with `print_json`."""
