"""Weights of tasks that are learned: how sure the student is of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from stillroom.stages.train.terms.term import TermState
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from stillroom.stages.train.terms.term import Term


class Uncertainty(TermState):
    """The log variance s of each task, which begins at 0 and trains beside the student.

    loss = sum over tasks of exp(-s_t) L_t + s_t / 2

    Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics", CVPR 2018, eq. 10, with s = log sigma^2 as there; arXiv:1705.07115.
    What is regressed has a factor of 1/2 before L_t there (eq. 7): the weight of its term.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.log_variances = nn.ParameterDict({t: nn.Parameter(torch.zeros(())) for t in tasks})

    def weighted(self, task: str | None, value: Tensor) -> Tensor:
        """Weigh the loss of a task; what belongs to none stays as it is."""
        return value if task is None else (-self.log_variances[task]).exp() * value

    def cost(self) -> Tensor:
        """Return what the weights themselves cost, ()."""
        return torch.stack(list(self.log_variances.values())).sum() / 2

    def watched(self) -> dict[str, Tensor]:
        return {task: s.detach() for task, s in self.log_variances.items()}


def uncertainty_of(terms: Sequence[Term]) -> Uncertainty:
    """Return weights for the tasks of these terms.

    Raises:
        ConfigError: they are of fewer than two.
    """
    tasks = sorted({term.task for term in terms if term.task is not None})
    if len(tasks) < 2:
        raise ConfigError(
            'train.task_weights = "uncertainty" weighs tasks against each other, and the terms are '
            f"all of {tasks[0] if tasks else 'features'}; leave it out"
        )
    return Uncertainty(tasks)
