"""What the sections of all students have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.teacher_settings import IMAGENET_MEAN, IMAGENET_STD, Std
from stillroom.stages.settings import KindSettings


class StudentSettings(KindSettings):
    """How images are brought to a student, and what it starts from.

    Attributes:
        weights: state_dict of the whole network to start from, as `stillroom train` exports it
        weights_key: where in that file they are, if it holds several such networks
        mean, std: of RGB in 0..255; the network gets (x - mean) / std
        options: further arguments of what builds the network
    """

    weights: Path | None = None
    weights_key: WeightsKey = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: Std = IMAGENET_STD
    options: dict[str, Any] = Field(default_factory=dict)
