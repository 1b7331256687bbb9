"""What the sections of all teachers have in common, whatever builds their network."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    StrictInt,
    ValidationInfo,
    model_validator,
)

from stillroom.stages.class_lists import listed
from stillroom.stages.models.class_mapping import Groups, groups_of
from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.stages.models.model_settings import ModelSettings
from stillroom.storage_specs.errors import ConfigError

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)

Three = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


def _of_pixels(std: Three, info: ValidationInfo) -> Three:
    """Refuse values of libraries whose pixels are 0..1: nothing would fail, only be wrong."""
    mean = info.data.get("mean")  # is not there where it has a fault of its own
    if info.data.get("scale", 1) == 1 and mean is not None and max(std) < 1 and max(mean) <= 1:
        raise ConfigError(
            f"mean {list(mean)} and std {list(std)} look like those of pixels in 0..1; they are of "
            "pixels in 0..255: multiply both by 255"
        )
    return std


Std = Annotated[Three, AfterValidator(_of_pixels)]
"""Standard deviation of R, G and B in 0..255; stands after a field `mean`."""

Classes = Annotated[
    Annotated[tuple[str, ...], Field(min_length=1)] | PositiveInt | None, BeforeValidator(listed)
]


def _one_or_more(of: Any) -> Any:
    return (of,) if isinstance(of, str | int) else of


OwnClasses = Annotated[tuple[str | StrictInt, ...], BeforeValidator(_one_or_more)]
"""Classes of a teacher, by name or number."""


class TeacherSettings(LooksSettings, ModelSettings):
    """How frames are brought to a teacher, and where it runs.

    A network gets (x * scale - mean) / std of RGB pixels x in 0..255, its channels in the order of
    `channels`.

    Attributes:
        classes: names or number of its classes, or the name of a list (`CLASS_LISTS`); left out,
            those of the run's first labelled source
        binary: its network has one channel z, before a sigmoid, for two classes: z is the logit of
            the second one, 0 that of the first
        mapping: every class of the run -> those of its classes that are one; None where its
            classes are the run's
        mapping_drop: those of its classes that are none of the run's
        channels: their order in the network's input; `mean` and `std` are of R, G, B all the same
        scale: factor on the pixels; `mean` and `std` are then those of scaled pixels
        normalize: False: the network gets x * scale
        mean, std: of R, G and B; in 0..255, unless there is a `scale`
        size: (height, width) that the canvas frame is resized to, smoothed where it shrinks; None
            shows the canvas as it is
        resample: how it is resized
        flip, scales, tile, overlap: looks at each frame (`LooksSettings`), whose mean the logits
            are; other outputs are of the frame as it is
        pad: both sides are filled up with zeros (after normalising) to a multiple of it; 1 where
            there is a `size`
        device: "auto" takes the first CUDA device, or the CPU
        precision: of the arithmetic, by autocast; artifacts are float32 before they are encoded
    """

    classes: Classes = None
    binary: bool = False
    mapping: dict[str, OwnClasses] | None = None
    mapping_drop: OwnClasses = ()
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1.0
    normalize: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: Std = IMAGENET_STD
    size: tuple[PositiveInt, PositiveInt] | None = None
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    pad: PositiveInt = 32
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"

    added: ClassVar[tuple[str, ...]] = (
        "binary", "mapping", "mapping_drop", "channels", "scale", "normalize", "size", "resample",
        "flip", "scales", "tile", "overlap",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _a_size_is_not_padded(cls, section: Any) -> Any:
        if isinstance(section, dict) and section.get("size") is not None and "pad" not in section:
            return {**section, "pad": 1}
        return section

    @model_validator(mode="after")
    def _input_is_of_one_mind(self) -> Self:
        if self.size is not None and any(side % self.pad for side in self.size):
            raise ConfigError(
                f"size {list(self.size)} is what the network gets, and pad = {self.pad} does not "
                "divide it; leave `pad` out, or give a size that it divides"
            )
        if self.size is None and "resample" in self.model_fields_set:
            raise ConfigError("resample: says how frames come to a `size`, and there is none")
        stated = self.model_fields_set & {"mean", "std"}
        if not self.normalize and stated:
            raise ConfigError(
                f"normalize = false: {' and '.join(sorted(stated))} would do nothing; leave out"
            )
        if not self.normalize and "scale" not in self.model_fields_set:
            raise ConfigError(
                "normalize = false: give the `scale` of the pixels, 1 for a network that takes "
                f"0..255, {1 / 255} (1 / 255) for 0..1"
            )
        if self.normalize and self.scale != 1 and len(stated) < 2:
            raise ConfigError(
                f"scale = {self.scale}: mean and std are then of scaled pixels; give both (those "
                "of a processor's file as they stand there), or normalize = false"
            )
        if self.channels == "bgr" and _is_reversed(self.mean, self.scale):
            raise ConfigError(
                f"mean {list(self.mean)} looks like one of B, G, R; mean and std are of R, G, B, "
                'also with channels = "bgr": turn both round'
            )
        return self

    @model_validator(mode="after")
    def _looks_can_be_taken(self) -> Self:
        if self.size is not None and (self.scales != (1.0,) or self.tile is not None):
            raise ConfigError(
                f"size {list(self.size)} is what the network gets, whatever the look: leave "
                "`scales` and `tile` out, or `size`"
            )
        if self.tile is None and "overlap" in self.model_fields_set:
            raise ConfigError("overlap: says how windows of a `tile` overlap, and there is none")
        return self

    def completed(self) -> Self:
        """Return the section with what the network's own files say of its input, if they do."""
        return self

    def placed(self, device: str) -> Self:
        """Return the section, on this device where it leaves the choice."""
        return self.model_copy(update={"device": device}) if self.device == "auto" else self

    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of pixels 0..255 that the input is made with, in its order."""
        mean = [each / self.scale for each in self.mean] if self.normalize else [0.0] * 3
        std = [(each if self.normalize else 1.0) / self.scale for each in self.std]
        step = -1 if self.channels == "bgr" else 1
        return tuple(mean[::step]), tuple(std[::step])

    @property
    def may_lack_classes(self) -> bool:
        """Whether the network may give other outputs than class logits, and none of these."""
        return False

    @model_validator(mode="after")
    def _every_class_is_mapped_once(self) -> Self:
        if self.classes is not None:
            self.num_channels()
        if self.mapping is not None:
            if self.classes is None:
                raise ConfigError("mapping: give the teacher's own `classes`, names or number")
            self.groups()
        elif self.mapping_drop:
            raise ConfigError("mapping_drop: there is no `mapping` that could lack these")
        return self

    def groups(self) -> Groups | None:
        """Return the channels of each class of the run, in the order of `mapping`; None without."""
        if self.mapping is None:
            return None
        return groups_of(self.classes or 0, self.mapping, self.mapping_drop)

    def mapped(self) -> Self:
        """Return the section as the run sees it: its classes are the run's."""
        if self.mapping is None:
            return self
        seen = {"classes": tuple(self.mapping), "mapping": None, "mapping_drop": ()}
        return self.model_copy(update=seen)

    def identity(self) -> dict[str, Any]:
        """Return what decides the output; of the mapping its numbers, for no byte has a name."""
        found = super().identity()
        groups = self.groups()
        if groups is not None:
            found.pop("mapping_drop", None)
            found["mapping"] = [list(of) for of in groups]
        return found

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

    def num_channels(self) -> int:
        """Return how many channels the network itself has for its classes.

        Raises:
            ConfigError: as `num_classes`; or it is binary, and its classes are not two.
        """
        classes = self.num_classes()
        if self.binary and classes != 2:
            raise ConfigError(
                f"binary = true: one channel is two classes, and `classes` are {classes}; give "
                'both names, that which a high value means second: ["background", "object"]'
            )
        return 1 if self.binary else classes


def _is_reversed(mean: tuple[float, float, float], scale: float) -> bool:
    """Whether a mean is ImageNet's from B to R, as networks for BGR are published with."""
    pixels = [each / scale for each in mean]
    return all(abs(a - b) <= 1 for a, b in zip(pixels, IMAGENET_MEAN[::-1], strict=True))
