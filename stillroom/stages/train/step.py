"""One training step: forward, objective, backward, update.

Nothing here waits for a GPU before it has all of the step's work: the numbers of a step are read
when the next one is on its way.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stillroom.stages.across_ranks import alone, average, average_gradients, averaged, rank
from stillroom.stages.device_values import Late
from stillroom.stages.seeds import stable_seed
from stillroom.stages.train.checkpoint import amp_type
from stillroom.stages.train.finite import demand_finite, gradient_norm
from stillroom.stages.train.optimiser import (
    learning_rate,
    set_learning_rate,
    trained_parameters,
)
from stillroom.stages.train.packed.arrival import on_device
from stillroom.stages.train.step_part import step_part
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from stillroom.stages.models.student import StudentOutput
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.checkpoint import Learner
    from stillroom.stages.train.job import TrainJob
    from stillroom.stages.train.packed.packed_batch import PackedBatch


LOSS = "the loss"


@dataclass(frozen=True)
class Step:
    """The values of one step.

    Attributes:
        loss: the weighted sum
        terms: values, unweighted, by "<stream>/<term>", or "<term>" of weights; mean over the parts
        gradients: 2-norm of each weighted term's own gradient, by the same names, where it was
            asked; of the first part
        watched: numbers of the terms' states, by "<term>/<name>", before the update
    """

    loss: float
    terms: dict[str, float]
    gradients: dict[str, float] = dataclasses.field(default_factory=dict)
    watched: dict[str, float] = dataclasses.field(default_factory=dict)


class Taken:
    """A step that was taken, whose numbers may still be on their way from the device.

    Attributes:
        number: of the step, counted from 1
        lr: the learning rate that it used
    """

    def __init__(self, number: int, lr: float, batches: Iterable[Batch | PackedBatch]) -> None:
        self.number = number
        self.lr = lr
        self._frame_ids = [frame_id for batch in batches for frame_id in batch.frame_ids]
        self._coming: list[tuple[list[tuple[str, str]], Late]] = []

    def put(self, **kinds: Mapping[str, Tensor]) -> None:
        """Begin to copy numbers, (), to the host: by kind and name, in one transfer.

        Of several ranks they are the means over them, which are those of the whole batch.
        """
        names = [(kind, name) for kind, values in kinds.items() for name in values]
        every = [value.detach() for values in kinds.values() for value in values.values()]
        self._coming.append((names, Late(averaged(torch.stack(every)))))

    def values(self) -> Step:
        """Return the numbers, when they have arrived.

        Raises:
            ConfigError: the loss or its gradient was not finite.
        """
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for names, late in self._coming:
            for (kind, name), number in zip(names, late.tensor().tolist(), strict=True):
                found[kind][name] = number
        for what, number in found["whole"].items():
            demand_finite(what, number, self.number, found["terms"], self._frame_ids)
        return Step(found["whole"][LOSS], found["terms"], found["gradients"], found["watched"])


def take_step(
    job: TrainJob,
    learner: Learner,
    parts: Sequence[Sequence[Batch | PackedBatch]],
    lr: float,
    *,
    gradients: bool = False,
) -> Taken:
    """Update the weights once.

    Numbers that are not finite are found before the weights change on a CPU, where it costs nothing
    to look at them, and on a GPU where the step's values are read: before they are saved.

    Args:
        parts: a batch of every stream, once or several times, whose gradients are averaged; on
            any device
        gradients: measure those of each term by itself as well, by a backward pass a term

    Raises:
        ConfigError: the loss or its gradient is not finite, or does not fit into the memory
    """
    taken = Taken(learner.step + 1, lr, [batch for part in parts for batch in part])
    learner.optimiser.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for place, part in enumerate(parts):
        batches = on_device(part, learner.device, job.live)
        seed_step(job, learner, place)
        weighted, values = _terms(job, learner, batches, place)
        loss = torch.stack(list(weighted.values())).sum() / len(parts)
        shares = {LOSS: loss, **{name: value / len(parts) for name, value in values.items()}}
        sums = {name: sums.get(name, 0) + share.detach() for name, share in shares.items()}
        if place == len(parts) - 1:
            shown = job.objective.watched()
            taken.put(whole={LOSS: sums.pop(LOSS)}, terms=sums, watched=shown)
            _look_now(taken, loss)
        if gradients and place == 0:
            taken.put(gradients=_gradients_of(weighted, learner))
        with step_part("backward"):
            learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    with step_part("optimiser"):
        _update(job, learner, taken)
    return taken


def _update(job: TrainJob, learner: Learner, taken: Taken) -> None:
    """Move the weights and all that follows them; nothing where the loss scale was too high.

    Such a scale makes gradients infinite, and the scaler leaves the step out and halves it. Below 1
    it explains nothing any more.
    """
    scaler = learner.scaler
    average_gradients(trained_parameters(learner.optimiser))
    scaler.unscale_(learner.optimiser)
    norm = gradient_norm(trained_parameters(learner.optimiser), job.settings.optimiser.clip)
    if not scaler.is_enabled():
        taken.put(whole={"the gradient's norm": norm})
        _look_now(taken, norm)
    set_learning_rate(learner.optimiser, taken.lr)
    moved = _moved(learner)
    if not moved and scaler.get_scale() < 1:
        taken.put(whole={"the gradient's norm": norm})
        taken.values()
    scaler.update()
    job.objective.after_step(taken=moved)
    if not moved:
        learner.skipped += 1
    elif learner.ema is not None:
        learner.ema.update(learner.student, learner.updates)


def _look_now(taken: Taken, number: Tensor) -> None:
    """Stop at what is not finite, where that does not wait for a device."""
    if not number.is_cuda:
        taken.values()


def _moved(learner: Learner) -> bool:
    """Let the scaler step the optimiser, and return whether it did."""
    moved: list[bool] = []
    hook = learner.optimiser.register_step_post_hook(lambda *_: moved.append(True))
    learner.scaler.step(learner.optimiser)
    hook.remove()
    return bool(moved)


def seed_step(job: TrainJob, learner: Learner, part: int = 0, *of_rank: int) -> None:
    """Let dropout and its like depend on the step, and not on what happened before it.

    Args:
        of_rank: a rank whose numbers are to be others than other ranks'
    """
    batch = learner.step * job.parts + part
    torch.manual_seed(stable_seed(job.settings.seed, "step", batch, *of_rank))


def lr_at(job: TrainJob, step: int) -> float:
    """Return the learning rate of a step: warm-up, then as the schedule says.

    Args:
        step: updates of the weights before it
    """
    settings = job.settings
    return learning_rate(
        step,
        job.steps,
        base=settings.optimiser.lr,
        schedule=settings.schedule or "poly",
        power=settings.poly_power,
        milestones=settings.milestones or (),
        drop=settings.milestone_factor or 0.1,
        warmup_steps=settings.warmup_steps,
    )


def forward(job: TrainJob, learner: Learner, batches: list[Batch]) -> list[StudentOutput]:
    """Run the student once over the frames of all batches; its output, a part for each batch."""
    device = batches[0].images.device
    seen = [
        batch.images if learner.augment is None else learner.augment(batch) for batch in batches
    ]
    images = torch.cat(seen)  # (sum of B, 3, H, W)
    half = amp_type(job.settings, device)
    with (
        step_part("forward"),
        torch.autocast(device.type, dtype=half, enabled=half is not None),
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
    job: TrainJob, learner: Learner, batches: list[Batch], part: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term as it is in the loss, and unweighted, named as in `Step`.

    Of several ranks each drops units of the student that are its own; terms draw for the frames of
    all of them, from the same numbers as one process would.
    """
    weighted, values = {}, {}
    progress = learner.step / job.steps
    if not alone():
        seed_step(job, learner, part, rank())
    outputs = forward(job, learner, batches)
    if not alone():
        seed_step(job, learner, part)
    for batch, output in zip(batches, outputs, strict=True):
        with demand_a_spread(f"a term on stream {batch.stream}"):
            found = job.objective.values(output, batch, learner.student, progress)
        for label, value in found.items():
            name = f"{batch.stream}/{label}"
            values[name] = value
            weighted[name] = job.objective.weighted(label, batch.labelled, value)
    for label, value in job.objective.penalties(learner.student).items():
        values[label] = value
        weighted[label] = job.objective.weighted(label, True, value)
    weighted |= job.objective.beside()
    return weighted, values


def _split(output: StudentOutput, batches: list[Batch]) -> Iterator[StudentOutput]:
    """Cut the student's output along its first axis, a part for each batch."""
    start = 0
    for batch in batches:
        part = slice(start, start + len(batch.images))
        yield output.mapped(lambda grid, part=part: grid[part])  # type: ignore[misc]
        start = part.stop


def _gradients_of(weighted: Mapping[str, Tensor], learner: Learner) -> dict[str, Tensor]:
    return {name: term_gradient_norm(value, learner) for name, value in weighted.items()}


def term_gradient_norm(value: Tensor, learner: Learner) -> Tensor:
    """Return the 2-norm, (), of the gradient of one term by the student's parameters."""
    parameters = [p for p in learner.student.parameters() if p.requires_grad]
    if not value.requires_grad:
        return value.new_zeros(())
    # In float16 a gradient vanishes without the loss scale.
    scale = learner.scaler.get_scale() if learner.scaler.is_enabled() else 1.0
    found = torch.autograd.grad(value * scale, parameters, retain_graph=True, allow_unused=True)
    there = [gradient for gradient in found if gradient is not None]
    average(there)
    return torch.nn.utils.get_total_norm(there) / scale if there else value.new_zeros(())
