"""Terms between a map of the student and one of the teacher: features, or logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from stillroom.stages.train.loss_parts.projector import Projector
from stillroom.stages.train.terms.term import Sizes, Term, TermInput, TermState
from stillroom.storage_specs.artifacts import FEATURES, LOGITS

if TYPE_CHECKING:
    from torch import Tensor


class FeatureTerm(Term):
    """A loss between features, on the grid of the student's layer.

    The view brings the teacher's features to that grid (bilinear between centres), so no loss
    resizes anything.

    Attributes:
        layer: the student's; "penultimate", or "stage1" to "stage5" of an SMP encoder
        teacher_layer: the teacher's, as it is named in cache.artifacts after "features/"
    """

    layer: str = "penultimate"
    teacher_layer: str = "penultimate"

    @property
    def grid(self) -> str:
        return f"{FEATURES}/{self.layer}"

    @property
    def artifact(self) -> str:
        """The teacher's layer, as the cache names it."""
        return f"{FEATURES}/{self.teacher_layer}"

    def reads(self, labelled: bool) -> frozenset[str]:
        return frozenset({self.key(self.artifact)})

    def target(self, given: TermInput) -> Tensor:
        """Return the teacher's map, (B, A', h, w)."""
        return given.artifact(self.artifact)


class MapTerm(FeatureTerm):
    """A loss between two maps.

    Attributes:
        on: "features" compares a layer of each; "logits" the logits, and then no layer is named
    """

    on: Literal["features", "logits"] = "features"

    @model_validator(mode="after")
    def _logits_are_no_layer(self) -> MapTerm:
        named = sorted({"layer", "teacher_layer"} & self.model_fields_set)
        if self.on == "logits" and named:
            raise ValueError(
                f"{' and '.join(named)} would not be looked at: the term compares logits; leave "
                'them out, or set on = "features"'
            )
        return self

    @property
    def grid(self) -> str:
        return LOGITS if self.on == "logits" else super().grid

    @property
    def artifact(self) -> str:
        return LOGITS if self.on == "logits" else super().artifact

    def whole_logits(self) -> bool:
        return self.on == "logits"  # such losses compare channels or vectors of logits


class ProjectedTerm(MapTerm):
    """A loss between maps of as many channels, to which a `Projector` brings the student's.

    Attributes:
        always_project: a projector even where the channel counts agree, as FitNets has it
    """

    always_project: bool = False

    def bias(self) -> bool:
        return True

    def state(self, sizes: Sizes) -> TermState | None:
        student = sizes.channels(self, self.grid)
        teacher = sizes.teacher_channels(self, self.artifact)
        if student == teacher and not self.always_project:
            return None
        return Projection(Projector(student, teacher, bias=self.bias()))

    def projected(self, given: TermInput) -> Tensor:
        """Return the student's map in as many channels as the teacher's, (B, A', h, w)."""
        if given.state is None:
            return given.features
        projected: Tensor = given.state(given.features)
        return projected


class Projection(TermState):
    """A projector that trains beside the student and stays behind when it is exported."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, student: Tensor) -> Tensor:
        projected: Tensor = self.projector(student)
        return projected
