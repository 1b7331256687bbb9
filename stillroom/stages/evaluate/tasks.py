"""The table of tasks: what a head learns, from which target, and what it is scored by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from stillroom.stages.evaluate.depth_scores import DepthTally
from stillroom.stages.evaluate.normals_scores import NormalsTally
from stillroom.storage_specs.artifacts import DEPTH, LABELS, LOGITS, NORMALS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Tally(Protocol):
    """Counts of what was predicted, in pieces that merge; a new one has counted nothing."""

    pixels: int
    frames: int

    def add(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Add a frame: what a head gives at the truth's pixels, (C, H, W), and the truth."""

    def merge(self, other: Any) -> None:
        """Take another's counts in."""

    def scores(self) -> dict[str, float]:
        """Return the scores, by name, of one pixel and more."""


@dataclass(frozen=True)
class Task:
    """A row.

    Attributes:
        target: what a source labels its frames with
        output: the grid of a model that is scored
        best: the score, higher is better, by which training keeps the best student
        tally: what counts; None of segmentation, whose scores are those of `evaluate_source`
    """

    target: str
    output: str
    best: str
    tally: type[Tally] | None


TASKS = {
    "segmentation": Task(LABELS, LOGITS, "miou", None),
    "depth": Task(DEPTH, DEPTH, "depth/delta1", DepthTally),
    "normals": Task(NORMALS, NORMALS, "normals/within_11.25", NormalsTally),
}


def scored(heads: Iterable[str], who: str) -> str:
    """Return the task that a student is scored by: its first.

    Args:
        heads: its tasks; who: it or what asks, for the message

    Raises:
        ConfigError: it learns features alone.
    """
    task = next(iter(heads))
    if task not in TASKS:
        raise ConfigError(
            f"{who}: a student of {task} alone says nothing that can be scored; `stillroom "
            "export --to encoder` writes what a student of classes begins from: encoder_weights"
        )
    return task


def best_score(heads: Iterable[str]) -> str:
    """Return the name of the score that the best student has the highest of; "" if of none."""
    task = TASKS.get(next(iter(heads)))
    return "" if task is None else task.best
