"""The training loop, from top to bottom.

    claim the folder -> resume -> for each step:
        wait for the streams' batches -> one forward of the student over all of them
        -> the objective, stream by stream -> backward -> clip -> optimiser -> average
        -> metrics -> validate -> checkpoint
    -> export

A step depends on the weights, the step's number and the seed, and on nothing else: a run that was
interrupted and resumed has the losses of one that was not, to the last bit on a CPU.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.train import run_folder
from stillroom.stages.train.checkpoint import (
    Learner,
    export,
    load_checkpoint,
    new_learner,
    save_best,
    save_last,
)
from stillroom.stages.train.finite import demand_finite_weights
from stillroom.stages.train.interrupt import DeferredInterrupt
from stillroom.stages.train.job import Progress, TrainJob, TrainResult
from stillroom.stages.train.metrics import Metrics, Window
from stillroom.stages.train.step import Step, lr_at, take_step
from stillroom.stages.train.stream import Loader
from stillroom.stages.train.watch import ZeroWatch
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG = logging.getLogger(__name__)


def train(job: TrainJob) -> TrainResult:
    """Train a student from the cache, or resume, or say that it is done already.

    Raises:
        ConfigError: the folder holds another run, or another process trains in it; a loss or a
            gradient is not finite.
        CacheError: the cache cannot be read, or was rebuilt since the run began.
        KeyboardInterrupt: after saving last.pt; the same call resumes.
    """
    folder = job.settings.path
    about = {"config": dict(job.config), "fingerprints": _fingerprints(job)}
    with run_folder.alone(folder):
        run_folder.claim(folder, about["config"], about["fingerprints"], job.may_differ)
        return _go_on(job, about)


def _go_on(job: TrainJob, about: Mapping[str, Any]) -> TrainResult:
    """Train from where the run's folder is, to the end."""
    folder = job.settings.path
    checkpoint = load_checkpoint(folder / run_folder.LAST)
    finished = _finished(job, checkpoint)
    if finished is not None:
        LOG.info("run %s is finished (%d steps); nothing to train", folder, finished.steps)
        return finished
    for stream, dataset in job.streams.items():
        if dataset.skipped:
            count = len(dataset.skipped)
            LOG.warning("stream %s: %d bad row%s left out", stream, count, "s" * (count > 1))
        if dataset.bad_labels:
            count = len(dataset.bad_labels)
            LOG.warning("stream %s: %d bad label%s left out", stream, count, "s" * (count > 1))
    device = torch.device(job.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        learner = new_learner(job.student, job.objective, job.settings, device)
        if checkpoint is not None:
            learner.restore(checkpoint)
            # A warning, since only those are shown: the run may have been meant to be a new one.
            LOG.warning("run %s: resuming at step %d of %d", folder, learner.step, job.steps)
        _run(job, learner, device, about)
    return _finish(job, learner, about)


def _run(job: TrainJob, learner: Learner, device: torch.device, about: Mapping[str, Any]) -> None:
    """Take every step that is left; last.pt is up to date when this returns."""
    settings = job.settings
    loader = Loader(
        job.streams,
        {name: stream.batch for name, stream in settings.streams.items()},
        seed=settings.seed,
        steps=job.steps,
        start_step=learner.step,
        threads=settings.threads,
        processes=settings.loader == "processes",
        pin=device.type == "cuda",
    )
    with (
        loader,
        Metrics(settings.path, learner.step) as metrics,
        DeferredInterrupt() as interrupt,
    ):
        steps, watch = iter(loader), ZeroWatch()
        while learner.step < job.steps:
            began = time.perf_counter()
            try:
                batches = next(steps)
            except Exception:
                _save(job, learner, about)  # the weights are those of a whole step
                raise
            learner.wait_seconds += time.perf_counter() - began
            lr = lr_at(job, learner.step)
            batches = [batch.to(device, non_blocking=True) for batch in batches]
            step = take_step(job, learner, batches, lr, gradients=_gradients_due(job, learner.step))
            learner.step += 1
            learner.window.add(step.loss, step.terms)
            watch.add(step.terms, learner.step)
            learner.seconds += time.perf_counter() - began
            _log(job, learner, lr, step, metrics)
            scores = _validate(job, learner, metrics, about)
            if learner.step % settings.checkpoint_every == 0 or learner.step == job.steps:
                _save(job, learner, about)
                metrics.flush()
            try:
                if job.on_step is not None:
                    job.on_step(_progress(job, learner, step, lr, scores))
                interrupt.raise_if_asked()
            except KeyboardInterrupt:
                _save(job, learner, about)
                LOG.warning("interrupted at step %d of %d, saved", learner.step, job.steps)
                raise


def _save(job: TrainJob, learner: Learner, about: Mapping[str, Any]) -> None:
    kept = (*learner.student.parameters(), *learner.terms.parameters())
    demand_finite_weights(kept, learner.step)
    save_last(job.settings.path / run_folder.LAST, learner, about)


def _gradients_due(job: TrainJob, step: int) -> bool:
    every = job.settings.gradients_every
    return every > 0 and step % every == 0


def _log(job: TrainJob, learner: Learner, lr: float, step: Step, metrics: Metrics) -> None:
    if step.gradients:
        metrics.values("gradients", learner.step, job.epoch(learner.step), step.gradients)
    if learner.step % job.settings.log_every and learner.step not in (1, job.steps):
        return  # the first step has a line of its own: curves begin where training does
    learner.last = learner.window.mean()
    learner.window = Window()
    metrics.steps(learner.step, job.epoch(learner.step), lr, learner.last, learner.seconds)
    if step.watched:
        metrics.values("watched", learner.step, job.epoch(learner.step), step.watched)


def _validate(
    job: TrainJob, learner: Learner, metrics: Metrics, about: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Score the student where it is time to, and keep it where it is the best so far."""
    asked = job.settings.validation
    if job.validate is None or asked is None:
        return None
    if learner.step % asked.every and learner.step != job.steps:
        return None
    with torch.no_grad():
        scores = job.validate(learner.shown.eval())
    metrics.values("scores", learner.step, job.epoch(learner.step), scores)
    if job.score not in scores:
        raise ConfigError(f"validation gave {', '.join(scores) or 'nothing'}, and no {job.score!r}")
    score = float(scores[job.score])
    if math.isfinite(score) and (learner.best_score is None or score > learner.best_score):
        learner.best_score, learner.best_step = score, learner.step
        save_best(job.settings.path / run_folder.BEST, learner, scores, about)
    return scores


def _progress(
    job: TrainJob,
    learner: Learner,
    step: Step,
    lr: float,
    scores: Mapping[str, Any] | None,
) -> Progress:
    epoch = job.epoch(learner.step)
    times = learner.seconds, learner.wait_seconds
    return Progress(learner.step, job.steps, epoch, step.loss, step.terms, lr, *times, scores)


def _finish(job: TrainJob, learner: Learner, about: Mapping[str, Any]) -> TrainResult:
    """Export the network to use, and write down what the run came to."""
    folder = job.settings.path
    chosen, step, score = learner.shown, learner.step, None
    best = load_checkpoint(folder / run_folder.BEST) if learner.best_step is not None else None
    if best is not None:
        chosen, step, score = copy.deepcopy(chosen), best["step"], best["scores"][job.score]
        chosen.load_state_dict(best["student"])
    elif learner.best_step is not None:
        LOG.warning(
            "%s is gone: the model is that of the last step, not of step %d, which scored %.4f",
            folder / run_folder.BEST,
            learner.best_step,
            learner.best_score,
        )
    metadata = {"step": step, "score": score, "stride": chosen.stride, **about}
    export(folder / run_folder.MODEL, chosen, metadata)
    result = TrainResult(
        steps=learner.step,
        best_score=learner.best_score,
        best_step=learner.best_step,
        losses=learner.last,
        seconds=learner.seconds,
        wait_seconds=learner.wait_seconds,
        skipped={name: len(dataset.skipped) for name, dataset in job.streams.items()},
    )
    run_folder.write_json(folder / run_folder.RESULT, dataclasses.asdict(result))
    return dataclasses.replace(result, paths=run_folder.paths(folder))


def _finished(job: TrainJob, checkpoint: Mapping[str, Any] | None) -> TrainResult | None:
    """The result of a run that has come to its end; the student gets its weights."""
    folder = job.settings.path
    found = run_folder.read_json(folder / run_folder.RESULT)
    if found is None or checkpoint is None or checkpoint["step"] < job.steps:
        return None
    if not (folder / run_folder.MODEL).exists():
        return None
    job.student.load_state_dict(checkpoint["student"])
    return TrainResult(**{**found, "paths": run_folder.paths(folder), "already_finished": True})


def _fingerprints(job: TrainJob) -> dict[str, str]:
    if job.fingerprints is not None:
        return dict(job.fingerprints)
    return {k: v for dataset in job.streams.values() for k, v in dataset.fingerprints.items()}
