"""`stillroom doctor`: is all there that stillroom needs?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stillroom.commands.options import ADDRESS, JSON, SET, example, print_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stillroom.pipeline.doctor import Finding

COLOURS = {"ok": "green", "note": "yellow", "fault": "red"}


@click.command(epilog=example("stillroom doctor examples/camvid.toml"))
@click.argument("run_file", type=click.Path(path_type=Path), metavar="[RUN.toml]", required=False)
@SET
@ADDRESS
@JSON
def doctor(
    run_file: Path | None, overrides: tuple[str, ...], address: str | None, as_json: bool
) -> None:
    """Say what this machine has: packages, devices, disks, Ray; and of a run its files.

    Ends with exit code 1 where something will not work.
    """
    from stillroom.pipeline.doctor import as_documents, examine

    run = None
    if run_file is not None:
        from stillroom.pipeline.run_file.loading import load_run

        run = load_run(run_file, overrides)
    elif overrides:
        raise click.UsageError("--set changes a run file; name one")
    found = examine(run, address)
    print_result({"findings": as_documents(found)}, _text(found), as_json)
    if any(one.state == "fault" for one in found):
        sys.exit(1)


def _text(found: list[Finding]) -> list[RenderableType]:
    from rich.table import Column, Table
    from rich.text import Text

    table = Table.grid("", "", Column(overflow="fold"), padding=(0, 2))  # no path is cut short
    for one in found:
        table.add_row(Text(one.state, style=COLOURS[one.state]), Text(one.area), Text(one.what))
    faults = sum(one.state == "fault" for one in found)
    plural = "s" * (faults != 1)
    return [table, f"{faults} fault{plural}" if faults else "nothing stands in the way"]
