"""A sheet of what a cache holds: frame, label, and all that a teacher said about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.geometry import upsample_logits
from stillroom.stages.pictures.heat import heat
from stillroom.stages.pictures.palette import BLACK, WHITE, Colour, colourise, palette
from stillroom.stages.pictures.sheet import ColourBar, Entry, Sheet, Tile, draw_sheet
from stillroom.stages.pictures.tiles import (
    PADDING,
    class_legend,
    counted_frames,
    same_size,
    show_padding,
    valid_part,
)
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

COLUMNS = ("frame", "label", "teacher", "confidence", "pseudo-label")


@dataclass(frozen=True, eq=False)
class CacheRow:
    """One frame as it lies in the cache; None stands for what is not cached.

    Attributes:
        frame_id: its name.
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8, 255 = ignore.
        logits: (C, h, w) float32.
        confidence: (h, w) float32, 0..1.
        pseudo_label: (H, W) uint8, 255 = unlabelled.
        stride: pixels to one cell of logits and confidence.
        valid: (height, width) of the part that is no padding; None for all of it.
    """

    frame_id: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None = None
    logits: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None
    pseudo_label: NDArray[np.uint8] | None = None
    stride: int = 1
    valid: tuple[int, int] | None = None


def contact_sheet(
    path: Path,
    rows: Sequence[CacheRow],
    classes: Sequence[str],
    *,
    threshold: float | None = None,
    title: str = "Cache preview",
) -> Path:
    """Draw what a cache holds of some frames as a PNG.

    Columns: frame, label, the teacher's classes, its confidence as a heat map, pseudo-label with
    unlabelled pixels white. What no row has gets no column.

    Args:
        path: of the PNG; its folder is made.
        rows: the frames.
        classes: names of the classes 0..C-1.
        threshold: of the pseudo-labels, marked on the confidence's colour bar.
        title: the first line.

    Raises:
        ConfigError: there are no rows.
        ArtifactError: arrays that do not fit together.
    """
    if not rows:
        raise ConfigError("a sheet needs at least one frame to show")
    maps = [_maps(row) for row in rows]
    tiles = [_tiles(row, found, palette(classes)) for row, found in zip(rows, maps, strict=True)]
    present = [name for name in COLUMNS if any(one[name].image is not None for one in tiles)]
    legend_title, legend = _legend(rows, maps, classes)
    bar = None
    if "confidence" in present:
        bar = ColourBar(present.index("confidence"), heat(), mark=threshold, mark_name="threshold")
    return draw_sheet(
        Sheet(
            title=title,
            subtitle=counted_frames([row.image.shape[:2] for row in rows]),
            columns=tuple(present),
            rows=tuple(tuple(one[name] for name in present) for one in tiles),
            legend_title=legend_title,
            legend=(*legend, *_other_colours(rows, present, threshold)),
            bar=bar,
        ),
        path,
    )


def _legend(
    rows: Sequence[CacheRow], maps: list[dict[str, NDArray[np.uint8]]], classes: Sequence[str]
) -> tuple[str, tuple[Entry, ...]]:
    """Title and entries of the classes, where any column shows classes."""
    seen = [
        valid_part(made, row.valid)
        for row, found in zip(rows, maps, strict=True)
        for made in found.values()
    ]
    if not seen:
        return "", ()
    entries, left_out = class_legend(classes, palette(classes), seen)
    return "Classes" + (f" ({left_out})" if left_out else ""), entries


def _maps(row: CacheRow) -> dict[str, NDArray[np.uint8]]:
    """The label maps of a row, by the name of their column."""
    maps = {"label": row.label, "pseudo-label": row.pseudo_label}
    if row.logits is not None:
        full = _upsampled(row, "logits", row.logits)
        maps["teacher"] = full.argmax(0).astype(np.uint8)
    found = {name: made for name, made in maps.items() if made is not None}
    for name, made in found.items():
        same_size(row.frame_id, name, made, row.image)
    return found


def _upsampled(row: CacheRow, name: str, grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """A grid (C, h, w) at the frame's pixels, (C, H, W)."""
    height, width = row.image.shape[:2]
    try:
        full = upsample_logits(torch.from_numpy(grid)[None], row.stride, (height, width))[0]
    except ArtifactError as error:
        raise ArtifactError(f"{row.frame_id}: {name}: {error}") from error
    upsampled: NDArray[np.float32] = full.numpy()
    return upsampled


def _tiles(
    row: CacheRow, maps: dict[str, NDArray[np.uint8]], colours: NDArray[np.uint8]
) -> dict[str, Tile]:
    """One tile a column, empty where there is nothing to show."""
    tiles = {
        "frame": Tile(show_padding(row.image, row.valid), row.frame_id, smooth=True),
        "confidence": _confidence_tile(row),
    }
    for name, ignored, missing in (
        ("label", BLACK, "no label"),
        ("teacher", BLACK, "no logits"),
        ("pseudo-label", WHITE, "no pseudo-label"),
    ):
        made = maps.get(name)
        tiles[name] = Tile(None, missing)
        if made is not None:
            note = "" if name == "teacher" else f"{_labelled(made, row.valid):.1%} labelled"
            picture = colourise(made, colours, ignored)
            tiles[name] = Tile(show_padding(picture, row.valid), note)
    return tiles


def _labelled(made: NDArray[np.uint8], valid: tuple[int, int] | None) -> float:
    return float((valid_part(made, valid) != IGNORE).mean())


def _confidence_tile(row: CacheRow) -> Tile:
    if row.confidence is None:
        return Tile(None, "no confidence")
    full = _upsampled(row, "confidence", row.confidence[None])[0]
    height, width = row.valid or full.shape
    steps = (full.clip(0, 1) * 255).round().astype(np.uint8)
    mean = float(full[:height, :width].mean())
    return Tile(show_padding(heat()[steps], row.valid), f"mean {mean:.3f}")


def _other_colours(
    rows: Sequence[CacheRow], present: Sequence[str], threshold: float | None
) -> list[Entry]:
    """What the colours that are no class mean."""
    entries: list[tuple[Colour, str]] = []
    if "label" in present:
        entries.append((BLACK, "ignored"))
    if "pseudo-label" in present:
        why = "" if threshold is None else f" (below {threshold:.2f})"
        entries.append((WHITE, f"unlabelled{why}"))
    if any(row.valid not in (None, row.image.shape[:2]) for row in rows):
        entries.append((PADDING, "padding"))
    return [Entry(colour, name) for colour, name in entries]
