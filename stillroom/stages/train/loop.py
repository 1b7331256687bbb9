"""The training loop, from top to bottom.

    claim the folder -> resume -> for each step:
        wait for the streams' batches -> take_step (step.py): one forward of the student over all of
        them -> the objective, stream by stream -> backward -> clip -> optimiser -> average
        -> session.py: metrics -> validate -> checkpoint
    -> export

A step depends on the weights, the step's number and the seed, and on nothing else: a run that was
interrupted and resumed has the losses of one that was not, to the last bit on a CPU.

Several processes run the same loop, each on its share of a step's batches (across_ranks.py): their
losses are means over all frames, their gradients are averaged, and rank 0 alone writes.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.across_ranks import (
    agree,
    alone,
    everyones,
    rank,
    said_once,
    take_from_first,
    together,
)
from stillroom.stages.nvtx import show_ranges
from stillroom.stages.train import run_folder
from stillroom.stages.train.checkpoint import Learner, export, load_checkpoint, new_learner
from stillroom.stages.train.interrupt import DeferredInterrupt
from stillroom.stages.train.job import LENGTH, TrainJob, TrainResult
from stillroom.stages.train.metrics import Metrics, Unwritten
from stillroom.stages.train.session import Session
from stillroom.stages.train.stream import open_loader
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.spans import span

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.packed.packed_batch import PackedBatch

LOG = logging.getLogger(__name__)
LET_GO_SECONDS = 30.0  # that a killed rank 0 of the same run may take to let go of its folder


def train(job: TrainJob) -> TrainResult:
    """Train a student from the cache, or resume, or say that it is done already.

    Raises:
        ConfigError: the folder holds another run, or another process trains in it; a loss or a
            gradient is not finite.
        CacheError: the cache cannot be read, or was rebuilt since the run began.
        KeyboardInterrupt: after saving last.pt; the same call resumes.
    """
    about = {"config": dict(job.config), "fingerprints": _fingerprints(job)}
    with ExitStack() as held:
        together(lambda: _claim(job, about, held))
        return _go_on(job, about)


def _claim(job: TrainJob, about: Mapping[str, Any], held: ExitStack) -> None:
    """Take the run's folder, which rank 0 does for all."""
    folder = job.settings.path
    if rank() == 0:
        held.enter_context(run_folder.alone(folder, 0.0 if alone() else LET_GO_SECONDS))
        may_differ = job.may_differ if job.follows_length else (*job.may_differ, *LENGTH)
        run_folder.claim(folder, about["config"], about["fingerprints"], may_differ)


def _go_on(job: TrainJob, about: Mapping[str, Any]) -> TrainResult:
    """Train from where the run's folder is, to the end."""
    folder = job.settings.path
    checkpoint = together(lambda: load_checkpoint(folder / run_folder.LAST))
    _demand_one_folder(folder, checkpoint)
    if checkpoint is not None and checkpoint["step"] > job.steps:
        raise said_once(
            ConfigError(
                f"run folder {folder}: has come to step {checkpoint['step']}, and the run is to "
                f"have {job.steps}; give it more steps, or train.path another folder"
            )
        )
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
    for network in (job.student, job.objective.states):
        take_from_first([*network.parameters(), *network.buffers()])
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
        Metrics(job.settings.path, learner.step) if rank() == 0 else Unwritten() as metrics,
        DeferredInterrupt() as interrupt,
    ):
        batches, session = iter(loader), Session(job, learner, metrics, about)
        stop: BaseException | None = None
        while learner.step < job.steps:
            began = time.perf_counter()
            parts: list[list[Batch | PackedBatch]] = []
            try:
                if stop is None:
                    with span("wait"):
                        parts += (next(batches) for _ in range(job.parts))
            except Exception as error:
                stop = error
            _stop_together(session, stop)
            learner.wait_seconds += time.perf_counter() - began
            session.step(parts)
            learner.seconds += time.perf_counter() - began
            session.follow()
            stop = session.tell() or interrupt.held_back()
        _stop_together(session, stop)


def _stop_together(session: Session, stop: BaseException | None) -> None:
    """Save and stop where this rank or another has to; the weights are those of a whole step."""
    try:
        agree(stop)
    except BaseException as error:
        session.save()
        if isinstance(error, KeyboardInterrupt):
            at = session.learner.step, session.job.steps
            LOG.warning("interrupted at step %d of %d, saved", *at)
        raise


def _finish(job: TrainJob, learner: Learner, about: Mapping[str, Any]) -> TrainResult:
    """Export the network to use, and write down what the run came to."""
    folder = job.settings.path
    result = TrainResult(
        steps=learner.step,
        best_score=learner.best_score,
        best_step=learner.best_step,
        losses=learner.last,
        seconds=learner.seconds,
        wait_seconds=learner.wait_seconds,
        skipped={name: len(dataset.skipped) for name, dataset in job.streams.items()},
        score=job.score,
    )
    if rank() == 0:
        _export_chosen(job, learner, about)
        run_folder.write_json(folder / run_folder.RESULT, dataclasses.asdict(result))
    return dataclasses.replace(result, paths=run_folder.paths(folder))


def _export_chosen(job: TrainJob, learner: Learner, about: Mapping[str, Any]) -> None:
    """Export the best student, or the last where none was scored."""
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


def _demand_one_folder(folder: Path, checkpoint: Mapping[str, Any] | None) -> None:
    """Refuse a run folder that is another one on some machine."""
    steps = everyones(0 if checkpoint is None else checkpoint["step"])
    if len(set(steps)) > 1:
        raise said_once(
            ConfigError(
                f"run folder {folder}: the workers' checkpoints there are of the steps "
                f"{', '.join(map(str, steps))} (0: none); expected one folder that all machines "
                "share: give train.path one on shared storage"
            )
        )


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
