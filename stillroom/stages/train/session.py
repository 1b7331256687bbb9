"""What follows a training step: metrics, validation, checkpoints, and who wants to know."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.across_ranks import rank, take_from_first
from stillroom.stages.train import run_folder
from stillroom.stages.train.checkpoint import save_best, save_last
from stillroom.stages.train.finite import demand_finite_weights
from stillroom.stages.train.job import Progress
from stillroom.stages.train.metrics import Window
from stillroom.stages.train.step import lr_at, take_step
from stillroom.stages.train.watch import ZeroWatch
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stillroom.stages.models.student import Student
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.checkpoint import Learner
    from stillroom.stages.train.job import TrainJob
    from stillroom.stages.train.metrics import Metrics
    from stillroom.stages.train.packed.packed_batch import PackedBatch
    from stillroom.stages.train.step import Step, Taken


class Session:
    """Takes the steps of a run, and does what follows each.

    The numbers of a step on a GPU are read when the next step is on its way, which they do not hold
    up; before anything that needs the weights as they are (a score, a checkpoint), all of them.
    """

    def __init__(
        self, job: TrainJob, learner: Learner, metrics: Metrics, about: Mapping[str, Any]
    ) -> None:
        self.job, self.learner, self.metrics, self.about = job, learner, metrics, about
        self._watch = ZeroWatch()
        self._unread: deque[Taken] = deque()
        self._read: list[Progress] = []  # of which nobody was told yet

    def step(self, parts: list[list[Batch | PackedBatch]]) -> None:
        """Take one."""
        job, learner = self.job, self.learner
        every = job.settings.gradients_every
        due = every > 0 and learner.step % every == 0
        lr = lr_at(job, learner.updates)
        self._unread.append(take_step(job, learner, parts, lr, gradients=due))
        learner.step += 1

    def follow(self) -> None:
        """Do what is due after a step."""
        settings = self.job.settings
        asked = settings.validation
        validate = self.job.validate if asked is not None and self._is_due(asked.every) else None
        saves = self._is_due(settings.checkpoint_every)
        late = reads_late(self.learner)
        self._catch_up(late=late and validate is None and not saves)
        if validate is not None:
            self._read[-1] = dataclasses.replace(self._read[-1], scores=self._score(validate))
        if saves:
            self.save()
            self.metrics.flush()

    def tell(self) -> KeyboardInterrupt | None:
        """Call the job's `on_step` for every step that has been read; return its interruption."""
        told, self._read = self._read, []
        if self.job.on_step is not None and rank() == 0:
            try:
                for progress in told:
                    self.job.on_step(progress)
            except KeyboardInterrupt as interruption:
                return interruption
        return None

    def save(self) -> None:
        """Write last.pt, on rank 0."""
        learner = self.learner
        self._catch_up()
        kept = (*learner.student.parameters(), *learner.terms.parameters())
        demand_finite_weights(kept, learner.step)
        if rank() == 0:
            save_last(self.job.settings.path / run_folder.LAST, learner, self.about)

    def _catch_up(self, *, late: bool = False) -> None:
        """Read the numbers of the steps that were taken; `late`: all but the last one's."""
        while len(self._unread) > late:
            taken = self._unread.popleft()
            step = taken.values()
            self.learner.window.add(step.loss, step.terms)
            self._watch.add(step.terms, taken.number)
            self._log(taken, step)
            self._read.append(self._progress(taken, step))

    def _log(self, taken: Taken, step: Step) -> None:
        job, learner, number = self.job, self.learner, taken.number
        if step.gradients:
            self.metrics.values("gradients", number, job.epoch(number), step.gradients)
        if number % job.settings.log_every and number not in (1, job.steps):
            return  # the first step has a line of its own: curves begin where training does
        learner.last = learner.window.mean()
        learner.window = Window()
        self.metrics.steps(number, job.epoch(number), taken.lr, learner.last, learner.seconds)
        if step.watched:
            self.metrics.values("watched", number, job.epoch(number), step.watched)

    def _progress(self, taken: Taken, step: Step) -> Progress:
        job, learner, number = self.job, self.learner, taken.number
        times = learner.seconds, learner.wait_seconds
        return Progress(
            number, job.steps, job.epoch(number), step.loss, step.terms, taken.lr, *times
        )

    def _is_due(self, every: int) -> bool:
        return self.learner.step % every == 0 or self.learner.step == self.job.steps

    def _score(self, validate: Callable[[Student], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Score the student, and keep it where it is the best so far.

        Every rank scores its share of the frames, with the buffers that rank 0 would save.
        """
        job, learner = self.job, self.learner
        take_from_first(learner.shown.buffers())
        with torch.no_grad():
            scores = validate(learner.shown.eval())
        self.metrics.values("scores", learner.step, job.epoch(learner.step), scores)
        if job.score not in scores:
            given = ", ".join(scores) or "nothing"
            raise ConfigError(f"validation gave {given}, and no {job.score!r}")
        score = float(scores[job.score])
        if math.isfinite(score) and (learner.best_score is None or score > learner.best_score):
            learner.best_score, learner.best_step = score, learner.step
            if rank() == 0:
                save_best(job.settings.path / run_folder.BEST, learner, scores, self.about)
        return scores


def reads_late(learner: Learner) -> bool:
    """Whether a step's numbers come from a device that they would have to be waited for."""
    return learner.device.type == "cuda"
