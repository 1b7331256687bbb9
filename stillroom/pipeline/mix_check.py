"""Streams whose frames are mixed: what that reads, and where it makes no sense."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.stages.train.objective import Objective
    from stillroom.stages.train.settings import StreamConfig

LOG = logging.getLogger(__name__)


def mix_needs(
    objective: Objective, name: str, stream: StreamConfig, *, labelled: bool
) -> frozenset[str]:
    """Return what a stream reads beside its terms for its frames to be mixed: a pseudo label.

    Raises:
        ConfigError: the stream is labelled, or one of its terms looks at whole frames.
    """
    if stream.mix is None:
        return frozenset()
    where = f"train.streams.{name}: mix = {stream.mix!r}"
    if labelled:
        raise ConfigError(
            f"{where} is of unlabelled streams; leave it out, or set labelled = false, so that the "
            "stream learns from teachers alone"
        )
    terms = zip(objective.labels, objective.terms, strict=True)
    active = objective.active(labelled)
    whole = [label for label, term in terms if label in active and term.whole_frames()]
    if whole:
        raise ConfigError(
            f"{where}: {', '.join(whole)} judges frames as a whole, and mixed ones are put "
            "together of two; leave out mix, or the term"
        )
    by = objective.first_pseudo_label()
    if stream.mix == "cutmix" or by is None:  # without a teacher the stream is refused later
        return frozenset()
    LOG.info("stream %s: frames are mixed by the classes of %s", name, by)
    return frozenset({by})
