"""A source that draws its own short street clips: no data needed, all that labels them exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from stillroom.stages.scenes.boxes import boxes_of
from stillroom.stages.scenes.classes import CLASSES, THING_NAMES
from stillroom.stages.scenes.draw import draw
from stillroom.stages.scenes.scene import DRAWING, Scene, build_scene
from stillroom.stages.scenes.scene_flow import flow_between
from stillroom.stages.scenes.surfaces import depth_and_normals
from stillroom.stages.sources.box_files import padded
from stillroom.stages.sources.source import Frame
from stillroom.stages.sources.source_settings import SourceSettings
from stillroom.storage_specs.artifacts import BOXES, DEPTH, IGNORE, NORMALS
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BOXES = 96


class DemoConfig(SourceSettings):
    """Clips of a street seen from a moving car, drawn from a seed.

    Attributes:
        clips: number of clips; each has its own street, light and traffic.
        frames_per_clip: frames in each, at 10 Hz.
        seed: another seed, other clips. Clip k does not depend on how many clips there are.
        height: rows of a frame.
        width: columns of a frame.
        labelled: False hides the labels, for an unlabelled source of the same world.
        label_every: one frame in so many has its label, from the middle of the first so many on:
            of a clip's 8 frames that at time 4, where this is 8; and its further targets.
        targets: what labels a frame beside its classes: "depth", "normals", "boxes" of its cars,
            people and signs.
    """

    kind: Literal["demo"] = "demo"
    clips: int = Field(default=8, ge=1, le=9999)
    frames_per_clip: int = Field(default=8, ge=1, le=60)
    seed: int = Field(default=0, ge=0, lt=2**63)
    height: int = Field(default=128, ge=16, le=2160)
    width: int = Field(default=192, ge=16, le=4096)
    labelled: bool = True
    label_every: int = Field(default=1, ge=1)
    targets: tuple[Literal["depth", "normals", "boxes"], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.label_every > self.frames_per_clip:
            raise ValueError(
                f"label_every {self.label_every} leaves clips of {self.frames_per_clip} frames "
                "without a label; for none at all, labelled = false"
            )
        if self.label_every > 1 and not (self.labelled or self.targets):
            raise ValueError("label_every chooses among labels, and labelled = false hides them")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets {list(self.targets)}: each at most once")
        return self

    def further_targets(self) -> tuple[str, ...]:
        """Return those that are asked for."""
        return self.targets

    def box_classes(self) -> tuple[str, ...] | None:
        """Return what has boxes, if they are asked for."""
        return THING_NAMES if BOXES in self.targets else None

    def most_boxes(self) -> int:
        """Return more than a street ever shows."""
        return MOST_BOXES if BOXES in self.targets else 0

    def stated(self) -> dict[str, Any]:
        """Return the config and the drawing's version: together they decide every byte."""
        stated = self.model_dump(mode="json")
        if self.label_every == 1:  # as it was before frames could lack one
            del stated["label_every"]
        if not self.targets:
            del stated["targets"]
        classes = list(CLASSES) if self.labelled else None
        return {**stated, "drawing": DRAWING, "classes": classes}


class DemoSource:
    """The drawn clips as a source, with the exact flow from each frame to the next."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self._ids = tuple(
            f"clip{clip:04d}_{time:02d}"
            for clip in range(config.clips)
            for time in range(config.frames_per_clip)
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the label values; None when the labels are hidden."""
        return CLASSES if self.config.labelled else None

    @property
    def frame_ids(self) -> tuple[str, ...]:
        """Names such as `clip0003_07`: clip 3, time 7."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def position(self, index: int) -> tuple[str | None, int | None]:
        """Return clip and time of a frame."""
        name, time = self._ids[index].split("_")
        return name, int(time)

    def labelled(self, index: int) -> bool:
        """Tell whether the frame has its label, or its further targets."""
        every = self.config.label_every
        some = self.config.labelled or bool(self.config.targets)
        return some and self._time(index) % every == every // 2

    def label_count(self) -> int:
        """Count the frames with a label."""
        return sum(map(self.labelled, range(len(self))))

    def load(self, index: int) -> Frame:
        """Draw one frame."""
        drawn = draw(self._scene(index), self._time(index))
        label = drawn.label if self.config.labelled else None
        if label is not None and not self.labelled(index):
            label = np.full_like(label, IGNORE)
        return Frame(self._ids[index], drawn.image, label, targets=self._targets(index))

    def _targets(self, index: int) -> dict[str, NDArray[np.float32]]:
        made: dict[str, NDArray[np.float32]] = {}
        there = np.float32(self.labelled(index))
        scene, time = self._scene(index), self._time(index)
        if {DEPTH, NORMALS} & {*self.config.targets}:
            depth, normals = depth_and_normals(scene, time)
            made |= {DEPTH: depth * there, NORMALS: normals * there}
        if BOXES in self.config.targets:
            made[BOXES] = padded(boxes_of(scene, time), MOST_BOXES) * there
        return {name: made[name] for name in self.config.targets}

    def flow(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return where each pixel of a frame goes in the next one, and whether it is visible there.

        Returns:
            float32 (2, H, W): u to the right and v down, in pixels, exact also where the target
            is hidden or outside.
            bool (H, W): True where all four pixels around the target show the same surface with
            the same label, so that warping the next frame back meets nothing else. Points whose
            target lies within a pixel of an outline count as hidden.

        Raises:
            FrameError: the frame is the last of its clip.
        """
        time = self._time(index)
        if time + 1 == self.config.frames_per_clip:
            raise FrameError(f"{self._ids[index]}: the last frame of a clip has no next frame")
        return flow_between(self._scene(index), time, time + 1)

    def identity(self) -> dict[str, Any]:
        """Return what the config states: it decides every byte."""
        return self.config.stated()

    def _scene(self, index: int) -> Scene:
        config = self.config
        clip = range(len(self))[index] // config.frames_per_clip
        return build_scene(config.seed, clip, config.height, config.width)

    def _time(self, index: int) -> int:
        return range(len(self))[index] % self.config.frames_per_clip
