"""A source of views of another one's frames: what a teacher sees whole, mirrored or enlarged.

Artifacts of a view are the teacher's own, where those of a frame that are cut, enlarged or mirrored
later only come near them. A view is of the frame's own size and lies inside it, so that it adds no
padding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from stillroom.stages.seeds import generator
from stillroom.stages.sources.source_settings import SourceSettings
from stillroom.stages.view import ViewConfig, sample_view
from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from stillroom.stages.sources.source import Frame, Source
    from stillroom.stages.view import View


class ViewsConfig(SourceSettings):
    """Views of another source's frames.

    Attributes:
        of: the other source
        count: views of each frame
        scale: (lowest, highest) enlargement, drawn uniformly; the window lies anywhere in the frame
        flip: mirror left to right half of the views, or "always"
        seed: with a frame's name and the number of the view, the origin of what is drawn
    """

    kind: Literal["views"]
    of: str
    count: int = Field(default=1, gt=0)
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool | Literal["always"] = False
    seed: int = Field(default=0, ge=0, lt=2**63)

    _frames: SourceSettings | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _views_differ(self) -> Self:
        low, high = self.scale
        if not 1 <= low <= high < float("inf"):
            raise ConfigError(
                f"scale: expected (lowest, highest) of 1 and above, got {[low, high]}: a smaller "
                "view would be padded"
            )
        still = high == 1 and (self.flip is not True)
        if still and (self.count > 1 or not self.flip):
            raise ConfigError(
                "the views of a frame would be alike; give a scale, or flip, "
                'or count = 1 and flip = "always"'
            )
        return self

    def shown(self, frames: SourceSettings) -> Self:
        """Return the section with that of the source whose frames are shown."""
        found = self.model_copy()
        found._frames = frames
        return found

    @property
    def frames(self) -> SourceSettings:
        """The section of the other source, which its run file brings."""
        if self._frames is None:
            raise ConfigError(f"views of {self.of!r}: this source is known by its run file alone")
        return self._frames

    def folders(self) -> tuple[Path, ...]:
        """Return the other source's."""
        return self.frames.folders()

    def further_targets(self) -> tuple[str, ...]:
        """Return the other source's."""
        return self.frames.further_targets()

    def box_classes(self) -> tuple[str, ...] | None:
        """Return the other source's."""
        return self.frames.box_classes()

    def most_boxes(self) -> int:
        """Return the other source's."""
        return self.frames.most_boxes()

    def stated(self) -> dict[str, Any]:
        """Return what the other source states, and the draw."""
        return {**self.frames.stated(), "views": self.draw()}

    def draw(self) -> dict[str, Any]:
        """Return what, with the frames' names, decides every view."""
        return self.model_dump(mode="json", include={"count", "scale", "flip", "seed"})


class Views:
    """The views, those of a frame one after the other; they are of no clip."""

    def __init__(self, config: ViewsConfig, source: Source) -> None:
        self._config, self._source = config, source
        self._ids = tuple(
            f"{name}@{view}" for name in source.frame_ids for view in range(config.count)
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the label values; None where the frames are unlabelled."""
        return self._source.classes

    @property
    def frame_ids(self) -> tuple[str, ...]:
        """Names such as `0001TP_006690@3`: the fourth view of a frame."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def position(self, index: int) -> tuple[str | None, int | None]:
        """Return (None, None): neighbours of a view in time are seen otherwise."""
        return None, None

    def labelled(self, index: int) -> bool:
        """Tell whether the frame has a label."""
        return self._source.labelled(index // self._config.count)

    def label_count(self) -> int:
        """Count the views of frames with one."""
        return self._source.label_count() * self._config.count

    def load(self, index: int) -> Frame:
        """Read a frame and show its view."""
        frame = self._source.load(index // self._config.count)
        view = self.view(index, (frame.image.shape[0], frame.image.shape[1]))
        return replace(
            frame,
            frame_id=self._ids[index],
            image=_seen(view, frame.image, "frames"),
            label=None if frame.label is None else _seen(view, frame.label, "labels"),
            targets={name: _seen(view, one, name) for name, one in frame.targets.items()},
        )

    def view(self, index: int, size: tuple[int, int]) -> View:
        """Draw a view of a frame of (height, width): a function of the seed and its name."""
        config = self._config
        drawn = ViewConfig(scale=config.scale, flip=bool(config.flip))
        view = sample_view(drawn, size, generator(config.seed, self._ids[index], "view"))
        return replace(view, flip=True) if config.flip == "always" else view

    def identity(self) -> dict[str, Any]:
        """Return the other source's, and the draw."""
        return {**self._source.identity(), "views": self._config.draw()}


def _seen(view: View, array: NDArray[Any], name: str) -> NDArray[Any]:
    """Bring an array of a frame to a view, in its own type."""
    import torch  # listing a source must not wait for it

    from stillroom.stages.geometry import apply_artifact

    made = apply_artifact(view, torch.from_numpy(array), ARTIFACTS[name])
    if name == "frames":
        made = made.permute(1, 2, 0).round()
    seen: NDArray[np.generic] = made.numpy().astype(array.dtype).reshape(array.shape)
    return seen
