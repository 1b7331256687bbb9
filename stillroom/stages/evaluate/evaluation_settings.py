"""The section [evaluate] of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.stages.settings import Settings

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class VideoConfig(Settings):
    """The clips along which `stillroom eval --video` measures how steady a model is.

    Attributes:
        source: a source whose frames belong to clips; it needs no labels
        flow: a section of [flows], or "exact": the flow that the source itself knows (kind "demo")
        clips: the first so many at most, these by their names, or "all"
        frames: the first so many of a clip at most, or "all"
        occlusion: also measure what both frames show; the flow is then followed there and back
        path: folder in which flow is kept, for all models and all runs
    """

    source: str
    flow: str
    clips: Annotated[int, Field(ge=1)] | Literal["all"] | Names = 3
    frames: Annotated[int, Field(ge=2)] | Literal["all"] = 60
    occlusion: bool = True
    path: Path = Path("runs/flows")


class EvaluateConfig(LooksSettings):
    """What `stillroom eval` scores on, and the looks of a model at each frame.

    Attributes:
        source: a labelled source of the run file; it need not be cached
        size: "canvas" scores where students are trained, "own" at the labels' own size
        ignore: names of classes that no mean includes
        batch: frames predicted at once
        sheet_frames: rows of the picture of predictions
        video: clips, for `--video`
    """

    source: str
    size: Literal["canvas", "own"] = "canvas"
    ignore: tuple[str, ...] = ()
    batch: int = Field(default=4, gt=0)
    sheet_frames: int = Field(default=6, gt=0)
    video: VideoConfig | None = None
