"""What the sections of all students have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.task_heads import HeadsConfig, SegmentationHead
from stillroom.stages.models.teacher_settings import IMAGENET_MEAN, IMAGENET_STD, Std
from stillroom.stages.settings import KindSettings

if TYPE_CHECKING:
    from stillroom.stages.models.task_heads import HeadSettings


class StudentSettings(KindSettings):
    """How images are brought to a student, and what it starts from.

    Attributes:
        weights: state_dict of the whole network to start from, as `stillroom train` exports it
        weights_key: where in that file they are, if it holds several such networks
        mean, std: of RGB in 0..255; the network gets (x - mean) / std
        options: further arguments of what builds the network
        widths: channels of layers by name, of a network that `stillroom prune` has made narrower
        heads: what it learns, by task; segmentation alone if left out
    """

    weights: Path | None = None
    weights_key: WeightsKey = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: Std = IMAGENET_STD
    options: dict[str, Any] = Field(default_factory=dict)
    widths: dict[str, tuple[PositiveInt, ...]] | None = None
    heads: HeadsConfig | None = None

    def by_task(self) -> dict[str, HeadSettings]:
        """Return its heads, the network's own first."""
        if self.heads is None:
            return {SegmentationHead.task: SegmentationHead()}
        return self.heads.by_task()

    def learns_classes(self) -> bool:
        """Whether one of its heads tells the classes of labels apart."""
        return self.heads is None or self.heads.segmentation is not None
