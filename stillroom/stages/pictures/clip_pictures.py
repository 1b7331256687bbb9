"""Pictures of a clip on which models were measured: curves, what changes, the flow, a film."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.evaluate.clip_flow import ClipFrame, FrameFlow
from stillroom.stages.evaluate.predict import SkippedFrame
from stillroom.stages.pictures.curve_chart import consistency_chart
from stillroom.stages.pictures.film import comparison_film
from stillroom.stages.pictures.pair_sheets import FramePair, consistency_sheet, flow_sheet
from stillroom.stages.sources.canvas import to_canvas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stillroom.stages.evaluate.clip_dataset import ClipDataset
    from stillroom.stages.evaluate.clip_scores import VideoScores

ROWS = 4
HELD = 4  # frames and pairs in memory: a film goes from one to the next


@dataclass(frozen=True)
class _ShownFrame:
    """A frame of the clip that can be shown.

    position: among the frames that models have predicted
    index: in the source
    follows: whether it follows the shown frame before it at once
    """

    position: int
    index: int
    follows: bool


class ClipPictures:
    """Draws the first clip that was measured.

    Its frames are those that models have predicted, all of one size, and are read again. Where one
    is missing between two of them nothing leads from one to the other, and nothing is visible.
    """

    def __init__(self, dataset: ClipDataset, scores: Mapping[str, VideoScores], title: str) -> None:
        """Find the frames of the clip.

        Args:
            dataset: what the models were measured on.
            scores: of the models by name, with their predictions kept.
            title: the first words of every picture.
        """
        self._dataset, self._scores = dataset, scores
        name = next(iter(scores.values())).clips[0].name
        self._title = f"{title}, clip {name}"
        self._shown = self._shown_frames(name)
        self._frame = lru_cache(HELD)(self._load_frame)
        self._pair = lru_cache(HELD)(self._load_pair)
        joined = [at for at, later in enumerate(self._shown[1:]) if later.follows]
        spread = np.linspace(0, len(joined) - 1, min(ROWS, len(joined))).round().astype(int)
        self._chosen = [joined[number] for number in spread.tolist()]

    def curves(self, path: Path) -> Path:
        """Draw how each model's consistency goes along the clip."""
        found = {name: scores.clips[0].consistency for name, scores in self._scores.items()}
        return consistency_chart(path, found, title=self._title)

    def changes(self, path: Path, classes: Sequence[str]) -> Path:
        """Draw what changes its class, in pairs spread evenly through the clip."""
        pairs = [self._pair(at) for at in self._chosen]
        return consistency_sheet(path, pairs, classes, title=self._title)

    def flow(self, path: Path) -> Path:
        """Draw the flow in the same pairs."""
        return flow_sheet(path, [self._pair(at) for at in self._chosen], title=self._title)

    def film(self, path: Path, classes: Sequence[str]) -> Path:
        """Write the whole clip as a film, the models side by side."""
        return comparison_film(path, self._pair, len(self._shown) - 1, classes, title=self._title)

    def _shown_frames(self, name: str) -> list[_ShownFrame]:
        """Of all sizes that frames of the clip have, those of the first pair's."""
        clip = next(clip for clip in self._dataset.clips if clip.name == name)
        read = [one for one in self._dataset.frames(clip) if not isinstance(one, SkippedFrame)]
        size = next(one.frame.valid for one in read if one.flow is not None)
        return [
            _ShownFrame(position, one.index, one.flow is not None)
            for position, one in enumerate(read)
            if one.frame.valid == size
        ]

    def _load_frame(self, index: int) -> ClipFrame:
        return ClipFrame(index, to_canvas(self._dataset.source.load(index), self._dataset.canvas))

    def _load_pair(self, at: int) -> FramePair:
        here, there = self._shown[at], self._shown[at + 1]
        now, later = self._frame(here.index), self._frame(there.index)
        if there.follows:
            between = self._dataset.flow.between(now, later)
        else:
            size = now.image.shape[:2]
            between = FrameFlow(
                torch.zeros(1, 2, *size), torch.zeros(1, 1, *size, dtype=torch.bool)
            )
        visible = None if between.visible is None else between.visible[0, 0].numpy()
        predictions = {
            name: (scores.predictions[here.position], scores.predictions[there.position])
            for name, scores in self._scores.items()
        }
        flow = between.flow[0].numpy()
        return FramePair(now.frame.frame_id, now.image, later.image, flow, visible, predictions)
