"""The objective: the weighted sum of terms."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import nn

from stillroom.stages.models.student import usual_stride
from stillroom.stages.train.objective_checks import (
    is_labelled,
    reading_faults,
    reads_on,
    softmax_faults,
    teacher_faults,
    threshold_faults,
    unused_stream,
)
from stillroom.stages.train.reads import BESIDE, FURTHER, on_grid
from stillroom.stages.train.step_part import step_part
from stillroom.stages.train.terms.term import TermInput, TermState
from stillroom.stages.train.terms.uncertainty import Uncertainty, uncertainty_of
from stillroom.stages.train.terms.weight_term import WeightTerm
from stillroom.storage_specs.artifacts import PSEUDO_LABEL
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from stillroom.stages.models.student import Student, StudentOutput
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.terms.term import Sizes, Term

UNCERTAINTY = "uncertainty"  # what metrics call it


class Objective:
    """Weighted sum of terms over the batches of all streams.

    loss = sum over labelled batches of E + lambda * sum over unlabelled batches of E + P,
    E = sum over terms of weight * value,  P = the same of terms of the student's weights alone

    With `uncertainty` the terms of each task weigh what the student learns that they should, see
    `Uncertainty`.

    `check` finds at start-up every term that would have nothing to read, and `prepare` makes what
    terms train or remember: call both before training.

    Xie et al., "Improving Fast Segmentation With Teacher-student Learning", BMVC 2018, eq. 1 to 3
    (lambda 0.1 to 1 made no difference above 0.1 mIoU there). arXiv:1810.08476

    Attributes:
        states: what `prepare` made, by the terms' places; in checkpoints, never in what is exported
    """

    def __init__(
        self, terms: Sequence[Term], unlabelled_weight: float = 1.0, *, uncertainty: bool = False
    ) -> None:
        """Take the terms, and lambda."""
        if not terms:
            raise ConfigError("the run has no terms: add at least one [[terms]] section")
        if not 0 < unlabelled_weight < float("inf"):
            raise ConfigError(
                f"unlabelled_weight must be above 0, got {unlabelled_weight}; to train without "
                "unlabelled frames leave their stream out"
            )
        self.terms = tuple(terms)
        self.unlabelled_weight = unlabelled_weight
        self.uncertainty = uncertainty
        self.labels = _distinct([term.label for term in self.terms])
        self.states = nn.ModuleDict()
        self._cached: Mapping[str, int] = {}

    def reads(self, labelled: bool, *, clips: bool = False) -> frozenset[str]:
        """Return all that the terms read on such a stream: `artifacts`, and labels and triplets."""
        return frozenset[str]().union(*reads_on(self._by_label(), labelled, clips).values())

    def artifacts(self, labelled: bool, *, clips: bool = False) -> frozenset[str]:
        """Return the artifact keys, as "fpn/logits", that the terms read on such a stream.

        Args:
            clips: whether the stream's frames are triplets, which some terms do not go without
        """
        return self.reads(labelled, clips=clips) - BESIDE

    def needs(
        self,
        labelled: bool,
        strides: Mapping[str, int],
        cached: Mapping[str, int] = MappingProxyType({}),
        *,
        clips: bool = False,
    ) -> frozenset[str]:
        """Return the same with the grids they are read on, and targets: "fpn/features/stage4@16".

        Args:
            strides: of the student's grids; cached: of what is cached, by "fpn/logits"

        Raises:
            ConfigError: where a term compares on a layer that the student does not have
        """
        found: set[str] = set()
        terms = self._by_label()
        for label, reads in reads_on(terms, labelled, clips).items():
            if isinstance(terms[label], WeightTerm):
                continue
            if terms[label].grid not in strides:
                raise ConfigError(
                    f"term {label} compares on the student's {terms[label].grid}; this student has "
                    f"{', '.join(strides)}"
                )
            stride = terms[label].stride(strides, cached)
            found |= {on_grid(key, stride, usual_stride(strides)) for key in reads - BESIDE}
            found |= reads & FURTHER
        return frozenset(found)

    def active(self, labelled: bool, *, clips: bool = False) -> list[str]:
        """Return the labels of the terms that read something on such a stream."""
        reads = reads_on(self._by_label(), labelled, clips)
        return [label for label in self.labels if reads[label]]

    def first_pseudo_label(self) -> str | None:
        """Name the pseudo label of the first teacher that single, unlabelled frames are taught by.

        None where they have no teacher.
        """
        terms = self._by_label()
        teachers = (name for label in self.active(False) for name in terms[label].teachers)
        first = next(teachers, None)
        return None if first is None else f"{first}/{PSEUDO_LABEL}"

    def prepare(self, sizes: Sizes) -> None:
        """Make what the terms train or remember, from torch's generator, in the terms' order.

        Raises:
            ConfigError: where a term and the networks do not go together
        """
        self._cached = dict(sizes.cached)
        made: dict[str, TermState | None]
        made = {str(place): term.state(sizes) for place, term in enumerate(self.terms)}
        if self.uncertainty:
            made[UNCERTAINTY] = uncertainty_of(self.terms)
        self.states = nn.ModuleDict({k: state for k, state in made.items() if state is not None})

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of terms that the student's optimiser is to train."""
        return [parameter for state in self._states().values() for parameter in state.trained()]

    def after_step(self, *, taken: bool = True) -> None:
        """Let every term's state do what follows a step of the optimiser, or one left out."""
        for state in self._states().values():
            if taken:
                state.after_step()
            else:
                state.forget()

    def watched(self) -> dict[str, Tensor]:
        """Return the numbers that the terms' states show, by "<term>/<name>": ()."""
        return {
            f"{label}/{name}": value
            for label, state in self._states().items()
            for name, value in state.watched().items()
        }

    def values(
        self, output: StudentOutput, batch: Batch, student: Student, progress: float = 0.0
    ) -> dict[str, Tensor]:
        """Return the value of each term that reads the batch, by label: () float32, unweighted.

        Args:
            output: the student's, for `batch.images`; `logits` (B, C, h, w)
            progress: share of the training that is done, 0 to 1

        Raises:
            ArtifactError: where the batch lacks an artifact, or has it in another shape
            ConfigError: where no term reads it
        """
        active = self.active(batch.labelled, clips=batch.clips)
        if not active:
            raise ConfigError(unused_stream(batch.stream, self._by_label(), batch.clips))
        return {label: self.value(label, output, batch, student, progress) for label in active}

    def penalties(self, student: Student) -> dict[str, Tensor]:
        """Return the value of each term of weights alone, by label: () float32, unweighted.

        They are in the loss once a step, beside the shares of all batches.

        Raises:
            ConfigError: the student has no such weights.
        """
        terms = self._by_label().items()
        return {
            label: term.penalty(student.network)
            for label, term in terms
            if isinstance(term, WeightTerm)
        }

    def value(
        self, label: str, output: StudentOutput, batch: Batch, student: Student, progress: float
    ) -> Tensor:
        """Return the value of one term: () float32, unweighted."""
        term, state = self._by_label()[label], self._states().get(label)
        with step_part(f"term {label}"):
            return TermInput(term, output, batch, student, state, progress, self._cached).value()

    def weight(self, label: str, labelled: bool) -> float:
        """Return the factor of a term's value in the loss, on such a stream."""
        weight = self._by_label()[label].weight
        return weight if labelled else self.unlabelled_weight * weight

    def weighted(self, label: str, labelled: bool, value: Tensor) -> Tensor:
        """Return a term's value as it is in the loss, on such a stream."""
        value = self.weight(label, labelled) * value
        learned = self._uncertainty()
        return value if learned is None else learned.weighted(self._by_label()[label].task, value)

    def beside(self) -> dict[str, Tensor]:
        """Return what is in the loss of a step beside the terms, by name: ()."""
        learned = self._uncertainty()
        return {} if learned is None else {UNCERTAINTY: learned.cost()}

    def __call__(
        self, output: StudentOutput, batch: Batch, student: Student, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one batch's share of the loss: the weighted sum of `values`, and these."""
        values = self.values(output, batch, student, progress)
        shares = [self.weighted(label, batch.labelled, value) for label, value in values.items()]
        loss = shares[0]
        for share in shares[1:]:
            loss = loss + share
        return loss, values

    def check(
        self,
        available: Mapping[str, Collection[str]],
        teacher_classes: Mapping[str, int],
        student_classes: int,
        teacher_thresholds: Mapping[str, float] = MappingProxyType({}),
        softmax_only: Collection[str] = frozenset(),
        highest_confidence: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Refuse, before the first step, an objective that the run cannot feed.

        Args:
            available: for each stream the artifact keys that its cache holds, as "fpn/logits", and
                TARGETS that are read of the stream, TRIPLETS where its frames are triplets
            teacher_classes: class count of every teacher of the run
            student_classes: class count of the student
            teacher_thresholds: confidence below which a teacher's cached pseudo labels are 255
                already
            softmax_only: teachers whose cached logits stand for their softmax alone (codec "topk")
            highest_confidence: below 1 that a teacher's cached pixel confidence can be

        Raises:
            ConfigError: with every fault found: a term without a teacher or with an unknown one,
                other classes than the student's, an artifact that is not cached, a term that no
                stream feeds, a stream that feeds no term
        """
        terms = self._by_label()
        kinds = {is_labelled(held) for held in available.values()}
        faults = teacher_faults(terms, teacher_classes, student_classes, kinds)
        if not faults:  # needs the teachers' names
            faults = reading_faults(terms, available)
            faults += threshold_faults(terms, teacher_thresholds, highest_confidence)
            faults += softmax_faults(terms, softmax_only)
        if faults:
            raise ConfigError("\n".join(faults))

    def _by_label(self) -> dict[str, Term]:
        return dict(zip(self.labels, self.terms, strict=True))

    def _states(self) -> dict[str, TermState]:
        """What terms train or remember, by label."""
        named = dict(self.states.named_children())
        places = {label: str(place) for place, label in enumerate(self.labels)}
        places[UNCERTAINTY] = UNCERTAINTY
        found = ((label, named.get(place)) for label, place in places.items())
        return {label: state for label, state in found if isinstance(state, TermState)}

    def _uncertainty(self) -> Uncertainty | None:
        learned = self._states().get(UNCERTAINTY)
        return learned if isinstance(learned, Uncertainty) else None


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Number the second and later of equal labels, so that no value overwrites another."""
    counts: Counter[str] = Counter()
    distinct = []
    for label in labels:
        counts[label] += 1
        distinct.append(label if counts[label] == 1 else f"{label}#{counts[label]}")
    return tuple(distinct)
