"""The optimiser of a run and its learning rate, a pure function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from stillroom.stages.models.student import Student
    from stillroom.stages.train.settings import OptimiserConfig

FACTOR = "lr_factor"  # of a parameter group


def build_optimiser(
    student: Student, config: OptimiserConfig, beside: Sequence[torch.nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Build SGD (momentum, no Nesterov) or AdamW over the student's trainable parameters.

    Args:
        beside: parameters of terms, which train with the same settings as the student's head

    Raises:
        ConfigError: where the student lacks a part whose learning rate is set
    """
    groups = _grouped(_rates(student, config), config)
    if not groups:
        raise ConfigError("the student has no trainable parameters")
    groups += _grouped(((parameter, 1.0) for parameter in beside), config)
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def learning_rate(
    step: int,
    steps: int,
    *,
    base: float,
    schedule: str = "poly",
    power: float = 0.9,
    milestones: Sequence[int] = (),
    drop: float = 0.1,
    warmup_steps: int = 0,
) -> float:
    """Return the learning rate of a step, base * f(step), as torch's schedulers of these names do.

    f is "poly": (1 - step / steps) ** power; "cosine": (1 + cos(pi step / steps)) / 2;
    "milestones": drop ** (how many of them are reached); "constant": 1; all times
    (step + 1) / warmup_steps while warming up.

    Args:
        step: steps done before this one, 0 <= step < steps
    """
    warmth = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    done = step / steps
    factors = {
        "poly": (1 - done) ** power,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "milestones": drop ** sum(step >= each for each in milestones),
        "constant": 1.0,
    }
    return float(base * warmth * factors[schedule])


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group[FACTOR]


def trained_parameters(optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield every parameter that an optimiser moves."""
    for group in optimiser.param_groups:
        yield from group["params"]


def _grouped(
    rates: Iterable[tuple[Tensor, float]], config: OptimiserConfig
) -> list[dict[str, Any]]:
    """Put parameters of one factor and weight decay together, those of a factor of 1 first."""
    groups: dict[tuple[float, float], list[Tensor]] = {(1.0, config.weight_decay): []}
    for parameter, factor in rates:
        spared = config.decay == "kernels" and parameter.ndim < 2
        decay = 0.0 if spared else config.weight_decay
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": part, FACTOR: factor, "weight_decay": decay}
        for (factor, decay), part in groups.items()
        if part
    ]


def _rates(student: Student, config: OptimiserConfig) -> Iterator[tuple[Tensor, float]]:
    """Yield each trainable parameter and the factor of its learning rate: its nearest part's."""
    factors = _factors(student, config)
    for name, parameter in student.network.named_parameters():
        if parameter.requires_grad:
            parts = [part for part in factors if _is_inside(name, part)]
            yield parameter, factors[max(parts, key=len)] if parts else 1.0


def _factors(student: Student, config: OptimiserConfig) -> dict[str, float]:
    """Return the factors of the learning rate, by the part of the network that they are for."""
    factors = dict(config.lr_factors or {})
    if config.encoder_lr_factor != 1:
        if student.encoder is None:
            raise ConfigError(
                "train.optimiser.encoder_lr_factor is set, and this student has no part named "
                "`encoder` or `backbone`; leave it at 1"
            )
        factors.setdefault(student.encoder, config.encoder_lr_factor)
    names = [name for name, _ in student.network.named_parameters()]
    for part in factors:
        if not any(_is_inside(name, part) for name in names):
            parts = ", ".join(name for name, _ in student.network.named_children())
            raise ConfigError(
                f"train.optimiser.lr_factors: no parameter of the student lies in {part!r}; its "
                f"parts are {parts}, and theirs, as `encoder.layer1`"
            )
    return factors


def _is_inside(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")
