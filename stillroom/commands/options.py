"""What every command of the command line shares: its arguments, its example, how it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

RUN_FILE = click.argument("run_file", type=click.Path(path_type=Path), metavar="RUN.toml")
# Text, not a path: it may be a URL, whose two slashes a path would make one.
CACHE = click.argument("cache_path", metavar="CACHE_OR_RUN.toml")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key of the run file, e.g. --set train.seed=1 or --set terms.1.weight=2.",
)
RAY = click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="Spread the shards over a Ray cluster whose machines see the cache at the same path.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


def example(command: str) -> str:
    """The last lines of a command's help."""
    return f"\b\nExample:\n  {command}"


def print_shown(shown: Any, as_json: bool) -> None:
    """A report knows itself as text and as a JSON document."""
    if as_json:
        click.echo(json.dumps(shown.document, indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True, markup=False)
        if not console.is_terminal:  # a file has no edge at which a table would have to be cut
            console.width = max(console.width, 160)
        for part in shown.parts:
            console.print(part)
