"""A search in rounds: what a controller draws next follows from what earlier students scored.

Y. Liu, thesis, Adelaide 2021, section 6.3.4: "The geometric mean of the evaluation metrics is
employed as the reward." Nothing is kept of the controller: it learns anew, round by round, from
what is in the run folders, and draws the same again. So a sweep that was killed goes on.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.sweep.file import with_variants
from stillroom.pipeline.sweep.search import Draw, share
from stillroom.stages.evaluate.tasks import TASKS
from stillroom.stages.train.metrics import read_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stillroom.pipeline.sweep.file import Sweep, Trial
    from stillroom.pipeline.sweep.state import State

LOWEST = 0.0  # the reward of a student that failed, or has no finite score


def with_rounds(sweep: Sweep, state_of: Callable[[Trial], State]) -> Sweep:
    """Return a controller's sweep with all rounds that have ended, and the one that follows.

    Raises:
        ConfigError: what was drawn cannot be trained.
    """
    from stillroom.stages.choice_controller import ChoiceController

    config = sweep.config
    assert config.controller is not None
    seed, size = config.search_seed, config.controller.round
    lists = {key: one.choices for key, one in config.space.items() if isinstance(one, Draw)}
    controller = ChoiceController(list(map(len, lists.values())), seed)
    sweep = replace(sweep, rounds=())
    for first in range(0, config.samples, size):
        numbers = range(first, min(first + size, config.samples))
        chosen = controller.choose([[share(seed, key, at) for key in lists] for at in numbers])
        drawn = [
            config.at([{key: lists[key][at] for key, at in zip(lists, one, strict=True)}])
            for one in chosen
        ]
        sweep = with_variants(sweep, {name: one[name] for one in drawn for name in one})
        names = tuple(name for one in drawn for name in one)
        sweep = replace(sweep, rounds=(*sweep.rounds, names))
        known = {name: _mean_reward(sweep, name, state_of) for name in names}
        rewards = [found for name in names if (found := known[name]) is not None]
        if len(rewards) < len(names):
            break
        controller.learn(chosen, rewards)
    return sweep


def _mean_reward(sweep: Sweep, name: str, state_of: Callable[[Trial], State]) -> float | None:
    """Return the mean over the seeds of what was drawn; None where one has not ended."""
    found = [reward(one, state_of(one)) for one in sweep.students if one.row == name]
    known = [one for one in found if one is not None]
    return math.fsum(known) / len(known) if len(known) == len(found) else None


def reward(trial: Trial, state: State) -> float | None:
    """Return the geometric mean of a student's validation scores, one a task, 0 to 1.

    They are those at its best step, by which its network was kept, or at which it was stopped; 0 of
    one that failed; None of one that has not ended.
    """
    if state.kind == "failed":
        return LOWEST
    if state.result is not None:
        step = state.result["train"]["best_step"]
    elif state.stopped is not None:
        step = state.stopped["step"]
    else:
        return None
    lines = (line for line in read_metrics(trial.place) if line["step"] == step)
    scores: dict[str, Any] = next((line["scores"] for line in lines if "scores" in line), {})
    return geometric_mean([scores[row.best] for row in TASKS.values() if row.best in scores])


def geometric_mean(scores: Sequence[float | None]) -> float:
    """Return the geometric mean of scores, 0 to 1; 0 where none is known, or one is not."""
    known = [one for one in scores if one is not None and math.isfinite(one)]
    if not scores or len(known) < len(scores):
        return LOWEST
    return float(math.prod(known) ** (1 / len(known)))
