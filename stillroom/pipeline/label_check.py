"""Look at the cached labels before training: whether there is anything in them to learn."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.artifacts import IGNORE, LABELS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.objective import Objective

LOG = logging.getLogger(__name__)
MOST = 256  # frames, spread over a stream, in which a class is looked for


def check_labels(
    objective: Objective, streams: Mapping[str, CacheDataset], classes: Sequence[str]
) -> None:
    """Say which classes no label has; refuse a run that has nothing to learn from.

    Reads a frame or two where every class is common, at most `MOST` of a stream where one is
    absent, and all of it where no pixel has a label.

    Raises:
        ConfigError: every term reads labels alone, and no pixel has one.
    """
    reads = {
        name: objective.reads(dataset.labelled, clips=dataset.clips)
        for name, dataset in streams.items()
    }
    empty = []
    for name, dataset in streams.items():
        if LABELS in reads[name] and not _has_labels(name, dataset, classes):
            empty.append(name)
    others = frozenset().union(*reads.values()) - {LABELS}
    labelled = [name for name in streams if LABELS in reads[name]]
    if empty and empty == labelled and not others:
        raise ConfigError(
            f"train.streams: no pixel of {', '.join(empty)} has a label and every term reads "
            "labels, so there is nothing to learn; look at the source's mapping and `ignore` "
            f"(ids that are ignored become {IGNORE}), build the cache again, or add a term with a "
            "teacher"
        )


def _has_labels(name: str, dataset: CacheDataset, classes: Sequence[str]) -> bool:
    """Whether a stream has a labelled pixel; say what it lacks."""
    order = _spread(dataset.indices)
    seen, read = np.zeros(len(classes), bool), 0
    for index in order:
        labels = dataset.frames.read(LABELS, int(index))
        seen |= np.bincount(labels.reshape(-1), minlength=IGNORE + 1)[: len(classes)] > 0
        read += 1
        if seen.all() or (seen.any() and read >= MOST):
            break
    if not seen.any():
        LOG.warning(
            "stream %s: no pixel of its %d frames has a label; look at the mapping and `ignore` of "
            "its source",
            name,
            len(order),
        )
    elif not seen.all():
        absent = [each for each, there in zip(classes, seen, strict=True) if not there]
        LOG.warning(
            "stream %s: no pixel of %s frames has the class%s %s; the student cannot learn what "
            "labels do not show (are the source's classes, mapping and `ignore` right?)",
            name,
            f"its {read}" if read == len(order) else f"{read} of its {len(order)}",
            "es" if len(absent) > 1 else "",
            ", ".join(absent),
        )
    return bool(seen.any())


def _spread(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frames in an order whose first ones lie all over the stream."""
    steps = max(1, len(indices) // MOST)
    return np.concatenate([indices[start::steps] for start in range(steps)])
