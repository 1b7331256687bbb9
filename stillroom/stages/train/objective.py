"""The objective: the weighted sum of terms."""

from __future__ import annotations

import difflib
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from stillroom.stages.train.terms import LABELS, CrossEntropyTerm, TermConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from stillroom.stages.models.student import StudentOutput
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.terms import Term

__all__ = ["Objective", "TermConfig"]


class Objective:
    """Weighted sum of terms over the batches of all streams.

    loss = sum over labelled batches of E + lambda * sum over unlabelled batches of E,
    E = sum over terms of weight * value

    `check` finds at start-up every term that would have nothing to read; call it before training.

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

    def needs(self, labelled: bool) -> frozenset[str]:
        """Return the artifact keys, as "fpn/logits", that the terms read on such a stream."""
        reads = [term.reads(labelled) for term in self.terms]
        return frozenset[str]().union(*reads) - {LABELS}

    def __call__(
        self, output: StudentOutput, batch: Batch, stride: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one batch's share of the loss, and the value of each term that it feeds.

        output: the student's, for `batch.images`; `logits` (B, C, h, w) at `stride`
        returns: () float32 with gradient, weighted by the terms' weights and lambda; values by
            term label, () float32, detached and unweighted: what to compare when choosing weights
        raises: ArtifactError where the batch lacks an artifact, or has it in another shape
        """
        loss: Tensor | None = None
        values: dict[str, Tensor] = {}
        for label, term in zip(self.labels, self.terms, strict=True):
            if not term.reads(batch.labelled):
                continue
            value = term.value(output, batch, stride)
            values[label] = value.detach()
            loss = term.weight * value if loss is None else loss + term.weight * value
        if loss is None:
            raise ConfigError(_idle(batch.stream, self.labels))
        return (loss if batch.labelled else self.unlabelled_weight * loss), values

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
            "labels" where the stream is labelled
        teacher_classes: class count of every teacher of the run
        student_classes: class count of the student
        teacher_thresholds: confidence below which a teacher's cached pseudo labels are 255 already
        softmax_only: teachers whose cached logits stand for their softmax alone (codec "topk")
        raises: ConfigError with every fault found: a term without a teacher or with an unknown
            one, other classes than the student's, an artifact that is not cached, a term that no
            stream feeds, a stream that feeds no term
        """
        faults = self._teacher_faults(teacher_classes, student_classes)
        if not faults:  # needs the teachers' names
            faults = self._reading_faults(available) + self._threshold_faults(teacher_thresholds)
            faults += [
                f"term {label} needs the logits of teacher {term.teacher} themselves, and its "
                "cache keeps only their likeliest classes (codec topk): store them with codec kl"
                for label, term in zip(self.labels, self.terms, strict=True)
                if term.teacher in softmax_only and term.whole_logits()
            ]
        if faults:
            raise ConfigError("\n".join(faults))

    def _teacher_faults(self, classes: Mapping[str, int], student_classes: int) -> list[str]:
        known = ", ".join(sorted(classes)) or "none"
        faults = []
        for label, term in zip(self.labels, self.terms, strict=True):
            if term.teacher is None:
                try:
                    term.reads(labelled=False)
                except ConfigError as error:
                    faults.append(f"{error}; teachers of this run: {known}")
            elif term.teacher not in classes:
                near = difflib.get_close_matches(term.teacher, classes, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                faults.append(
                    f"term {label} names an unknown teacher{hint}; teachers of this run: {known}"
                )
            elif classes[term.teacher] != student_classes:
                faults.append(
                    f"term {label}: teacher {term.teacher} has {classes[term.teacher]} classes, "
                    f"the student {student_classes}; they must be the same classes"
                )
        return faults

    def _reading_faults(self, available: Mapping[str, Collection[str]]) -> list[str]:
        faults = []
        fed = set()
        for stream, held in available.items():
            working = False
            for label, term in zip(self.labels, self.terms, strict=True):
                reads = term.reads(LABELS in held)
                working |= bool(reads)
                fed |= {label} if reads else set()
                faults += [
                    f"term {label} reads {key} on stream {stream}, whose cache holds "
                    f"{', '.join(sorted(held)) or 'nothing'}; add {key.partition('/')[2]!r} to "
                    "cache.artifacts and run `stillroom cache extend`"
                    for key in sorted(reads - set(held))
                ]
            if not working:
                faults.append(_idle(stream, self.labels))
        faults += [
            f"term {label} has nothing to read: no stream is labelled, and it names no teacher"
            for label in self.labels
            if label not in fed
        ]
        return faults

    def _threshold_faults(self, cached: Mapping[str, float]) -> list[str]:
        faults = []
        for label, term in zip(self.labels, self.terms, strict=True):
            threshold = term.threshold if isinstance(term, CrossEntropyTerm) else None
            held = cached.get(term.teacher or "", 0.0)
            if threshold is not None and threshold < held:
                faults.append(
                    f"term {label}: threshold {threshold} is below {held}, the one that the "
                    "pseudo labels were cached with, and would change nothing"
                )
        return faults


def _idle(stream: str, labels: Sequence[str]) -> str:
    return (
        f"stream {stream} feeds no term of {', '.join(labels)}: it is unlabelled, and none of them "
        "names a teacher; add a term with a teacher, or leave the stream out"
    )


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Number the second and later of equal labels, so that no value overwrites another."""
    seen: Counter[str] = Counter()
    distinct = []
    for label in labels:
        seen[label] += 1
        distinct.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
    return tuple(distinct)
