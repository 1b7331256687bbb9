"""What is said of a term that no stream feeds, and of a stream that feeds no term."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.train.reads import MOTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.stages.train.terms.term import Term


def asks_for_clips(term: Term) -> bool:
    """Tell whether a term compares the frames of a clip: single frames do not feed it."""
    return MOTION in term.reads(True) | term.reads(False)


def idle_stream(stream: str, terms: Mapping[str, Term], clips: bool) -> str:
    """Say why a stream feeds no term, and what to do.

    terms: all of the run, by their labels; clips: whether the stream's frames are triplets
    """
    why = (
        "it is unlabelled, and none of them names a teacher; add a term with a teacher, or leave "
        "the stream out"
    )
    if not clips and any(asks_for_clips(term) for term in terms.values()):
        why = (
            "its frames are single; if they belong to clips, set `triplets` to a model of motion "
            "([flows.*]); otherwise add a term that reads single frames, or leave the stream out"
        )
    return f"stream {stream} feeds no term of {', '.join(terms)}: {why}"


def idle_term(label: str, term: Term) -> str:
    """Say why no stream feeds a term, and what to do."""
    if asks_for_clips(term):
        return (
            f"term {label} compares frames of a clip, and no stream has any: set `triplets` on a "
            "stream of clips to a model of motion ([flows.*]), as in streams = { city = { batch = "
            '4, triplets = "dis" } }'
        )
    return f"term {label} has nothing to read: no stream is labelled, and it names no teacher"
