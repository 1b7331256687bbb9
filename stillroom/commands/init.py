"""`stillroom init`: from folders of data to a first run file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stillroom.commands.options import JSON, example, print_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stillroom.pipeline.first_run import FirstRun


@click.command(epilog=example("stillroom init data/camvid data/photos --out camvid.toml"))
@click.argument(
    "folders", metavar="DATA...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("run.toml"), show_default=True,
    help="The run file; never one that is there already.",
)  # fmt: skip
@JSON
def init(folders: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Say what folders of data hold, and write a run file, with comments, that trains on it.

    Each is a public data set in its own layout (docs/datasets.md), folders of images and masks,
    also one a split, or images or videos without labels.
    """
    from stillroom.pipeline.first_run import write_first_run

    run = write_first_run(folders, out)
    print_result(run.to_dict(), _text(run), as_json)


def _text(run: FirstRun) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for name, found in run.sources.items():
        parts.append(f"{name}: {run.frames[name]} frames, kind {found.settings['kind']}")
        parts += [f"  {remark}" for remark in found.remarks]
    teacher = "with a teacher filled in, " if not run.has_labels else ""
    return [
        *parts,
        f"canvas {run.canvas[0]}x{run.canvas[1]}",
        f"written: {run.path.absolute()}",
        f"next: {teacher}stillroom cache build {run.path}",
    ]
