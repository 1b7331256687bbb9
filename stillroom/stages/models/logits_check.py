"""Whether a network's output is logits, or what was made of them: probabilities, class ids."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

LOG = logging.getLogger(__name__)
SUM_TOLERANCE = 2e-2  # of the sum of a softmax in half precision
WHOLES = (1, 100, 255)  # what probabilities sum to: shares, per cent, bytes
OVERSHOOT = 0.45  # of bicubic upsampling, at most, beyond 0 and the whole
NEAR = 0.05  # to 0 and to 1, which sigmoids of frames that differ come
AXES = {"the classes": (1,), "height": (2,), "width": (3,), "height and width": (2, 3)}


def check_logits(place: str, logits: Tensor) -> None:
    """Refuse what are no logits (B, C, h, w); warn of log-probabilities, and of what is in doubt.

    Args:
        place: the teacher's section, as messages name it
        logits: of frames that differ, as the network gives them

    Raises:
        ConfigError: they are no floating-point numbers, the same wherever one looks, or
            probabilities: of a softmax, over whatever axis, of sigmoids, one-hot, or in per cent.
    """
    if not logits.is_floating_point():
        raise ConfigError(
            f"{place}: its logits are {str(logits.dtype).removeprefix('torch.')}, so class ids or "
            "rounded values; return what comes before the argmax or the rounding"
        )
    logits = logits[torch.isfinite(logits).flatten(1).all(1)].float()  # the rest will be bad rows
    if not len(logits):
        return
    _demand_change(place, logits)
    _check_probabilities(place, logits)
    if logits.max() <= SUM_TOLERANCE:
        _check_log_probabilities(place, logits.exp())


def _demand_change(place: str, logits: Tensor) -> None:
    by_class = logits.movedim(1, 0).flatten(1)
    if torch.equal(by_class.amax(1), by_class.amin(1)):
        raise ConfigError(
            f"{place}: its logits are the same at every position of frames that differ (values "
            f"from {logits.min():.4g} to {logits.max():.4g}); look at its weights, and at whether "
            "its input reaches them"
        )


def _check_probabilities(place: str, logits: Tensor) -> None:
    low, high, sums = float(logits.min()), float(logits.max()), logits.sum(1)
    found = f"values from {low:.4g} to {high:.4g}"
    of = _softmax_of(logits, low, high)
    if of is None and low >= 0 and high <= 1:
        # One channel of logits is below 0 where there is nothing.
        sure = logits.shape[1] == 1 or (low < NEAR and high > 1 - NEAR)
        of = "sigmoids" if sure else ""
    if of:
        raise ConfigError(
            f"{place}: its logits are probabilities, as of {of} ({found}, their sums over the "
            f"classes {sums.min():.4g} to {sums.max():.4g}); the softmax of these does not say how "
            "sure it is: return what comes before, or else the logarithm of the probabilities"
        )
    if of == "":
        LOG.warning(
            "%s: its logits lie between 0 and 1 (%s), as those of a network do that ends in a "
            "sigmoid; if it does, return what comes before",
            place,
            found,
        )


def _softmax_of(logits: Tensor, low: float, high: float) -> str | None:
    for whole in WHOLES:
        if -OVERSHOOT * whole <= low and high <= (1 + OVERSHOOT) * whole:
            axes = _normalised_over(logits / whole)
            if axes is not None:
                return f"a softmax over {axes}"
    return None


def _check_log_probabilities(place: str, probabilities: Tensor) -> None:
    axes = _normalised_over(probabilities)
    if axes == "the classes":
        LOG.warning(
            "%s: its logits are log-probabilities (exponentials sum to 1 over the classes); pseudo "
            "labels and terms on class probabilities are right, but terms that compare a class "
            "over the image (channelwise_kl) get other maps than those of logits: return what "
            "comes before the log_softmax, if you have it",
            place,
        )
    elif axes is not None:
        raise ConfigError(
            f"{place}: its logits are log-probabilities over {axes}, not over the classes; "
            "return what comes before the log_softmax"
        )


def _normalised_over(values: Tensor) -> str | None:
    """Return over which axes values sum to 1 everywhere."""
    for axes, dims in AXES.items():
        several = values.sum(dims).numel() < values.numel()
        if several and bool(((values.sum(dims) - 1).abs() <= SUM_TOLERANCE).all()):
            return axes
    return None
