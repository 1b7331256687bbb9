"""`stillroom predict`: labels and pictures of one's own images and videos, and of a webcam."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stillroom.commands.options import JSON, example, print_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stillroom.pipeline.predict_frames import PredictionResult

NAMED = 10  # bad frames, before the rest is counted


@click.command(epilog=example("stillroom predict runs/camvid drive.mp4 --out runs/drive"))
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument(
    "inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True,
    help="Folder for label maps, overlays and films; frames that are there are kept.",
)  # fmt: skip
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True, max=240),
    help="Frames a second: so many are taken of a video; images make a film as well.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    help="Frames to take of a webcam; without it, Ctrl-C ends.",
)
@JSON
def predict(
    model: Path,
    inputs: tuple[Path, ...],
    out: Path,
    fps: float | None,
    frames: int | None,
    as_json: bool,
) -> None:
    """Predict images, folders of images, videos, or a webcam: `webcam`, or `webcam:1`.

    MODEL is a run folder, a checkpoint, or a file that `stillroom export` wrote.
    """
    from stillroom.commands import progress
    from stillroom.pipeline import predict_frames

    with progress.Bars("frames") as bars:
        counter = bars.counter("predict")
        found = predict_frames.predict(
            model, inputs, out, fps=fps, frames=frames, on_frames=counter
        )
    print_result(found.to_dict(), _text(found), as_json)


def _text(found: PredictionResult) -> list[RenderableType]:
    from stillroom.commands.quantities import place
    from stillroom.pipeline.predict_frames import ABOUT, LEGEND
    from stillroom.pipeline.prediction_writer import LABELS, OVERLAYS
    from stillroom.storage_specs.artifacts import DEPTH

    kept = f", {found.found} were there before" if found.found else ""
    bad = [f"  {name}: {reason}" for name, reason in found.skipped.items()]
    more = [f"  and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    return [
        f"{found.predicted} frames predicted{kept}",
        *([f"{len(bad)} could not be read:", *bad[:NAMED], *more] if bad else []),
        *(
            place(found.out / name)
            for name in (LABELS, DEPTH, OVERLAYS, LEGEND, ABOUT)
            if (found.out / name).exists()
        ),
        *map(place, found.films),
    ]
