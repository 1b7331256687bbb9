"""What the rows of a set are made from: the frames of a source, or pairs of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from stillroom.stages.sources.canvas import CanvasFrame, to_canvas
from stillroom.stages.sources.pairs import BACKWARD
from stillroom.storage_specs.artifacts import CONFIDENCE, FLOW, FRAMES, PIXEL_CONFIDENCE
from stillroom.storage_specs.errors import FrameError
from stillroom.storage_specs.manifest import FrameRow, PairRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from stillroom.stages.sources.pairs import PairPlan
    from stillroom.stages.sources.source import Source

    Arrays = Mapping[str, NDArray[np.generic]]

Row = TypeVar("Row", bound=FrameRow)
RECENT = 16  # canvas frames of a clip that are kept: pairs come in order, and share frames


class Inputs(Protocol):
    """The inputs of a set's rows; threads may share them, and read them in any order."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Any:
        """Load what a model is given for a row.

        Raises:
            FrameError: it cannot be used; the message is the same on every machine.
            SourceUnavailable: it cannot be read now, and may be good.
        """

    def row(self, index: int) -> FrameRow:
        """Return a row of the manifest as it is before anything is read."""

    def finished_row(self, index: int, loaded: Any, arrays: Arrays) -> FrameRow:
        """Return it as it is once the input was loaded and arrays were made from it."""


@dataclass(frozen=True, eq=False)
class FrameInputs:
    """A row a frame of a source, each on its canvas."""

    source: Source
    canvas: tuple[int, int]

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> CanvasFrame:
        """Load a frame on its canvas."""
        return to_canvas(self.source.load(index), self.canvas)

    def row(self, index: int) -> FrameRow:
        """Return place and name."""
        return FrameRow(index, self.source.frame_ids[index])

    def finished_row(self, index: int, loaded: CanvasFrame, arrays: Arrays) -> FrameRow:
        """Add valid area, checksum of the pixels, and the mean confidence where there is one.

        A row with targets has the reasons why some cannot be used; what needs none does not care.
        """
        row = _of_pixels(self.row(index), loaded)
        if FRAMES in arrays:
            row = replace(row, reason=loaded.reason)
        return replace(row, confidence=mean_confidence(arrays, loaded))


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
class PairInputs:
    """A row a pair of a source's frames.

    Attributes:
        limit: pixels; a displacement that long was cut to what its codec holds
    """

    source: Source
    canvas: tuple[int, int]
    plan: PairPlan
    limit: float = float("inf")
    _frame: Callable[[int], CanvasFrame] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        frames = FrameInputs(self.source, self.canvas)
        object.__setattr__(self, "_frame", lru_cache(RECENT)(frames.load))

    def __len__(self) -> int:
        return len(self.plan)

    def __reduce__(self) -> tuple[type[PairInputs], tuple[Any, ...]]:
        return PairInputs, (self.source, self.canvas, self.plan, self.limit)

    def load(self, index: int) -> CanvasPair:
        """Load both frames of a pair; FrameError also where they fill the canvas differently."""
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

    def row(self, index: int) -> PairRow:
        """Return place, names, distance in time and draw."""
        ids, draw = self.source.frame_ids, int(self.plan.draw[index])
        return PairRow(
            index,
            ids[int(self.plan.frame[index])],
            partner=ids[int(self.plan.partner[index])],
            offset=int(self.plan.offset[index]),
            draw=None if draw == BACKWARD else draw,
        )

    def finished_row(self, index: int, loaded: CanvasPair, arrays: Arrays) -> PairRow:
        """Add valid area, checksums of both frames' pixels, and how much of the flow was cut."""
        reached = np.abs(arrays[FLOW]) >= self.limit
        clipped = int(reached.any(axis=0).sum())
        row = _of_pixels(self.row(index), loaded.frame)
        return replace(row, partner_crc32c=loaded.partner.crc32c(), clipped=clipped)


def _of_pixels(row: Row, frame: CanvasFrame) -> Row:
    """Add valid area and checksum."""
    height, width = frame.valid
    return replace(row, valid_height=height, valid_width=width, crc32c=frame.crc32c())


def mean_confidence(arrays: Arrays, frame: CanvasFrame) -> float | None:
    """Average the confidence over the frame's valid area; None where none is cached."""
    confidence = arrays.get(CONFIDENCE, arrays.get(PIXEL_CONFIDENCE))
    if confidence is None:
        return None
    rows = -(-confidence.shape[0] * frame.valid[0] // frame.image.shape[0])
    columns = -(-confidence.shape[1] * frame.valid[1] // frame.image.shape[1])
    return float(confidence[:rows, :columns].mean(dtype=np.float64))
