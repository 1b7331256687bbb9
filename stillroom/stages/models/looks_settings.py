"""How often, and how, a model looks at a frame."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from stillroom.stages.settings import Settings

Scale = Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)]
Side = Annotated[StrictInt, Field(ge=1)]


class LooksSettings(Settings):
    """A mean over several looks at a frame.

    Attributes:
        flip: look at the mirror image as well
        scales: sizes to look at, as factors of the frame's own
        tile: (height, width) of a window that slides over the frame at each scale; the whole frame
            if left out
        overlap: share of a window that the next one covers again, at least
    """

    flip: bool = False
    scales: tuple[Scale, ...] = Field(default=(1.0,), min_length=1)
    tile: tuple[Side, Side] | None = None
    overlap: float = Field(default=1 / 3, ge=0, lt=1)

    def several(self) -> bool:
        """Whether this is more than one look at the frame as it is."""
        return self.flip or self.scales != (1.0,) or self.tile is not None
