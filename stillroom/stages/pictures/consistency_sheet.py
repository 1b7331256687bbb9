"""What changes its class from one frame to the next: a sheet of pairs, and curves over a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.pictures.curve_chart import Panel, curve_chart
from stillroom.stages.pictures.palette import BLACK, colourise, palette
from stillroom.stages.pictures.prediction_sheet import WRONG, error_map
from stillroom.stages.pictures.sheet import Entry, Sheet, Tile, draw_sheet
from stillroom.stages.pictures.tiles import class_legend, counted_frames, models_of, same_size
from stillroom.stages.warp import warp_labels
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.temporal_consistency import Consistency, PairAgreement


@dataclass(frozen=True, eq=False)
class SteadyRow:
    """One pair of frames as some models see it.

    Attributes:
        frame_id: name of the first.
        image: (H, W, 3) uint8, RGB, at t.
        predictions: (H, W) uint8 classes at t and at t+1, by the name of the model.
        flow: (2, H, W) float32 pixels, t -> t+1.
        visible: (H, W) bool, True where t+1 shows the pixel too; None counts all.
    """

    frame_id: str
    image: NDArray[np.uint8]
    predictions: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_] | None = None


def consistency_sheet(
    path: Path,
    rows: Sequence[SteadyRow],
    classes: Sequence[str],
    *,
    title: str = "Temporal consistency",
) -> Path:
    """Draw what changes its class along the flow as a PNG.

    Columns: the frame, and two a model: its prediction at t, and in red the pixels to which it
    gives another class at t+1; black where t+1 does not show the pixel.

    Args:
        path: of the PNG; its folder is made.
        rows: the pairs; all have predictions by the same models.
        classes: names of the classes 0..C-1.
        title: the first line.

    Raises:
        ConfigError: no rows, or they differ in their models.
        ArtifactError: arrays that do not fit together.
    """
    models = models_of([(row.frame_id, row.predictions) for row in rows], "pair of frames")
    seen = [each for row in rows for pair in row.predictions.values() for each in pair]
    colours = palette(classes)
    entries, left_out = class_legend(classes, colours, seen)
    pairs = counted_frames([row.image.shape[:2] for row in rows]).replace("frame", "pair")
    columns = tuple(words for name in models for words in (name, "what changes at t+1"))
    legend = (*entries, Entry(WRONG, "changed"), Entry(BLACK, "not to be seen at t+1"))
    return draw_sheet(
        Sheet(
            title=title,
            subtitle=pairs,
            columns=("frame at t", *columns),
            rows=tuple(_tiles(row, colours) for row in rows),
            legend_title="Classes" + (f" ({left_out})" if left_out else ""),
            legend=legend,
        ),
        path,
    )


def followed(
    later: NDArray[np.uint8], flow: NDArray[np.float32], visible: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """The prediction at t+1 brought to t, (H, W); 255 where t+1 does not show the pixel."""
    warped = warp_labels(torch.from_numpy(later.copy())[None], torch.from_numpy(flow)[None])[0]
    made: NDArray[np.uint8] = warped.numpy()
    if visible is not None:
        made[~visible] = IGNORE
    return made


def consistency_chart(
    path: Path, models: Mapping[str, Consistency], *, title: str = "Temporal consistency"
) -> Path:
    """Draw the consistency of each pair of a clip as curves, one a model, as a PNG.

    Left the share of pixels that keep their class along the flow (the warping pixel accuracy of
    Y. Liu's thesis, Adelaide 2021, fig. 5.3), right the mIoU of the two predictions. Where all
    models were measured with a mask, both are over the visible pixels.

    Args:
        path: of the PNG; its folder is made.
        models: what `TemporalConsistency` found on the same pairs, by the name of the model.
        title: the first line.

    Raises:
        ConfigError: no models, or not the same number of pairs.
    """
    if not models:
        raise ConfigError("a chart needs at least one model to show")
    if len({len(each.curve) for each in models.values()}) > 1:
        raise ConfigError(
            "the curves are of different clips: "
            + ", ".join(f"{name} has {len(each.curve)} pairs" for name, each in models.items())
        )
    masked = all(each.visible is not None for each in models.values())
    named = {_with_score(name, each, masked=masked): each for name, each in models.items()}
    which = "visible pixels" if masked else "pixels that stay in the frame"

    def panel(words: str, *, pixels: bool) -> Panel:
        series = {
            name: (
                range(len(each.curve)),
                [_value(pair, masked=masked, pixels=pixels) for pair in each.curve],
            )
            for name, each in named.items()
        }
        return Panel(words, series, along="pair of frames")

    panels = [
        panel(f"{which} that keep their class", pixels=True),
        panel(f"mIoU with the next frame, {which}", pixels=False),
    ]
    return curve_chart(path, panels, title=title)


def _with_score(name: str, found: Consistency, *, masked: bool) -> str:
    score = found.visible if masked and found.visible is not None else found.whole
    return f"{name} · TC {score.miou:.3f}"


def _value(pair: PairAgreement, *, masked: bool, pixels: bool) -> float:
    if masked:
        value = pair.visible_pixels if pixels else pair.visible_miou
    else:
        value = pair.pixels if pixels else pair.miou
    return float("nan") if value is None else value


def _tiles(row: SteadyRow, colours: NDArray[np.uint8]) -> tuple[Tile, ...]:
    tiles = [Tile(row.image, row.frame_id, smooth=True)]
    for name, (now, later) in row.predictions.items():
        for made in (now, later):
            same_size(row.frame_id, name, made, row.image)
        warped = followed(later, row.flow, row.visible)
        counted = (warped != IGNORE) & (now != IGNORE)
        stays = float((warped == now)[counted].mean()) if counted.any() else 0.0
        note = f"{stays:.2%} stay" if counted.any() else "no pixel stays in the frame"
        changed = error_map(row.image, np.where(counted, warped, IGNORE).astype(np.uint8), now)
        tiles += [Tile(colourise(now, colours)), Tile(changed, note)]
    return tuple(tiles)
