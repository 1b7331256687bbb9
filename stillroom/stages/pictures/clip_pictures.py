"""Pictures of a clip on which models were measured: curves, what changes, the flow, a film."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.evaluate.clip_flow import ClipFrame, FrameFlow
from stillroom.stages.evaluate.predict import SkippedFrame
from stillroom.stages.pictures.curve_chart import consistency_chart
from stillroom.stages.pictures.film import comparison_film
from stillroom.stages.pictures.pair_sheets import FramePair, consistency_sheet, flow_sheet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from stillroom.stages.evaluate.clip_dataset import Clip, ClipDataset
    from stillroom.stages.evaluate.clip_scores import VideoScores

ROWS = 4
CURVES, CHANGES, FLOW, FILM = "consistency.png", "changes.png", "flow.png", "film.mp4"


def draw_clip(
    folder: Path,
    dataset: ClipDataset,
    scores: Mapping[str, VideoScores],
    classes: Sequence[str],
    title: str,
) -> None:
    """Draw the first clip that was measured, whose frames are read again.

    Args:
        folder: of the pictures.
        dataset: what the models were measured on.
        scores: of the models by name, with their predictions kept.
        classes: names of the classes 0..C-1.
        title: the first words of every picture.
    """
    clips = {name: one.clips[0] for name, one in scores.items()}
    name = next(iter(clips.values())).name
    title = f"{title}, clip {name}"
    clip = next(clip for clip in dataset.clips if clip.name == name)
    pairs = partial(_pairs, dataset, clip, scores)
    joined = [at for at, pair in enumerate(pairs()) if pair.visible is None or pair.visible.any()]
    spread = np.linspace(0, len(joined) - 1, min(ROWS, len(joined))).round().astype(int)
    chosen = {joined[number] for number in spread.tolist()}
    shown = [pair for at, pair in enumerate(pairs()) if at in chosen]
    curves = {model: one.consistency for model, one in clips.items()}
    consistency_chart(folder / CURVES, curves, title=title)
    consistency_sheet(folder / CHANGES, shown, classes, title=title)
    flow_sheet(folder / FLOW, shown, title=title)
    comparison_film(folder / FILM, pairs, classes, title=title)


def _pairs(
    dataset: ClipDataset, clip: Clip, scores: Mapping[str, VideoScores]
) -> Iterator[FramePair]:
    """Each frame with the next one; of all sizes, those of the first two that follow each other.

    Where a frame is missing between them nothing leads from one to the other, and nothing is
    visible.
    """
    first = next(one for one in _read(dataset, clip) if one.flow is not None)
    before: tuple[int, ClipFrame] | None = None
    for later, here in enumerate(_read(dataset, clip)):
        if here.frame.valid != first.frame.valid:
            continue
        if before is not None:
            now, there = before
            size, between = here.image.shape[:2], here.flow
            if between is None:
                between = FrameFlow(torch.zeros(1, 2, *size), torch.zeros(1, 1, *size).bool())
            visible = None if between.visible is None else between.visible[0, 0].numpy()
            predictions = {
                model: (one.predictions[now], one.predictions[later])
                for model, one in scores.items()
            }
            flow = between.flow[0].numpy()
            yield FramePair(
                there.frame.frame_id, there.image, here.image, flow, visible, predictions
            )
        before = later, here


def _read(dataset: ClipDataset, clip: Clip) -> Iterator[ClipFrame]:
    return (one for one in dataset.frames(clip) if not isinstance(one, SkippedFrame))
