"""FAKD's terms: distillation of a student with features augmented by class statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.losses.augmented import Augmentation, CovarianceOf, VarianceOver
from stillroom.stages.train.terms.class_covariance import ClassCovariance
from stillroom.stages.train.terms.class_moments import read_class_moments
from stillroom.stages.train.terms.logits import LogitsTerm
from stillroom.storage_specs.artifacts import LABELS
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import Seen, Sizes

LAYER = "penultimate"  # what the classifier reads
Ramp = Literal["cosine", "linear", "constant"]


class AugmentedTerm(LogitsTerm):
    """What both bounds have in common.

    Reads the teacher's logits, and labels or the teacher's pseudo labels: for the class of each
    cell, whose features enter the statistics of that class before the loss is computed.

    strength: lambda at the end of its ramp
    ramp: how it comes there from 0 over the training: as (1 - cos(pi x)) / 2 of what is done, the
        paper's; linear, as in ISDA; "constant": it is there at once
    start: moments by class to begin with, as `stillroom cache stats --features LAYER --out FILE`
        writes them; they count as the cells they were taken from, a pass over the cache. Only for
        students with as many channels before the classifier as that layer has
    start_set: "<source>/<teacher>" in that file, where it holds several
    """

    strength: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    ramp: Ramp = "cosine"
    start: Path | None = None
    start_set: str | None = None

    @model_validator(mode="after")
    def _set_is_of_a_file(self) -> AugmentedTerm:
        if self.start_set is not None and self.start is None:
            raise ValueError("start_set names a set in a file: give the file as start")
        return self

    def reads(self, labelled: bool) -> frozenset[str]:
        """The teacher's logits; labels, or without them its pseudo labels."""
        return super().reads(labelled) | {LABELS if labelled else self.key("pseudo_label")}

    def state(self, sizes: Sizes) -> ClassCovariance:
        """Begin the statistics."""
        start = None if self.start is None else read_class_moments(self.start, self.start_set)
        return ClassCovariance(sizes.classes, sizes.channels(self, f"features/{LAYER}"), start)

    def value(self, seen: Seen) -> Tensor:
        """Take the batch into the statistics, then compare at the student's own stride."""
        if not isinstance(seen.state, ClassCovariance):
            raise TypeError(f"term {self.label} keeps class statistics, got {seen.state!r}")
        try:
            labels = seen.label_cells()
            seen.state.update(self._features(seen), labels)
            augmentation = Augmentation(
                weight=seen.student.classifier_weight,
                variance=seen.state.variance.clone(),  # the next stream changes it in place
                labels=labels,
                strength=self.strength * ramped(self.ramp, seen.progress),
            )
            return LOSSES[self.name](
                seen.output.logits,
                self.target(seen),
                augmentation=augmentation,
                mask=seen.mask,
                **self.options(),
            )
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error

    def options(self) -> dict[str, Any]:
        """Return what the loss takes beside the tensors and the augmentation."""
        ours = {"strength", "ramp", "start", "start_set"}
        return {name: value for name, value in super().options().items() if name not in ours}

    def _features(self, seen: Seen) -> Tensor:
        if LAYER not in seen.output.features:
            raise ConfigError(
                f"term {self.label} looks at what the student's classifier reads, its features "
                f"{LAYER!r}; this student has {', '.join(seen.output.features) or 'none'}"
            )
        return seen.output.features[LAYER]


class AugmentedPixelwiseTerm(AugmentedTerm):
    """`losses.augmented_pixelwise`."""

    name: Literal["augmented_pixelwise"]
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    covariance_of: CovarianceOf = "label"

    def whole_logits(self) -> bool:
        """At another temperature the tail's classes are not alike."""
        return self.temperature != 1


class AugmentedChannelwiseTerm(AugmentedTerm):
    """`losses.augmented_channelwise`; weight and temperature are those of channel-wise KL."""

    name: Literal["augmented_channelwise"]
    weight: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    variance_over: VarianceOver = "temperature"

    def whole_logits(self) -> bool:
        """A softmax over positions sees what one over classes does not."""
        return True


def ramped(ramp: Ramp, progress: float) -> float:
    """Return how much of the strength there is, 0 to 1; progress: share of the training done."""
    if ramp == "cosine":
        return (1 - math.cos(math.pi * progress)) / 2
    return progress if ramp == "linear" else 1.0
