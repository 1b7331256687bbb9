"""A clip as some models see it: curves, what changes, the flow, a film. Frames are read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np

from stillroom.stages.evaluate.clip_flow import ClipFrame
from stillroom.stages.evaluate.predict import SkippedFrame
from stillroom.stages.pictures.consistency_sheet import (
    SteadyRow,
    consistency_chart,
    consistency_sheet,
)
from stillroom.stages.pictures.film import ComparedClip, comparison_film
from stillroom.stages.pictures.flow_sheet import FlowRow, flow_sheet
from stillroom.stages.sources.canvas import to_canvas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.clips import Clip
    from stillroom.stages.evaluate.footage import Footage, FootageScores

T = TypeVar("T")
ROWS = 4
HELD = 4  # frames and motions in memory: a film goes from one to the next


class _Made(Sequence[T]):
    """A sequence whose items are made when they are asked for."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        chosen = range(self._count)[index]
        return self._make(chosen) if isinstance(chosen, int) else [self._make(i) for i in chosen]


@dataclass(frozen=True)
class _Place:
    """A frame of the clip that can be shown.

    seen: its number among the frames that the models have seen
    index: in the source
    joined: whether it follows the place before at once
    """

    seen: int
    index: int
    joined: bool


class ClipPictures:
    """Draws the first clip that was measured.

    Its frames are those that the models have seen, all of one size. Where one is missing between
    two of them nothing leads from one to the other, and nothing counts as visible.
    """

    def __init__(self, footage: Footage, scores: Mapping[str, FootageScores], title: str) -> None:
        """Look through the clip.

        Args:
            footage: what the models were measured on.
            scores: of the models by name, with their predictions kept.
            title: the first words of every picture.
        """
        first = next(iter(scores.values())).clips[0].name
        self._footage, self._scores = footage, scores
        self._title = f"{title}, clip {first}"
        self._places = _places(footage, next(c for c in footage.clips if c.name == first))
        self._pairs = [at for at, place in enumerate(self._places[1:]) if place.joined]
        self._frame = lru_cache(HELD)(self._load)
        self._motion = lru_cache(HELD)(self._follow)

    def curves(self, path: Path) -> Path:
        """How each model's consistency goes along the clip."""
        found = {name: scores.clips[0].consistency for name, scores in self._scores.items()}
        return consistency_chart(path, found, title=self._title)

    def changes(self, path: Path, classes: Sequence[str]) -> Path:
        """What changes its class, in pairs spread evenly through the clip."""
        rows = []
        for at in self._chosen():
            now, later = (self._places[each].seen for each in (at, at + 1))
            said = {
                name: (scores.predictions[now], scores.predictions[later])
                for name, scores in self._scores.items()
            }
            here = self._frame(at)
            rows.append(SteadyRow(here.frame.frame_id, here.image, said, *self._motion(at)))
        return consistency_sheet(path, rows, classes, title=self._title)

    def flow(self, path: Path) -> Path:
        """The motion in the same pairs."""
        rows = []
        for at in self._chosen():
            now, later = self._frame(at), self._frame(at + 1)
            rows.append(FlowRow(now.frame.frame_id, now.image, later.image, *self._motion(at)))
        return flow_sheet(path, rows, title=self._title)

    def film(self, path: Path, classes: Sequence[str]) -> Path:
        """The whole clip, the models side by side."""
        seen = [place.seen for place in self._places]
        steps = len(self._places) - 1
        masked = len(self._pairs) < steps or self._motion(self._pairs[0])[1] is not None
        clip = ComparedClip(
            images=_Made(len(self._places), lambda at: self._frame(at).image),
            predictions={
                name: np.stack([scores.predictions[each] for each in seen])
                for name, scores in self._scores.items()
            },
            flows=_Made(steps, lambda at: self._motion(at)[0]),
            visible=_Made(steps, self._mask) if masked else None,
        )
        return comparison_film(path, clip, classes, title=self._title)

    def _chosen(self) -> list[int]:
        count = min(ROWS, len(self._pairs))
        spread = np.linspace(0, len(self._pairs) - 1, count).round().astype(int).tolist()
        return [self._pairs[each] for each in spread]

    def _load(self, at: int) -> ClipFrame:
        index = self._places[at].index
        return ClipFrame(index, to_canvas(self._footage.source.load(index), self._footage.canvas))

    def _follow(self, at: int) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        if not self._places[at + 1].joined:
            size = self._frame(at).image.shape[:2]
            return np.zeros((2, *size), np.float32), np.zeros(size, bool)
        step = self._footage.flow.step(self._frame(at), self._frame(at + 1))
        return step.flow[0].numpy(), None if step.visible is None else step.visible[0, 0].numpy()

    def _mask(self, at: int) -> NDArray[np.bool_]:
        flow, seen = self._motion(at)
        return np.ones(flow.shape[1:], bool) if seen is None else seen


def _places(footage: Footage, clip: Clip) -> list[_Place]:
    """Of all sizes that frames of the clip have, those of the first pair's."""
    found = [
        (moment.here.index, moment.here.frame.valid, moment.step is not None)
        for moment in footage.moments(clip)
        if not isinstance(moment, SkippedFrame)
    ]
    size = next(valid for _, valid, joined in found if joined)
    return [
        _Place(seen, index, joined)
        for seen, (index, valid, joined) in enumerate(found)
        if valid == size
    ]
