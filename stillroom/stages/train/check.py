"""Measure every term of a run before it is trained: value, gradient, time, memory."""

from __future__ import annotations

import copy
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from stillroom.stages.train.checkpoint import new_learner
from stillroom.stages.train.live_memory import LiveMemory
from stillroom.stages.train.packed.arrival import on_device
from stillroom.stages.train.step import (
    demand_a_spread,
    forward,
    lr_at,
    seed_step,
    take_step,
    term_gradient_norm,
)
from stillroom.stages.train.stream import open_loader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillroom.stages.models.student import StudentOutput
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.checkpoint import Learner
    from stillroom.stages.train.job import TrainJob


@dataclass
class TermCheck:
    """One term on one stream, over the steps of a check.

    Attributes:
        stream: its name; "" of a term of the student's weights alone
        values: unweighted, one a step
        gradients: 2-norm of the weighted term's gradient by the student's parameters, one a step
        seconds: of the term alone, forward and back to the student's output; the least of the steps
        peak_bytes: of the tensors that this makes, at one time; the most of the steps
    """

    stream: str
    label: str
    weight: float
    values: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    seconds: float = math.inf
    peak_bytes: int = 0


@dataclass
class Check:
    """Measurements of the first steps of a run.

    Attributes:
        step_seconds: of a whole step of training, without reading; the least of the steps
        terms: each on each stream that feeds it
    """

    step_seconds: float
    terms: list[TermCheck]


def check(job: TrainJob, steps: int = 3) -> Check:
    """Take `steps` steps from the beginning and measure every term in each; writes nothing.

    The steps are those of training, to the same values, so the job's student is changed. Memory and
    time are measured on copies of what the terms keep.
    """
    device = torch.device(job.device)
    found: dict[tuple[str, str], TermCheck] = {}
    step_seconds = math.inf
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        learner = new_learner(job.student, job.objective, job.settings, device)
        with open_loader(job, steps=steps) as loader:
            loaded = iter(loader)
            for _ in range(steps):
                parts = [next(loaded) for _ in range(job.parts)]
                batches = on_device(parts[0], device, job.live)
                with _states_kept(job):
                    seed_step(job, learner)
                    for batch, output in zip(batches, forward(job, learner, batches), strict=True):
                        _measure(job, learner, batch, output, found)
                    _measure_penalties(job, learner, found)
                began = time.perf_counter()
                take_step(job, learner, parts, lr_at(job, learner.updates)).values()
                _synchronise(device)
                step_seconds = min(step_seconds, time.perf_counter() - began)
                learner.step += 1
    return Check(step_seconds, list(found.values()))


def _measure(
    job: TrainJob,
    learner: Learner,
    batch: Batch,
    output: StudentOutput,
    found: dict[tuple[str, str], TermCheck],
) -> None:
    """Measure every term that one batch feeds."""
    progress = learner.step / job.steps
    alone = _cut_off(output)
    with demand_a_spread(f"a term on stream {batch.stream}"):
        wholes = job.objective.values(output, batch, learner.student, progress)
    for label, whole in wholes.items():
        weight = job.objective.weight(label, batch.labelled)
        one = found.setdefault((batch.stream, label), TermCheck(batch.stream, label, weight))

        def value(label: str = label) -> torch.Tensor:
            return job.objective.value(label, alone, batch, learner.student, progress)

        _add(one, whole, job.objective.weighted(label, batch.labelled, whole), value, learner)


def _measure_penalties(
    job: TrainJob, learner: Learner, found: dict[tuple[str, str], TermCheck]
) -> None:
    """Measure every term of the student's weights alone."""
    for label, whole in job.objective.penalties(learner.student).items():
        weight = job.objective.weight(label, labelled=True)
        one = found.setdefault(("", label), TermCheck("", label, weight))

        def value(label: str = label) -> torch.Tensor:
            return job.objective.penalties(learner.student)[label]

        _add(one, whole, weight * whole, value, learner)


def _add(
    one: TermCheck,
    whole: torch.Tensor,
    weighted: torch.Tensor,
    value: Callable[[], torch.Tensor],
    learner: Learner,
) -> None:
    """Add a step's measurements.

    Args:
        whole, weighted: the value, with the way back to the student's parameters
        value: computes it again, for time and memory
    """
    one.values.append(whole.item())
    one.gradients.append(term_gradient_norm(weighted, learner).item())
    with LiveMemory() as memory:
        _back(value())
    one.peak_bytes = max(one.peak_bytes, memory.peak)
    _synchronise(learner.device)
    began = time.perf_counter()
    _back(value())
    _synchronise(learner.device)
    one.seconds = min(one.seconds, time.perf_counter() - began)


@contextmanager
def _states_kept(job: TrainJob) -> Iterator[None]:
    """Let terms train and remember on copies: however often one is measured, nothing is kept."""
    kept = job.objective.states
    job.objective.states = copy.deepcopy(kept)
    try:
        yield
    finally:
        job.objective.states = kept


def _cut_off(output: StudentOutput) -> StudentOutput:
    """The same output as if it were given, so that going back ends there."""
    return output.mapped(lambda grid: grid.detach().requires_grad_())


def _back(value: torch.Tensor) -> None:
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
