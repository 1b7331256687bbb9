"""What the commands share: arguments, options, the example in the help, printing."""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    Command = Callable[..., None]

RUN_FILE = "RUN.toml"  # in messages of those who do not know its name; they are given it here
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key of the run file, e.g. --set train.seed=1 or --set terms.1.weight=2.",
)
SOURCE = click.option("--source", help="Only this source; all of them if left out.")
ADDRESS = click.option(
    "--address",
    metavar="HOST:PORT",
    help="Work on this Ray cluster, whose machines see every file at the same path.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


def with_run(command: Command) -> Command:
    """Give a command the arguments RUN.toml and --set, and call it with the run that they name."""

    @click.argument("run_file", type=click.Path(path_type=Path), metavar=RUN_FILE)
    @SET
    @functools.wraps(command)
    def with_run_file(run_file: Path, overrides: tuple[str, ...], **options: Any) -> None:
        from stillroom.pipeline.run_file.loading import load_run

        click.get_current_context().meta[RUN_FILE] = run_file
        command(load_run(run_file, overrides), **options)

    return with_run_file


def with_cache(command: Command) -> Command:
    """Give a command the arguments CACHE_OR_RUN.toml and --set, and call it with the folder."""

    # Text, not a path: it may be a URL, whose two slashes a path would make one.
    @click.argument("cache_path", metavar="CACHE_OR_RUN.toml")
    @SET
    @functools.wraps(command)
    def with_folder(cache_path: str, overrides: tuple[str, ...], **options: Any) -> None:
        from stillroom.pipeline.cache_tools.info import cache_folder

        if cache_path.endswith(".toml"):
            click.get_current_context().meta[RUN_FILE] = cache_path
        command(cache_folder(cache_path, overrides), **options)

    return with_folder


def example(command: str) -> str:
    """Return the last lines of a command's help."""
    return f"\b\nExample:\n  {command}"


def print_result(document: dict[str, Any], parts: list[RenderableType], as_json: bool) -> None:
    """Print a result: as one JSON document, or as text and tables, which a file gets unpadded."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from stillroom.commands.show.grid import fitted

    console = Console(highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:  # a file has no edge at which a table would have to be cut
        console.width = max(console.width, 160)
    with console.capture() as captured:
        for part in parts:
            for piece in fitted(part, console.width) if isinstance(part, Table) else [part]:
                console.print(piece)
    for line in naming_run_file(captured.get()).splitlines():
        click.echo(line if console.is_terminal else line.rstrip())


def naming_run_file(text: str) -> str:
    """Return a text in which the run file that the command was given stands for RUN.toml."""
    known = click.get_current_context().meta.get(RUN_FILE)
    return text if known is None else text.replace(RUN_FILE, shlex.quote(str(known)))
