"""`stillroom prune`: a trained student with fewer channels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stillroom.commands.options import JSON, example, print_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stillroom.pipeline.prune_student import PruneResult


@click.command(epilog=example("stillroom prune runs/camvid-slim --ratio 0.5"))
@click.argument("model", metavar="RUN_OR_CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="The share of its channels that goes: those that batch normalisation scales least.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The new run folder; the run's name and -pruned if left out.",
)
@JSON
def prune(model: Path, ratio: float, out: Path | None, as_json: bool) -> None:
    """Remove channels of a run's student, and write a run file that trains what is left.

    Train it with the term network_slimming first. The new folder is scored and exported as any run.
    """
    from stillroom.pipeline.prune_student import prune_student

    found = prune_student(model, ratio, out)
    print_result(found.to_dict(), _text(found), as_json)


def _text(found: PruneResult) -> list[RenderableType]:
    from stillroom.commands.quantities import gflops, parameters, place
    from stillroom.commands.show.grid import grid

    rows = [
        (
            name,
            f"{one.channels:,}",
            parameters(one.cost.parameters),
            gflops(one.cost.flops),
            f"{one.cost.speed.median_ms:.1f} ms",
        )
        for name, one in (("before", found.before), ("pruned", found.after))
    ]
    cost = found.after.cost
    return [
        grid(("", "channels", "parameters", "GFLOPs", "median"), rows),
        f"at {cost.height}x{cost.width} on {cost.speed.device}",
        f"{place(found.path)}: scored and exported as any run; to train it on: "
        f"stillroom train {shlex.quote(place(found.run_file))}",
    ]
