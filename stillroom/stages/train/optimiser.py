"""The optimiser of a run and its learning rate, a pure function of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        ConfigError: where encoder_lr_factor is set and the student has no encoder
    """
    groups = _groups(student, config)
    groups += [{"params": list(beside), FACTOR: 1.0}] if beside else []
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def learning_rate(
    step: int, steps: int, *, base: float, power: float, warmup_steps: int = 0
) -> float:
    """Return base * (1 - step / steps) ** power, times (step + 1) / warmup_steps while warming up.

    Args:
        step: steps done before this one, 0 <= step < steps
    """
    warmth = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return float(base * warmth * (1 - step / steps) ** power)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group[FACTOR]


def trained_parameters(optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield every parameter that an optimiser moves."""
    for group in optimiser.param_groups:
        yield from group["params"]


def _groups(student: Student, config: OptimiserConfig) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigError("the student has no trainable parameters")
    if config.encoder_lr_factor == 1:
        return [{"params": trainable, FACTOR: 1.0}]
    encoder = getattr(student.network, "encoder", None)
    if not isinstance(encoder, torch.nn.Module):
        raise ConfigError(
            "train.optimiser.encoder_lr_factor is set, and this student has no part named "
            "`encoder`; leave it at 1"
        )
    of_encoder = {id(parameter) for parameter in encoder.parameters()}
    inside = [parameter for parameter in trainable if id(parameter) in of_encoder]
    outside = [parameter for parameter in trainable if id(parameter) not in of_encoder]
    groups = [(outside, 1.0), (inside, config.encoder_lr_factor)]
    return [{"params": part, FACTOR: factor} for part, factor in groups if part]
