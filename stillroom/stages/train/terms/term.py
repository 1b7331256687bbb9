"""What a term is: one loss with its weight, what it reads, and what it keeps beside the student."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field
from torch import nn

from stillroom.stages.models.student import usual_stride
from stillroom.stages.models.task_heads import TASK_OF
from stillroom.stages.settings import Settings
from stillroom.stages.train.reads import how_to_cache, on_grid
from stillroom.storage_specs.artifacts import IGNORE, LABELS, LOGITS, PSEUDO_LABEL
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from stillroom.stages.models.student import Student, StudentOutput
    from stillroom.stages.train.batch import Batch, Triplets

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TermState(nn.Module):
    """What a term trains or remembers beside the student: a projector, a queue, a discriminator.

    It is in checkpoints and never in the exported student. All of it that changes is in its
    `state_dict`, in tensors and plain types, so that a resumed run repeats.
    """

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that the student's optimiser trains: all, unless overridden."""
        return list(self.parameters())

    def after_step(self) -> None:
        """Do what follows each step of the student's optimiser: nothing, unless overridden."""

    def forget(self) -> None:
        """Drop what was kept for `after_step`: the optimiser left the step out."""

    def watched(self) -> dict[str, Tensor]:
        """Return numbers, (), that metrics show beside the term's value, as of the last batches."""
        return {}


S = TypeVar("S", bound=TermState)


@dataclass(frozen=True)
class Sizes:
    """Channels and strides of a run's networks, for terms whose parameters depend on them.

    Attributes:
        classes: C of the student
        student: channels of its "logits" and of each "features/<layer>"
        strides: pixels of an image to one position of these
        teachers: channels of what is cached, by "fpn/logits", "fpn/features/<layer>"
        cached: pixels of the canvas to one position of what is cached, by the same names
        names: of the student's classes
    """

    classes: int
    student: Mapping[str, int]
    strides: Mapping[str, int]
    teachers: Mapping[str, int]
    cached: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    names: tuple[str, ...] = ()

    def channels(self, term: Term, name: str) -> int:
        """Return the channels of one of the student's grids.

        Raises:
            ConfigError: where it has no such layer, naming those it has
        """
        _demand_grid(term, name, self.student)
        return self.student[name]

    def teacher_channels(self, term: Term, artifact: str) -> int:
        """Return the channels of what the term's teacher has in the cache.

        Raises:
            ConfigError: where it is not there, with the command that adds it
        """
        key = term.key(artifact)
        if key not in self.teachers:
            raise ConfigError(
                f"term {term.label} reads {key}, and the cache holds of its kind "
                f"{', '.join(sorted(self.teachers)) or 'nothing'}; "
                f"{how_to_cache(artifact, key.partition('/')[0])}"
            )
        return self.teachers[key]


@dataclass(frozen=True)
class TermInput:
    """What one term is computed from: a batch, and what the student makes of it.

    Attributes:
        output: the student's, for the batch
        student: the network itself, for its strides and its classifier's weights
        state: what the term's `state` returned
        progress: share of the training that is done, 0 to 1
        cached: strides of what is cached, as in `Sizes`
    """

    term: Term
    output: StudentOutput
    batch: Batch
    student: Student
    state: TermState | None = None
    progress: float = 0.0
    cached: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def value(self) -> Tensor:
        """Compute the term, unweighted; an ArtifactError names the term and the stream."""
        try:
            return self.term.value(self)
        except ArtifactError as error:
            if str(error).startswith("term "):
                raise
            raise ArtifactError(
                f"term {self.term.label} on stream {self.batch.stream}: {error}"
            ) from error

    @property
    def stride(self) -> int:
        """Pixels to one position of the grid that the term compares on."""
        _demand_grid(self.term, self.term.grid, self.student.strides)
        return self.term.stride(self.student.strides, self.cached)

    @property
    def features(self) -> Tensor:
        """(B, A, h, w): what the student has on its grid of the term: a layer, or its logits."""
        _demand_grid(self.term, self.term.grid, self.student.strides)
        return self.output.grids[self.term.grid]

    @property
    def mask(self) -> Tensor:
        """(B, 1, h, w) bool: the positions of the term's grid that show the frame."""
        return self.batch.mask_at(self.stride, usual_stride(self.student.strides))

    @property
    def pixel_mask(self) -> Tensor:
        """(B, 1, H, W) bool: the pixels that show the frame, of clips."""
        return self.batch.mask_at(1, usual_stride(self.student.strides))

    @property
    def triplets(self) -> Triplets:
        """How the batch's frames lie in one another.

        Raises:
            ArtifactError: where they are single frames
        """
        if self.batch.triplets is None:
            raise ArtifactError(
                f"term {self.term.label} compares the frames of clips, and the batch of stream "
                f"{self.batch.stream!r} has single frames; set `triplets` on the stream"
            )
        return self.batch.triplets

    def kept(self, kind: type[S]) -> S:
        """Return the term's state."""
        if not isinstance(self.state, kind):
            raise TypeError(f"term {self.term.label} keeps a {kind.__name__}, got {self.state!r}")
        return self.state

    def artifact(self, artifact: str, teacher: str | None = None) -> Tensor:
        """Return an artifact of the term's teacher, on the term's grid.

        Raises:
            ArtifactError: where the batch does not have it
        """
        key = self.term.key(artifact, teacher)
        read = on_grid(key, self.stride, usual_stride(self.student.strides))
        try:
            return self.batch.artifacts[read]
        except KeyError:
            raise ArtifactError(
                f"term {self.term.label} reads {read!r}, and the batch of stream "
                f"{self.batch.stream!r} has {sorted(self.batch.artifacts) or 'no artifacts'}"
            ) from None

    def target(self, target: str) -> Tensor:
        """(B, C, H, W): what the frames are labelled with, as "depth".

        Raises:
            ArtifactError: where the batch does not have it
        """
        found = self.batch.targets.get(target)
        if found is None:
            raise ArtifactError(
                f"term {self.term.label} reads the target {target!r}, and the batch of stream "
                f"{self.batch.stream!r} has {sorted(self.batch.targets) or 'none'}"
            )
        return found

    def label_map(self) -> Tensor:
        """(B, H, W) int64: labels; the teacher's pseudo labels on a stream without; 255: none."""
        if self.batch.labels is not None and self.batch.labelled:
            return self.batch.labels
        return self.artifact(PSEUDO_LABEL)

    def labels_on_grid(self) -> Tensor:
        """(B, h, w) int64: the label below the centre of each position of the term's grid.

        255 where there is none, where the position does not show the frame, and where its centre
        lies beyond the image.
        """
        labels, mask, half = self.label_map(), self.mask[:, 0], self.stride // 2
        found = labels[:, half :: self.stride, half :: self.stride]
        missing = [mask.shape[1] - found.shape[1], mask.shape[2] - found.shape[2]]
        found = nn.functional.pad(found, (0, missing[1], 0, missing[0]), value=IGNORE)
        return found.masked_fill(~mask, IGNORE)


class Term(Settings):
    """What all terms have: a name among LOSSES, a weight and perhaps a teacher.

    Attributes:
        weight: factor in the objective, above 0; a term that is not wanted is left out
        teacher: name of a teacher of the run
    """

    name: str
    weight: Positive = 1.0
    teacher: str | None = None

    @property
    def label(self) -> str:
        """The term's name in metrics: "cross_entropy", "probability_l2/fpn"."""
        return "/".join([self.name, *(["+".join(self.teachers)] if self.teachers else [])])

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that it reads."""
        return () if self.teacher is None else (self.teacher,)

    @property
    def follows_length(self) -> bool:
        """Whether its value depends on how much of the training is done."""
        return False

    @property
    def grid(self) -> str:
        """The student's grid that it compares on: "logits", or "features/<layer>"."""
        return LOGITS

    @property
    def task(self) -> str | None:
        """What it teaches; None of features, which all tasks share."""
        return TASK_OF.get(self.grid)

    def stride(self, strides: Mapping[str, int], cached: Mapping[str, int]) -> int:
        """Return the pixels to one position of the grid that it compares on: the student's own.

        Args:
            strides: of the student's grids; cached: of what its teachers have in the cache
        """
        return strides[self.grid]

    def key(self, artifact: str, teacher: str | None = None) -> str:
        """Name an artifact of the term's teacher, as in "fpn/logits".

        Args:
            teacher: which, of several
        """
        teacher = teacher or self.teacher
        if teacher is None:
            raise ConfigError(
                f'term {self.name} compares with a teacher and names none: add teacher = "<name>"'
            )
        return f"{teacher}/{artifact}"

    def label_key(self, labelled: bool) -> str:
        """Name what tells classes on such a stream: labels, or the teacher's pseudo labels."""
        return LABELS if labelled else self.key(PSEUDO_LABEL)

    def reads(self, labelled: bool) -> frozenset[str]:
        """Return what the term reads on such a stream: artifact keys, LABELS, TRIPLETS, or nothing.

        What reads TRIPLETS, the triplets of a stream of clips, is computed on such streams alone.
        """
        raise NotImplementedError

    def whole_logits(self) -> bool:
        """Tell whether it needs the teacher's logits themselves, and not their softmax alone."""
        return False

    def whole_frames(self) -> bool:
        """Tell whether it looks at a frame as a whole, so that mixed frames would mislead it."""
        return False

    def state(self, sizes: Sizes) -> TermState | None:
        """Make what the term trains or remembers; None where that is nothing.

        Parameters are drawn from torch's generator, which follows the run's seed.

        Raises:
            ConfigError: where the networks do not go with the term
        """
        return None

    def value(self, given: TermInput) -> Tensor:
        """Return the loss, unweighted, of a batch that has all that the term reads there."""
        raise NotImplementedError


def _demand_grid(term: Term, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise ConfigError(
            f"term {term.label} compares on the student's {name}, and this student has "
            f"{', '.join(known)}"
        )
