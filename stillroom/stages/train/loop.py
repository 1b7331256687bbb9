"""The training loop, from top to bottom.

    claim the folder -> resume -> for each step:
        wait for the streams' batches -> take_step (step.py): one forward of the student over all of
        them -> the objective, stream by stream -> backward -> clip -> optimiser -> average
        -> session.py: metrics -> validate -> checkpoint
    -> export

A step depends on the weights, the step's number and the seed, and on nothing else: a run that was
interrupted and resumed has the losses of one that was not, to the last bit on a CPU.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.nvtx import show_ranges
from stillroom.stages.train import run_folder
from stillroom.stages.train.checkpoint import Learner, export, load_checkpoint, new_learner
from stillroom.stages.train.interrupt import DeferredInterrupt
from stillroom.stages.train.job import TrainJob, TrainResult
from stillroom.stages.train.metrics import Metrics
from stillroom.stages.train.session import Session
from stillroom.stages.train.stream import open_loader
from stillroom.storage_specs.spans import span

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
    show_ranges(device.type)
    with (
        open_loader(job, learner.step) as loader,
        Metrics(job.settings.path, learner.step) as metrics,
        DeferredInterrupt() as interrupt,
    ):
        batches, session = iter(loader), Session(job, learner, metrics, about)
        while learner.step < job.steps:
            began = time.perf_counter()
            try:
                with span("wait"):
                    parts = [next(batches) for _ in range(job.parts)]
            except Exception:
                session.save()  # the weights are those of a whole step
                raise
            learner.wait_seconds += time.perf_counter() - began
            session.step(parts)
            learner.seconds += time.perf_counter() - began
            session.follow()
            try:
                session.tell()
                interrupt.raise_if_asked()
            except KeyboardInterrupt:
                session.save()
                LOG.warning("interrupted at step %d of %d, saved", learner.step, job.steps)
                raise


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
