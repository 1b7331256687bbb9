"""The objective: the weighted sum of terms."""

from __future__ import annotations

import difflib
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import nn

from stillroom.stages.train.losses.cross_entropy import LabelTerm
from stillroom.stages.train.reads import BESIDE, MOTION, how_to_cache, on_grid, row_of
from stillroom.stages.train.terms.term import TermInput, TermState
from stillroom.stages.train.unfed import idle_stream, idle_term
from stillroom.storage_specs.artifacts import LABELS, LOGITS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from stillroom.stages.models.student import Student, StudentOutput
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.terms.term import Sizes, Term


class Objective:
    """Weighted sum of terms over the batches of all streams.

    loss = sum over labelled batches of E + lambda * sum over unlabelled batches of E,
    E = sum over terms of weight * value

    `check` finds at start-up every term that would have nothing to read, and `prepare` makes what
    terms train or remember: call both before training.

    states: what `prepare` made, by the terms' places; in checkpoints, never in what is exported

    Xie et al., "Improving Fast Segmentation With Teacher-student Learning", BMVC 2018, eq. 1 to 3
    (lambda 0.1 to 1 made no difference above 0.1 mIoU there). arXiv:1810.08476
    """

    def __init__(self, terms: Sequence[Term], unlabelled_weight: float = 1.0) -> None:
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
        self.labels = _distinct([term.label for term in self.terms])
        self.states = nn.ModuleDict()
        self._cached: Mapping[str, int] = {}

    def artifacts(self, labelled: bool, *, clips: bool = False) -> frozenset[str]:
        """Return the artifact keys, as "fpn/logits", that the terms read on such a stream.

        clips: whether the stream's frames are triplets, which some terms do not go without
        """
        reads = [reads for _, _, reads in self._reads(labelled, clips)]
        return frozenset[str]().union(*reads) - BESIDE

    def needs(
        self,
        labelled: bool,
        strides: Mapping[str, int],
        cached: Mapping[str, int] = MappingProxyType({}),
        *,
        clips: bool = False,
    ) -> frozenset[str]:
        """Return the same with the grids they are read on: "fpn/features/stage4@16".

        strides: of the student's grids; cached: of what is cached, by "fpn/logits"
        raises: ConfigError where a term compares on a layer that the student does not have
        """
        found = set()
        for label, term, reads in self._reads(labelled, clips):
            if term.grid not in strides:
                raise ConfigError(
                    f"term {label} compares on the student's {term.grid}; this student has "
                    f"{', '.join(strides)}"
                )
            stride = term.stride(strides, cached)
            found |= {on_grid(key, stride, strides[LOGITS]) for key in reads - BESIDE}
        return frozenset(found)

    def prepare(self, sizes: Sizes) -> None:
        """Make what the terms train or remember, from torch's generator, in the terms' order.

        raises: ConfigError where a term and the networks do not go together
        """
        self._cached = dict(sizes.cached)
        made = {str(place): term.state(sizes) for place, term in enumerate(self.terms)}
        self.states = nn.ModuleDict({k: state for k, state in made.items() if state is not None})

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of terms that the student's optimiser is to train."""
        return [parameter for state in self._states() for parameter in state.trained()]

    def after_step(self) -> None:
        """Let every term's state do what follows a step of the optimiser."""
        for state in self._states():
            state.after_step()

    def watched(self) -> dict[str, Tensor]:
        """Return what the terms' states say of themselves, by "<term>/<what>": ()."""
        found: dict[str, Tensor] = {}
        for place, label in enumerate(self.labels):
            state = self._state(place)
            said = {} if state is None else state.watched()
            found |= {f"{label}/{what}": value for what, value in said.items()}
        return found

    def values(
        self, output: StudentOutput, batch: Batch, student: Student, progress: float = 0.0
    ) -> dict[str, Tensor]:
        """Return the value of each term that the batch feeds, by label: () float32, unweighted.

        output: the student's, for `batch.images`; `logits` (B, C, h, w)
        progress: share of the training that is done, 0 to 1
        raises: ArtifactError where the batch lacks an artifact, or has it in another shape;
            ConfigError where it feeds no term
        """
        fed = self.fed(batch.labelled, clips=batch.clips)
        if not fed:
            raise ConfigError(idle_stream(batch.stream, self._by_label(), batch.clips))
        return {label: self.value(label, output, batch, student, progress) for label in fed}

    def fed(self, labelled: bool, *, clips: bool = False) -> list[str]:
        """Return the labels of the terms that such a stream feeds."""
        return [label for label, _, reads in self._reads(labelled, clips) if reads]

    def _reads(self, labelled: bool, clips: bool) -> Iterator[tuple[str, Term, frozenset[str]]]:
        """What each term reads on such a stream: nothing where it asks for triplets in vain."""
        for label, term in self._by_label().items():
            reads = term.reads(labelled)
            yield label, term, frozenset() if MOTION in reads and not clips else reads

    def value(
        self, label: str, output: StudentOutput, batch: Batch, student: Student, progress: float
    ) -> Tensor:
        """Return the value of one term: () float32, unweighted."""
        place = self.labels.index(label)
        term, state = self.terms[place], self._state(place)
        given = TermInput(term, output, batch, student, state, progress, self._cached)
        return given.value()

    def weight(self, label: str, labelled: bool) -> float:
        """Return the factor of a term's value in the loss, on such a stream."""
        weight = self.terms[self.labels.index(label)].weight
        return weight if labelled else self.unlabelled_weight * weight

    def __call__(
        self, output: StudentOutput, batch: Batch, student: Student, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one batch's share of the loss: the weighted sum of `values`, and these."""
        values = self.values(output, batch, student, progress)
        shares = [self.weight(label, batch.labelled) * value for label, value in values.items()]
        loss = shares[0]
        for share in shares[1:]:
            loss = loss + share
        return loss, values

    def _by_label(self) -> dict[str, Term]:
        return dict(zip(self.labels, self.terms, strict=True))

    def _states(self) -> list[TermState]:
        return [state for state in self.states.values() if isinstance(state, TermState)]

    def _state(self, place: int) -> TermState | None:
        state = dict(self.states.named_children()).get(str(place))
        return state if isinstance(state, TermState) else None

    def check(
        self,
        available: Mapping[str, Collection[str]],
        teacher_classes: Mapping[str, int],
        student_classes: int,
        teacher_thresholds: Mapping[str, float] = MappingProxyType({}),
        softmax_only: Collection[str] = frozenset(),
    ) -> None:
        """Refuse, before the first step, an objective that the run cannot feed.

        available: for each stream the artifact keys that its cache holds, as "fpn/logits", and
            "labels" where the stream is labelled, "motion" where its frames are triplets
        teacher_classes: class count of every teacher of the run
        student_classes: class count of the student
        teacher_thresholds: confidence below which a teacher's cached pseudo labels are 255 already
        softmax_only: teachers whose cached logits stand for their softmax alone (codec "topk")
        raises: ConfigError with every fault found: a term without a teacher or with an unknown
            one, other classes than the student's, an artifact that is not cached, a term that no
            stream feeds, a stream that feeds no term
        """
        kinds = {LABELS in held for held in available.values()}
        faults = self._teacher_faults(teacher_classes, student_classes, kinds)
        if not faults:  # needs the teachers' names
            faults = self._reading_faults(available) + self._threshold_faults(teacher_thresholds)
            faults += [
                f"term {label} needs the logits of teacher {teacher} themselves, and its "
                "cache keeps only their likeliest classes (codec topk): store them with codec kl"
                for label, term in self._by_label().items()
                for teacher in term.teachers
                if teacher in softmax_only and term.whole_logits()
            ]
        if faults:
            raise ConfigError("\n".join(faults))

    def _teacher_faults(
        self, classes: Mapping[str, int], student_classes: int, kinds: Collection[bool]
    ) -> list[str]:
        known = ", ".join(sorted(classes)) or "none"
        faults = []
        for label, term in self._by_label().items():
            if not term.teachers:
                try:
                    term.reads(labelled=False)
                except ConfigError as error:
                    faults.append(f"{error}; teachers of this run: {known}")
            for teacher in term.teachers:
                if teacher not in classes:
                    near = difflib.get_close_matches(teacher, classes, n=1)
                    hint = f" (did you mean {near[0]!r}?)" if near else ""
                    faults.append(
                        f"term {label} names an unknown teacher{hint}; teachers of this run: "
                        f"{known}"
                    )
                elif classes[teacher] != student_classes and _reads_classes(term, kinds):
                    faults.append(
                        f"term {label}: teacher {teacher} has {classes[teacher]} classes, the "
                        f"student {student_classes}; they must be the same classes"
                    )
        return faults

    def _reading_faults(self, available: Mapping[str, Collection[str]]) -> list[str]:
        faults = []
        fed: set[str] = set()
        for stream, held in available.items():
            labelled, clips = LABELS in held, MOTION in held
            working = self.fed(labelled, clips=clips)
            fed.update(working)
            faults += [
                f"term {label} reads {key} on stream {stream}, whose cache holds "
                f"{', '.join(sorted(set(held) - {MOTION})) or 'nothing'}; "
                f"{how_to_cache(*reversed(key.split('/', 1)))}"
                for label, _, reads in self._reads(labelled, clips)
                for key in sorted(reads - set(held))
            ]
            if not working:
                faults.append(idle_stream(stream, self._by_label(), clips))
        unfed = {k: term for k, term in self._by_label().items() if k not in fed}
        return faults + [idle_term(label, term) for label, term in unfed.items()]

    def _threshold_faults(self, cached: Mapping[str, float]) -> list[str]:
        faults = []
        for label, term in self._by_label().items():
            threshold = term.threshold if isinstance(term, LabelTerm) else None
            held = cached.get(term.teacher or "", 0.0)
            if threshold is not None and threshold < held:
                faults.append(
                    f"term {label}: threshold {threshold} is below {held}, the one that the "
                    "pseudo labels were cached with, and would change nothing"
                )
        return faults


def _reads_classes(term: Term, kinds: Collection[bool]) -> bool:
    """Whether a term reads what a teacher says about classes: features may be of any teacher.

    kinds: of the streams there are: labelled or not
    """
    keys = frozenset[str]().union(*(term.reads(labelled) for labelled in kinds))
    return any(row_of(key).has_classes for key in keys - BESIDE)


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Number the second and later of equal labels, so that no value overwrites another."""
    seen: Counter[str] = Counter()
    distinct = []
    for label in labels:
        seen[label] += 1
        distinct.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
    return tuple(distinct)
