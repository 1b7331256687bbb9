"""Stop at numbers that are not finite, before they reach a checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from stillroom.stages.across_ranks import everything, said_once
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

ADVICE = (
    "Nothing was saved over the last checkpoint. Lower train.optimiser.lr or a term's weight, or "
    "set train.optimiser.clip or train.warmup_steps, and give train.path another folder"
)


def demand_finite(
    what: str, value: float, step: int, terms: Mapping[str, float], frame_ids: Iterable[str]
) -> None:
    """Stop at a loss or a gradient's norm that is not finite (ConfigError), naming the terms.

    Args:
        step: the one that is being taken, counted from 1
    """
    if math.isfinite(value):
        return
    listing = ", ".join(f"{name} {number:.4g}" for name, number in terms.items())
    guilty = [name for name, number in terms.items() if not math.isfinite(number)]
    frames = ", ".join(frame_id for each in everything(list(frame_ids)) for frame_id in each)
    raise said_once(
        ConfigError(
            f"training stopped in step {step}: {what} is {value}; not finite: "
            f"{', '.join(guilty) or 'no term by itself'}; terms: {listing}; frames: {frames}. "
            f"{ADVICE}"
        )
    )


def demand_finite_weights(parameters: Iterable[Tensor], step: int) -> None:
    """Stop at weights that an update made infinite while its gradient was not (ConfigError).

    Args:
        step: the last one taken, counted from 1
    """
    norm = torch.nn.utils.get_total_norm([p.detach() for p in parameters])
    if not math.isfinite(norm.item()):
        raise said_once(
            ConfigError(
                f"training stopped after step {step}: the student's weights are not finite. "
                f"{ADVICE}"
            )
        )


def gradient_norm(trained: Iterable[Tensor], clip: float | None) -> Tensor:
    """Return the 2-norm of the whole gradient, () float32, after clipping the gradient to `clip`.

    The norm is that before clipping.
    """
    parameters = [p for p in trained if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm
