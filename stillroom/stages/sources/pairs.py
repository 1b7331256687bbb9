"""Pairs of frames whose flow is cached: each frame with neighbours before and after it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from stillroom.stages.settings import Settings
from stillroom.stages.sources.clip_times import time_near, times_of_clips, usual_step
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.source import Source

BACKWARD = -1  # in place of a draw, of a pair that leads from a neighbour to its frame


class PairsConfig(Settings):
    """The pairs of frames whose flow is cached.

    Every frame that is chosen gets neighbours before and after it, at distances that are drawn:
    the random sampling of Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks",
    PhD thesis, Adelaide 2021, section 5.3.4. Draws follow from the frame's name alone.

    Attributes:
        of: "labelled" chooses the frames with a label, or another target, or all frames of a source
            without any; "all"
        offsets: distances to a neighbour, in steps of the clip's time: 1 is the next frame
        draws: different neighbours of a frame on either side, as far as there are so many; left
            out, one at each of the offsets, so that every epoch draws anew among them
        back: cache the flow from neighbours to their frame too, from which hidden pixels follow
    """

    of: Literal["labelled", "all"] = "labelled"
    offsets: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1, 2, 3), min_length=1)
    draws: int | None = Field(default=None, gt=0)
    back: bool = True

    @field_validator("offsets")
    @classmethod
    def _offsets_differ(cls, offsets: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(offsets)) < len(offsets):
            raise ConfigError(f"offsets {list(offsets)}: each at most once")
        return tuple(sorted(offsets))


@dataclass(frozen=True, eq=False)
class PairPlan:
    """Pairs of a source's frames, in order of frame and partner; each is there once.

    Attributes:
        frame, partner: their indices: (P,) int64
        offset: steps of time from the frame to its partner: (P,) int32
        draw: which of the frame's neighbours on that side the partner is: (P,) int32, or BACKWARD
        chosen: how many frames have neighbours on both sides, which is what their draws are for
        lonely: how many would be chosen, and lack a neighbour at any of the offsets on one side
    """

    frame: NDArray[np.int64]
    partner: NDArray[np.int64]
    offset: NDArray[np.int32]
    draw: NDArray[np.int32]
    chosen: int
    lonely: int

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def sha256(self) -> str:
        """Fingerprint of the pairs, by the frames' places in their source."""
        digest = hashlib.sha256()
        for each in (self.frame, self.partner, self.offset, self.draw):
            digest.update(each.astype("<i8").tobytes())
        return digest.hexdigest()


def plan_pairs(source: Source, config: PairsConfig) -> PairPlan:
    """Choose the pairs of a source; the same on every machine.

    A frame at the end of a clip, or beside a gap, is paired at those offsets that lead to a frame;
    one that has none on one side is left out.

    Raises:
        ConfigError: two frames of a clip have one time.
    """
    unlabelled = source.classes is None and not source.label_count()
    every = config.of == "all" or unlabelled
    drawn: dict[tuple[int, int], tuple[int, int]] = {}  # (frame, partner): (offset, draw)
    chosen = lonely = 0
    for times in times_of_clips(source).values():
        ordered = list(times)
        step, jitter = usual_step(ordered)
        for time, frame in times.items():
            if not every and not source.labelled(frame):
                continue
            there = [
                [
                    (k, times[other])
                    for k in offsets
                    if (other := time_near(ordered, time + k * step, jitter)) is not None
                ]
                for offsets in _drawn_order(source.frame_ids[frame], config.offsets)
            ]
            if not all(there):
                lonely += 1
                continue
            chosen += 1
            for side in there:
                for draw, (offset, partner) in enumerate(side[: config.draws]):
                    drawn[frame, partner] = (offset, draw)
    return _plan(drawn, config.back, chosen, lonely)


def _drawn_order(frame_id: str, offsets: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Shuffle the offsets before a frame, below 0, and after it, by its name."""

    def drawn(offset: int) -> bytes:
        return hashlib.sha256(f"{frame_id}\n{offset}".encode()).digest()

    return sorted((-offset for offset in offsets), key=drawn), sorted(offsets, key=drawn)


def _plan(
    drawn: dict[tuple[int, int], tuple[int, int]], back: bool, chosen: int, lonely: int
) -> PairPlan:
    rows = dict(drawn)
    if back:
        for (frame, partner), (offset, _) in drawn.items():
            rows.setdefault((partner, frame), (-offset, BACKWARD))
    found = np.array([(*pair, *rows[pair]) for pair in sorted(rows)], np.int64).reshape(-1, 4)
    return PairPlan(
        frame=found[:, 0].copy(),
        partner=found[:, 1].copy(),
        offset=found[:, 2].astype(np.int32),
        draw=found[:, 3].astype(np.int32),
        chosen=chosen,
        lonely=lonely,
    )
