"""A source that draws its own short street clips: no data needed, labels and motion exact."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stillroom.stages.settings import Settings


class DemoConfig(Settings):
    """Clips of a street seen from a moving car, drawn from a seed.

    Attributes:
        clips: number of clips; each has its own street, light and traffic.
        frames_per_clip: frames in each, at 10 Hz.
        seed: another seed, other clips. Clip k does not depend on how many clips there are.
        height: rows of a frame.
        width: columns of a frame.
        labelled: False hides the labels, for an unlabelled source of the same world.
    """

    kind: Literal["demo"] = "demo"
    clips: int = Field(default=8, ge=1, le=9999)
    frames_per_clip: int = Field(default=8, ge=1, le=60)
    seed: int = Field(default=0, ge=0, lt=2**63)
    height: int = Field(default=128, ge=16, le=2160)
    width: int = Field(default=192, ge=16, le=4096)
    labelled: bool = True
