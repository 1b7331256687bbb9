"""Look at a student's heads before training: whether terms teach them, and bins hold the depth."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from stillroom.pipeline.cache_tools.sample import evenly
from stillroom.stages.models.task_heads import DepthHead
from stillroom.storage_specs.artifacts import DEPTH
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.stages.models.student import Student
    from stillroom.stages.models.student_settings import StudentSettings
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.objective import Objective

LOG = logging.getLogger(__name__)
FRAMES = 32  # of a stream, spread evenly
MUCH = 0.05  # of the pixels that have a depth


def check_heads(student: StudentSettings, objective: Objective) -> None:
    """Refuse heads that are named and that no term teaches (ConfigError).

    The head of segmentation of a student that names none may stay as it came.
    """
    taught = {term.task or term.grid.partition("/")[0] for term in objective.terms}
    idle = [] if student.heads is None else [one for one in student.by_task() if one not in taught]
    if idle:
        raise ConfigError(
            f"student.heads.{idle[0]}: no term teaches it, and it would stay random; "
            "add a term of its task (docs/losses.md), or leave the head out"
        )


def check_depth(student: Student, streams: Mapping[str, CacheDataset]) -> None:
    """Warn where much of the true depth of a stream lies beyond the bins of the student's head.

    Raises:
        ConfigError: all of it does, as of data in another unit.
    """
    head = student.heads.get(DepthHead.task)
    for name, stream in streams.items():
        if isinstance(head, DepthHead) and head.bins and DEPTH in stream.targets:
            _check(head, name, stream)


def _check(head: DepthHead, name: str, stream: CacheDataset) -> None:
    chosen = evenly([int(index) for index in stream.indices], FRAMES)
    depth = np.concatenate([stream.frames.read(DEPTH, index).ravel() for index in chosen])
    known = depth[depth > 0]
    if not known.size:
        LOG.warning("stream %s: no pixel of %d frames has a depth", name, len(chosen))
        return
    beyond = float(((known < head.low) | (known > head.high)).mean())
    low, high = np.quantile(known, (0.01, 0.99)).tolist()
    said = (
        f"stream {name}: {beyond:.0%} of its depth lies beyond student.heads.depth.low = "
        f"{head.low:g} and high = {head.high:g} m, and counts as the first or the last bin; 98 % "
        f"lies within {low:.2f} and {high:.2f} m"
    )
    if beyond == 1:
        raise ConfigError(f"{said}; set low and high to hold it, or the source's `unit`")
    if beyond > MUCH:
        LOG.warning("%s", said)
