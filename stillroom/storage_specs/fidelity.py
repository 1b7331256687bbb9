"""How far stored logits are from the teacher's own, as losses see it: two KL divergences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPATIAL_TEMPERATURE = 4.0
"""That of channel-wise distillation (Shu et al., ICCV 2021, sec. 4.1)."""


def pixel_kl(true: NDArray[Any], kept: NDArray[Any]) -> float:
    """Mean over pixels of KL(softmax over channels of true || of kept), in nats: pixel-wise terms.

    true, kept: (C, h, w) logits
    """
    return _mean_kl(_log_softmax(_wide(true), axis=0), _log_softmax(_wide(kept), axis=0), axis=0)


def spatial_kl(
    true: NDArray[Any], kept: NDArray[Any], temperature: float = SPATIAL_TEMPERATURE
) -> float:
    """Mean over channels of KL(softmax over positions of true || of kept), in nats.

    What channel-wise terms see, without their factor of temperature^2.

    true, kept: (C, h, w) logits
    """
    flat = [_wide(x).reshape(len(x), -1) / temperature for x in (true, kept)]
    return _mean_kl(_log_softmax(flat[0], axis=1), _log_softmax(flat[1], axis=1), axis=1)


def _mean_kl(p: NDArray[np.float64], q: NDArray[np.float64], axis: int) -> float:
    """Mean KL of two arrays of log-probabilities along an axis."""
    return float((np.exp(p) * (p - q)).sum(axis=axis).mean()) if p.size else 0.0


def _wide(x: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(x, np.float64)


def _log_softmax(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    below = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return np.asarray(below - np.log(np.exp(below).sum(axis=axis, keepdims=True)))
