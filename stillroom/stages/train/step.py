"""One training step: forward, objective, backward, update."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stillroom.stages.train.checkpoint import uses_amp
from stillroom.stages.train.finite import demand_finite, gradient_norm
from stillroom.stages.train.optimiser import (
    learning_rate,
    set_learning_rate,
    trained_parameters,
)
from stillroom.stages.train.order import stable_seed
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from stillroom.stages.models.student import StudentOutput
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.checkpoint import Learner
    from stillroom.stages.train.job import TrainJob


@dataclass(frozen=True)
class Step:
    """The values of one step.

    Attributes:
        loss: the weighted sum
        terms: each term's value, unweighted, by "<stream>/<term>"
        gradients: 2-norm of each weighted term's own gradient, by the same names, where it was
            asked
        watched: numbers of the terms' states, by "<term>/<name>", before the update
    """

    loss: float
    terms: dict[str, float]
    gradients: dict[str, float] = dataclasses.field(default_factory=dict)
    watched: dict[str, float] = dataclasses.field(default_factory=dict)


def take_step(
    job: TrainJob, learner: Learner, batches: list[Batch], lr: float, *, gradients: bool = False
) -> Step:
    """Update the weights once.

    Args:
        gradients: measure those of each term by itself as well, by a backward pass a term

    Raises:
        ConfigError: where the loss or its gradient is not finite
    """
    seed_step(job, learner)
    weighted, values = _terms(job, learner, batches)
    loss = torch.stack(list(weighted.values())).sum()
    shown = job.objective.watched()
    every = loss, *values.values(), *shown.values()
    # One transfer from the device for all of them.
    found = torch.stack([value.detach() for value in every]).tolist()
    terms = dict(zip(values, found[1 : 1 + len(values)], strict=True))
    watched = dict(zip(shown, found[1 + len(values) :], strict=True))
    demand_finite("the loss", found[0], learner.step + 1, terms, batches)
    norms = _gradients_of(weighted, learner) if gradients else {}
    learner.optimiser.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    _demand_finite_gradient(job, learner, terms, batches)
    set_learning_rate(learner.optimiser, lr)
    learner.scaler.step(learner.optimiser)
    learner.scaler.update()
    job.objective.after_step()
    if learner.ema is not None:
        learner.ema.update(learner.student, learner.step)
    return Step(found[0], terms, norms, watched)


def seed_step(job: TrainJob, learner: Learner) -> None:
    """Let dropout and its like depend on the step, and not on what happened before it."""
    torch.manual_seed(stable_seed(job.settings.seed, "step", learner.step))


def lr_at(job: TrainJob, step: int) -> float:
    """Return the learning rate of a step: warm-up, then poly.

    Args:
        step: steps done before it
    """
    settings = job.settings
    return learning_rate(
        step,
        job.steps,
        base=settings.optimiser.lr,
        power=settings.poly_power,
        warmup_steps=settings.warmup_steps,
    )


def forward(job: TrainJob, learner: Learner, batches: list[Batch]) -> list[StudentOutput]:
    """Run the student once over the frames of all batches; its output, a part for each batch."""
    device = batches[0].images.device
    images = torch.cat([batch.images for batch in batches])  # (sum of B, 3, H, W)
    with (
        torch.autocast(device.type, enabled=uses_amp(job.settings, device)),
        demand_a_spread("the student"),
    ):
        output = learner.student.train()(images)
    return list(_split(output, batches))


@contextmanager
def demand_a_spread(what: str) -> Iterator[None]:
    """Say what to do about a batch whose single value torch's batch normalisation refuses."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"{what} normalises over the batch, and has a single value per channel to do it with "
            f"({error}): a frame is pooled to one cell, and the batch is 1; give "
            "train.streams a batch of 2 or more, or train.view a larger crop"
        ) from error


def _terms(
    job: TrainJob, learner: Learner, batches: list[Batch]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term as it is in the loss, and unweighted, by "<stream>/<term>"."""
    weighted, values = {}, {}
    progress = learner.step / job.steps
    for batch, output in zip(batches, forward(job, learner, batches), strict=True):
        with demand_a_spread(f"a term on stream {batch.stream}"):
            found = job.objective.values(output, batch, learner.student, progress)
        for label, value in found.items():
            name = f"{batch.stream}/{label}"
            values[name] = value
            weighted[name] = job.objective.weight(label, batch.labelled) * value
    return weighted, values


def _split(output: StudentOutput, batches: list[Batch]) -> Iterator[StudentOutput]:
    """Cut the student's output along its first axis, a part for each batch."""
    start = 0
    for batch in batches:
        part = slice(start, start + len(batch.images))
        features = {name: feature[part] for name, feature in output.features.items()}
        yield dataclasses.replace(output, logits=output.logits[part], features=features)
        start = part.stop


def _gradients_of(weighted: Mapping[str, Tensor], learner: Learner) -> dict[str, float]:
    norms = {name: term_gradient_norm(value, learner) for name, value in weighted.items()}
    return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))


def term_gradient_norm(value: Tensor, learner: Learner) -> Tensor:
    """Return the 2-norm, (), of the gradient of one term by the student's parameters."""
    parameters = [p for p in learner.student.parameters() if p.requires_grad]
    if not value.requires_grad:
        return value.new_zeros(())
    # In float16 a gradient vanishes without the loss scale.
    scale = learner.scaler.get_scale() if learner.scaler.is_enabled() else 1.0
    found = torch.autograd.grad(value * scale, parameters, retain_graph=True, allow_unused=True)
    there = [gradient for gradient in found if gradient is not None]
    return torch.nn.utils.get_total_norm(there) / scale if there else value.new_zeros(())


def _demand_finite_gradient(
    job: TrainJob, learner: Learner, terms: Mapping[str, float], batches: list[Batch]
) -> None:
    """Clip the gradient where that is asked for, and stop at one that is not finite.

    With a loss scale, such a gradient only means that the scale is too high: the scaler leaves the
    step out and halves it. Below 1 that is no explanation any more.
    """
    learner.scaler.unscale_(learner.optimiser)
    norm = gradient_norm(trained_parameters(learner.optimiser), job.settings.optimiser.clip)
    if not learner.scaler.is_enabled() or learner.scaler.get_scale() < 1:
        demand_finite("the gradient's norm", norm.item(), learner.step + 1, terms, batches)
