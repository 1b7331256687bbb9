"""FAKD's terms: distillation of a student with features augmented by class statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from stillroom.stages.train.loss_parts.augmentation import Augmentation
from stillroom.stages.train.terms.class_covariance import ClassCovariance
from stillroom.stages.train.terms.class_moments import read_class_moments
from stillroom.stages.train.terms.logits_term import LogitsTerm
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.artifacts import FEATURES
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.stages.train.terms.term import Sizes, TermInput

LAYER = "penultimate"  # what the classifier reads
Ramp = Literal["cosine", "linear", "constant"]


class AugmentedTerm(LogitsTerm):
    """What both bounds have in common.

    Reads the teacher's logits, and labels or the teacher's pseudo labels: for the class of each
    position, whose features enter the statistics of that class before the loss is computed.

    Attributes:
        strength: lambda at the end of its ramp
        ramp: how it comes there from 0 over the training: as (1 - cos(pi x)) / 2 of what is done,
            the paper's; linear, as in ISDA; "constant": it is there at once
        start: moments by class to begin with, as `stillroom cache stats --features LAYER --out
            FILE` writes them; they count as the positions they were taken from, a pass over the
            cache. Only for students with as many channels before the classifier as that layer has
        start_set: "<source>/<teacher>" in that file, where it holds several
    """

    strength: Positive = 1.0
    ramp: Ramp = "cosine"
    start: Path | None = None
    start_set: str | None = None

    @model_validator(mode="after")
    def _set_is_of_a_file(self) -> AugmentedTerm:
        if self.start_set is not None and self.start is None:
            raise ValueError("start_set names a set in a file: give the file as start")
        return self

    @property
    def follows_length(self) -> bool:
        return self.ramp != "constant"

    def reads(self, labelled: bool) -> frozenset[str]:
        return super().reads(labelled) | {self.label_key(labelled)}

    def state(self, sizes: Sizes) -> ClassCovariance:
        start = None if self.start is None else read_class_moments(self.start, self.start_set)
        return ClassCovariance(sizes.classes, sizes.channels(self, f"{FEATURES}/{LAYER}"), start)

    def augmentation(self, given: TermInput) -> Augmentation:
        """Take the batch into the statistics, and return what they come to."""
        features = given.output.features
        if LAYER not in features:
            raise ConfigError(
                f"term {self.label} looks at what the student's classifier reads, its features "
                f"{LAYER!r}; this student has {', '.join(features) or 'none'}"
            )
        statistics, labels = given.kept(ClassCovariance), given.labels_on_grid()
        statistics.update(features[LAYER], labels)
        return Augmentation(
            weight=given.student.classifier_weight,
            variance=statistics.variance.clone(),  # the next stream changes it in place
            labels=labels,
            strength=self.strength * ramped(self.ramp, given.progress),
        )


def ramped(ramp: Ramp, progress: float) -> float:
    """Return how much of the strength there is, 0 to 1; progress: share of the training done."""
    if ramp == "cosine":
        return (1 - math.cos(math.pi * progress)) / 2
    return progress if ramp == "linear" else 1.0
