"""Sheets of pairs of frames: the flow between them, and what changes its class along it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from stillroom.stages.pictures.flow_colours import longest_of
from stillroom.stages.pictures.legend import Entry
from stillroom.stages.pictures.palette import BLACK, Colour
from stillroom.stages.pictures.prediction_sheet import WRONG, demand_size, error_map, greyed
from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet, counted
from stillroom.stages.warp import inside_frame, visible, warp, warp_labels
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Flow = NDArray[np.float32]
    Mask = NDArray[np.bool_]

HIDDEN: Colour = (230, 120, 20)
OUTSIDE: Colour = (40, 110, 200)
CHANGES = (Entry(WRONG, "changed at t+1"), Entry(BLACK, "not to be seen at t+1"))


@dataclass(frozen=True, eq=False)
class FramePair:
    """Two frames, the flow between them, and what models predict on both.

    Attributes:
        frame_id: name of the first, or of both.
        image: (H, W, 3) uint8, RGB, at t.
        other: (H, W, 3) uint8, at t+k.
        flow: (2, H, W) float32 pixels, t -> t+k.
        visible: (H, W) bool, True where t+k shows the pixel too; None where it is not known.
        predictions: (H, W) uint8 classes at t and at t+k, by the name of the model.
    """

    frame_id: str
    image: Image
    other: Image
    flow: Flow
    visible: Mask | None = None
    predictions: Mapping[str, tuple[Image, Image]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        shapes = {"image": (*size, 3), "other": (*size, 3), "flow": (2, *size), "visible": size}
        for name, expected in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != expected:
                raise ArtifactError(
                    f"{self.frame_id}: {name}: expected {expected}, got {tuple(array.shape)}"
                )
        for model, maps in self.predictions.items():
            for made in maps:
                demand_size(self.frame_id, model, made, self.image)

    def followed(self, model: str) -> Image:
        """Bring the prediction at t+k to t, (H, W); 255 where nothing can be compared."""
        now, later = (torch.from_numpy(made.copy())[None] for made in self.predictions[model])
        made: Image = warp_labels(later, torch.from_numpy(self.flow)[None])[0].numpy()
        made[now[0].numpy() == IGNORE] = IGNORE
        if self.visible is not None:
            made[~self.visible] = IGNORE
        return made

    def changes(self, model: str) -> Cell:
        """Show what has another class at t+k in red, and what is not seen there in black."""
        now, followed = self.predictions[model][0], self.followed(model)
        known = followed != IGNORE
        share = f"{float((followed == now)[known].mean()):.2%} stay" if known.any() else ""
        note = share or "no pixel stays in the frame"
        return Cell("painting", error_map(self.image, followed, now), note)


def visible_pixels(flow: Flow, back: Flow) -> Mask:
    """Tell (H, W) the pixels of frame t that t+k shows too.

    Args:
        flow: (2, H, W) pixels, t -> t+k.
        back: (2, H, W) pixels, t+k -> t.
    """
    found = visible(torch.from_numpy(flow)[None], torch.from_numpy(back)[None])
    return np.asarray(found[0, 0].numpy(), np.bool_)


def flow_sheet(path: Path, pairs: Sequence[FramePair], *, title: str = "Flow") -> Path:
    """Draw pairs of frames and the flow between them as a PNG.

    Columns: both frames, the flow in Middlebury's colours with their wheel, the two frames laid
    over each other as they are, then along the flow (the first in red, the second in cyan: grey
    where they agree), and the pixels that t+k does not show. Edges in colour in the fifth column
    are faults of the flow.

    Raises:
        ConfigError: there are no pairs.
    """
    demand_pairs(pairs)
    longest = max(longest_of(pair.flow) for pair in pairs)
    columns = (
        "frame at t",
        "frame at t+k",
        f"flow, full colour at {longest:.1f} px",
        "t red, t+k cyan",
        "the same along the flow",
        "not to be seen at t+k",
    )
    rows = [FrameRow(pair.frame_id, pair.image, _flow_cells(pair)) for pair in pairs]
    legend = [Entry(OUTSIDE, "leaves the frame")]
    if any(pair.visible is not None for pair in pairs):
        legend.append(Entry(HIDDEN, "hidden"))
    subtitle = counted(rows, "pair")
    return Sheet(title, columns, rows, legend=legend, subtitle=subtitle).save(path)


def demand_pairs(pairs: Sequence[FramePair]) -> None:
    """Raise ConfigError where there is nothing to show."""
    if not pairs:
        raise ConfigError("a sheet needs at least one pair of frames to show")


def _flow_cells(pair: FramePair) -> list[Cell]:
    warped = warped_image(pair.other, pair.flow)
    share = "" if pair.visible is None else f"{float(pair.visible.mean()):.1%} visible"
    return [
        Cell("photo", pair.other),
        Cell("flow", pair.flow),
        Cell("photo", laid_over(pair.image, pair.other), _apart(pair.image, pair.other)),
        Cell("photo", laid_over(pair.image, warped), _apart(pair.image, warped)),
        Cell("painting", hidden_map(pair.image, pair.flow, pair.visible), share),
    ]


def laid_over(image: Image, other: Image) -> Image:
    """Lay one image in red over another in cyan, (H, W, 3): grey where both are as bright."""
    red, cyan = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (image, other))
    return np.stack([red, cyan, cyan], axis=2)


def warped_image(other: Image, flow: Flow) -> Image:
    """Bring the image at t+k to t, (H, W, 3) uint8."""
    pixels = torch.from_numpy(other.copy()).permute(2, 0, 1)[None].float()
    warped = warp(pixels, torch.from_numpy(flow)[None])[0].permute(1, 2, 0)
    return warped.round().to(torch.uint8).numpy()


def hidden_map(image: Image, flow: Flow, visible: Mask | None) -> Image:
    """Paint on the greyed frame: what leaves it in blue, what is hidden inside of it in orange."""
    painted = greyed(image)
    inside = inside_frame(torch.from_numpy(flow)[None])[0, 0].numpy()
    if visible is not None:
        painted[inside & ~visible] = HIDDEN
    painted[~inside] = OUTSIDE
    return painted.round().astype(np.uint8)


def _apart(image: Image, other: Image) -> str:
    difference = np.abs(image.astype(np.int16) - other)
    return f"{float(difference.mean()):.1f} of 255 apart"


def consistency_sheet(
    path: Path,
    pairs: Sequence[FramePair],
    classes: Sequence[str],
    *,
    title: str = "Temporal consistency",
) -> Path:
    """Draw what changes its class along the flow as a PNG.

    Columns: the frame, and two a model: its prediction at t, and in red the pixels to which it
    gives another class at t+1; black where t+1 does not show the pixel.

    Args:
        path: of the PNG; its folder is made.
        pairs: frames that follow each other; all have predictions by the same models.
        classes: names of the classes 0..C-1.
        title: the first line.

    Raises:
        ConfigError: there are no pairs.
    """
    demand_pairs(pairs)
    models = list(pairs[0].predictions)
    columns = [words for name in models for words in (name, "what changes at t+1")]
    rows = []
    for pair in pairs:
        cells = [
            (Cell("classes", pair.predictions[name][0], ""), pair.changes(name)) for name in models
        ]
        rows.append(FrameRow(pair.frame_id, pair.image, [one for both in cells for one in both]))
    subtitle = counted(rows, "pair")
    sheet = Sheet(title, ("frame at t", *columns), rows, classes, CHANGES, subtitle=subtitle)
    return sheet.save(path)
