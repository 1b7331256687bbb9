"""Faults of an objective that are found before the first step; terms are given by their labels."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from stillroom.stages.train.losses.cross_entropy import LabelTerm
from stillroom.stages.train.reads import BESIDE, TRIPLETS, how_to_have, row_of
from stillroom.stages.train.terms.weight_term import WeightTerm
from stillroom.storage_specs.artifacts import PIXEL_CONFIDENCE, TARGETS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from stillroom.stages.train.terms.term import Term


def needs_triplets(term: Term) -> bool:
    """Tell whether a term compares the frames of a clip, and not single frames."""
    return TRIPLETS in term.reads(True) | term.reads(False)


def is_labelled(held: Collection[str]) -> bool:
    """Tell whether what a stream holds has a target among it."""
    return any(target in held for target in TARGETS)


def reads_on(terms: Mapping[str, Term], labelled: bool, clips: bool) -> dict[str, frozenset[str]]:
    """Return what each term reads on such a stream: nothing where it needs triplets in vain."""
    found = {label: term.reads(labelled) for label, term in terms.items()}
    return {k: v if clips or TRIPLETS not in v else frozenset() for k, v in found.items()}


def teacher_faults(
    terms: Mapping[str, Term],
    classes: Mapping[str, int],
    student_classes: int,
    kinds: Collection[bool],
) -> list[str]:
    """Find terms without a teacher, with an unknown one, or one of other classes.

    Args:
        classes: of every teacher of the run
        kinds: of the streams there are: labelled or not
    """
    known = ", ".join(sorted(classes)) or "none"
    faults = []
    for label, term in terms.items():
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
                    f"term {label} names an unknown teacher{hint}; teachers of this run: {known}"
                )
            elif classes[teacher] != student_classes and _reads_classes(term, kinds):
                faults.append(
                    f"term {label}: teacher {teacher} has {classes[teacher]} classes, the "
                    f"student {student_classes}; they must be the same classes"
                )
    return faults


def reading_faults(
    terms: Mapping[str, Term], available: Mapping[str, Collection[str]]
) -> list[str]:
    """Find artifacts that are not cached, streams that no term reads, and terms that read nothing.

    Args:
        available: as of `Objective.check`
    """
    faults = []
    active: set[str] = set()
    for stream, held in available.items():
        clips = TRIPLETS in held
        reads = reads_on(terms, is_labelled(held), clips)
        active |= {label for label in terms if reads[label]}
        faults += [
            f"term {label} reads {key} on stream {stream}, whose cache holds "
            f"{', '.join(sorted(set(held) - {TRIPLETS})) or 'nothing'}; "
            f"{how_to_have(key)}"
            for label in terms
            for key in sorted(reads[label] - set(held))
        ]
        if not any(reads.values()):
            faults.append(unused_stream(stream, terms, clips))
    active |= {label for label, term in terms.items() if isinstance(term, WeightTerm)}
    return faults + [_unused_term(label, terms[label]) for label in terms if label not in active]


def threshold_faults(
    terms: Mapping[str, Term], cached: Mapping[str, float], highest: Mapping[str, float]
) -> list[str]:
    """Find thresholds below the one that a teacher's pseudo labels were cached with, or too high.

    Args:
        cached, highest: as of `Objective.check`
    """
    faults = []
    for label, term in terms.items():
        threshold = term.threshold if isinstance(term, LabelTerm) else None
        held = cached.get(term.teacher or "", 0.0)
        if threshold is not None and threshold < held:
            faults.append(
                f"term {label}: threshold {threshold} is below {held}, the one that the "
                "pseudo labels were cached with, and would change nothing"
            )
        most = highest.get(term.teacher or "", 1.0)
        if threshold is not None and threshold > most:
            faults.append(
                f"term {label}: threshold {threshold} is above {most:g}, the highest that the "
                f"cached {PIXEL_CONFIDENCE} tells from 1, and would keep next to nothing; lower "
                f"it, or store {PIXEL_CONFIDENCE} with codec exact"
            )
    return faults


def softmax_faults(terms: Mapping[str, Term], softmax_only: Collection[str]) -> list[str]:
    """Find terms that need whole logits, of teachers whose softmax alone is cached."""
    return [
        f"term {label} needs the logits of teacher {teacher} themselves, and its "
        "cache keeps only their likeliest classes (codec topk): store them with codec kl"
        for label, term in terms.items()
        for teacher in term.teachers
        if teacher in softmax_only and term.whole_logits()
    ]


def unused_stream(stream: str, terms: Mapping[str, Term], clips: bool) -> str:
    """Explain why no term reads a stream, and what to do.

    Args:
        terms: all of the run; clips: whether the stream's frames are triplets
    """
    why = (
        "it is unlabelled, and none of them names a teacher; add a term with a teacher, or leave "
        "the stream out"
    )
    if not clips and any(needs_triplets(term) for term in terms.values()):
        why = (
            "its frames are single; if they belong to clips, set `triplets` to a model of motion "
            "([flows.*]); otherwise add a term that reads single frames, or leave the stream out"
        )
    return f"stream {stream} feeds no term of {', '.join(terms)}: {why}"


def _unused_term(label: str, term: Term) -> str:
    if needs_triplets(term):
        return (
            f"term {label} compares frames of a clip, and no stream has any: set `triplets` on a "
            "stream of clips to a model of motion ([flows.*]), as in streams = { city = { batch = "
            '4, triplets = "dis" } }'
        )
    return f"term {label} has nothing to read: no stream is labelled, and it names no teacher"


def _reads_classes(term: Term, kinds: Collection[bool]) -> bool:
    """Tell whether a term reads classes of a teacher: features may be of any teacher."""
    keys = frozenset[str]().union(*(term.reads(labelled) for labelled in kinds))
    return any(row_of(key).has_classes for key in keys - BESIDE)
