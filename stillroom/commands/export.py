"""`stillroom export`: a trained student alone, as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from stillroom.commands.options import JSON, example, print_result
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stillroom.pipeline.export_encoder import EncoderExport
    from stillroom.pipeline.export_student import ExportResult


@click.command(epilog=example("stillroom export runs/camvid --to onnx"))
@click.argument("model", metavar="RUN_OR_CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(["safetensors", "torch.export", "onnx", "encoder"]), required=True
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file; student.safetensors, .pt2 or .onnx, or encoder.safetensors, in the run folder "
    "if left out.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    nargs=2,
    metavar="HEIGHT WIDTH",
    help="Of the frames that it takes, if not the canvas's: it resizes them itself.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="On how many it is compared with the checkpoint.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Compare on these; on frames of the run if left out.",
)
@JSON
def export(model: Path, to: str, as_json: bool, **options: Any) -> None:
    """Write the student of a run as one file: bytes in, labels and logits out.

    It is run on real frames, and written only if it says what the checkpoint says. Of an encoder
    its weights are written, by timm's names if it is one of timm's.
    """
    from stillroom.commands import progress
    from stillroom.pipeline.export_encoder import ENCODER, export_encoder
    from stillroom.pipeline.export_student import ExportOptions, export_student

    if to == ENCODER:
        _refuse_given(*options.keys() - {"out"})
        alone = export_encoder(model, options["out"])
        print_result(alone.to_dict(), _of_encoder(alone), as_json)
        return
    with progress.Bars("frames") as bars:
        found = export_student(model, to, ExportOptions(**options), bars.counter(f"comparing {to}"))
    print_result(found.to_dict(), _text(found), as_json)


def _refuse_given(*names: str) -> None:
    context = click.get_current_context()
    for name in sorted(names):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise ConfigError(
                f"--{name}: --to encoder writes weights alone, which no frame is run through; "
                "leave it out"
            )


def _of_encoder(found: EncoderExport) -> list[RenderableType]:
    from stillroom.commands.quantities import place, size

    return [f"{place(found.path)}: {size(found.bytes)}, {found.tensors} tensors of {found.encoder}"]


def _text(found: ExportResult) -> list[RenderableType]:
    from stillroom.commands.quantities import place, size

    about, compared = found.about, found.comparison
    if compared is None:
        verdict = ["not compared with the checkpoint: onnxruntime is not installed"]
    else:
        verdict = [
            f"compared with the checkpoint on {compared.frames} frames:",
            f"  largest difference of logits {compared.largest_difference:.1e}, "
            f"largest logit {compared.largest_logit:.1f}",
            f"  {compared.differing_labels:,} of {compared.pixels:,} labels differ, "
            f"{compared.wrong_labels} where two classes are not level",
        ]
    height, width = about.size
    return [
        f"{place(found.path)}: {size(found.bytes)}, {len(about.classes)} classes, frames of "
        f"{height}x{width}",
        *verdict,
    ]
