"""What a set is made from, one row after the other: the frames of a source, or pairs of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import google_crc32c
import numpy as np

from stillroom.stages.cache.artifacts_of_teacher import mean_confidence
from stillroom.stages.sources.canvas import CanvasFrame, to_canvas
from stillroom.stages.sources.pairs import BACKWARD
from stillroom.storage_specs.errors import FrameError
from stillroom.storage_specs.manifest import FrameRow, PairRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from stillroom.stages.sources.pairs import PairPlan
    from stillroom.stages.sources.source import Source

    Arrays = Mapping[str, NDArray[np.generic]]

RECENT = 16  # canvas frames of a clip that are kept: pairs come in order, and share frames


class Items(Protocol):
    """What the rows of a set are made from; from any thread, in any order."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Any:
        """What a model is shown for a row.

        Raises:
            FrameError: it cannot be used; the message is the same on every machine.
            SourceUnavailable: it cannot be read now, and may be good.
        """

    def row(self, index: int) -> FrameRow:
        """What the manifest says of a row before anything is read."""

    def made(self, index: int, item: Any, arrays: Arrays) -> FrameRow:
        """What it says of a row that was loaded, and of what a model made from it."""


@dataclass(frozen=True, eq=False)
class FrameItems:
    """A row a frame of a source, each on its canvas."""

    source: Source
    canvas: tuple[int, int]

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> CanvasFrame:
        """A frame on its canvas."""
        return to_canvas(self.source.load(index), self.canvas)

    def row(self, index: int) -> FrameRow:
        """Place and name."""
        return FrameRow(index, self.source.frame_ids[index])

    def made(self, index: int, item: CanvasFrame, arrays: Arrays) -> FrameRow:
        """Valid area, checksum of the pixels, and the mean confidence where there is one."""
        return FrameRow(
            index,
            item.frame_id,
            valid_height=item.valid[0],
            valid_width=item.valid[1],
            crc32c=_crc32c(item),
            confidence=mean_confidence(dict(arrays), item),
        )


@dataclass(frozen=True, eq=False)
class CanvasPair:
    """Two frames of a clip on one canvas."""

    frame: CanvasFrame
    partner: CanvasFrame

    @property
    def frame_id(self) -> str:
        """Both names: no other pair of the source has them."""
        return f"{self.frame.frame_id} > {self.partner.frame_id}"


@dataclass(frozen=True, eq=False)
class PairItems:
    """A row a pair of a source's frames.

    limit: pixels; a displacement that long was cut to what its codec holds
    """

    source: Source
    canvas: tuple[int, int]
    plan: PairPlan
    limit: float = float("inf")
    _recent: OrderedDict[int, CanvasFrame] = field(default_factory=OrderedDict, init=False)
    _lock: Any = field(default_factory=Lock, init=False)

    def __len__(self) -> int:
        return len(self.plan)

    def __reduce__(self) -> tuple[type[PairItems], tuple[Any, ...]]:
        return PairItems, (self.source, self.canvas, self.plan, self.limit)

    def load(self, index: int) -> CanvasPair:
        """Both frames of a pair; FrameError also where they fill the canvas differently."""
        pair = CanvasPair(
            self._frame(int(self.plan.frame[index])), self._frame(int(self.plan.partner[index]))
        )
        if pair.frame.valid != pair.partner.valid:
            raise FrameError(
                f"{pair.frame.frame_id} and {pair.partner.frame_id} differ in shape: they fill "
                "{}x{} and {}x{} pixels of the canvas, and there is no motion between them".format(
                    *pair.frame.valid, *pair.partner.valid
                )
            )
        return pair

    def _frame(self, index: int) -> CanvasFrame:
        with self._lock:
            if index in self._recent:
                self._recent.move_to_end(index)
                return self._recent[index]
        frame = to_canvas(self.source.load(index), self.canvas)
        with self._lock:
            self._recent[index] = frame
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return frame

    def row(self, index: int) -> PairRow:
        """Place, names, distance in time and draw."""
        ids, draw = self.source.frame_ids, int(self.plan.draw[index])
        return PairRow(
            index,
            ids[int(self.plan.frame[index])],
            partner=ids[int(self.plan.partner[index])],
            offset=int(self.plan.offset[index]),
            draw=None if draw == BACKWARD else draw,
        )

    def made(self, index: int, item: CanvasPair, arrays: Arrays) -> PairRow:
        """Valid area, checksums of both frames' pixels, and how much of the flow was cut."""
        row = self.row(index)
        reached = np.abs(arrays["flow"]) >= self.limit
        return PairRow(
            row.index,
            row.frame_id,
            valid_height=item.frame.valid[0],
            valid_width=item.frame.valid[1],
            crc32c=_crc32c(item.frame),
            partner=row.partner,
            offset=row.offset,
            draw=row.draw,
            partner_crc32c=_crc32c(item.partner),
            clipped=int(reached.any(axis=0).sum()),
        )


def _crc32c(frame: CanvasFrame) -> int:
    return int(google_crc32c.value(np.ascontiguousarray(frame.image).tobytes()))
