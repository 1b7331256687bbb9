"""What the sections of all teachers have in common, whatever builds their network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, ValidationInfo

from stillroom.stages.models.model_settings import ModelSettings
from stillroom.storage_specs.errors import ConfigError

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)

Three = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


def _of_pixels(std: Three, info: ValidationInfo) -> Three:
    """Refuse values of libraries whose pixels are 0..1: nothing would fail, only be wrong."""
    mean = info.data.get("mean")  # is not there where it has a fault of its own
    if mean is not None and max(std) < 1 and max(mean) <= 1:
        raise ConfigError(
            f"mean {list(mean)} and std {list(std)} look like those of pixels in 0..1; they are of "
            "pixels in 0..255: multiply both by 255"
        )
    return std


Std = Annotated[Three, AfterValidator(_of_pixels)]
"""Standard deviation of R, G and B in 0..255; stands after a field `mean`."""

Classes = Annotated[tuple[str, ...], Field(min_length=1)] | PositiveInt


class TeacherSettings(ModelSettings):
    """How frames are brought to a teacher, and where it runs.

    Attributes:
        classes: names or number of its classes; left out, those of the run's first labelled source
        mean, std: of RGB in 0..255; the network gets (x - mean) / std
        pad: both sides are filled up with zeros (after normalising) to a multiple of it
        device: "auto" takes the first CUDA device, or the CPU
        precision: of the arithmetic, by autocast; artifacts are float32 before they are encoded
    """

    classes: Classes | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: Std = IMAGENET_STD
    pad: PositiveInt = 32
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"

    may_lack_classes: ClassVar[bool] = False
    """Whether a network of this kind may give other outputs than class logits."""

    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes, or None where only their number is known."""
        return self.classes if isinstance(self.classes, tuple) else None

    def num_classes(self) -> int:
        """Return the number of classes.

        Raises:
            ConfigError: neither names nor a number were given.
        """
        if self.classes is None:
            raise ConfigError("teacher: `classes` is not given; state their names, or their number")
        return len(self.classes) if isinstance(self.classes, tuple) else self.classes
