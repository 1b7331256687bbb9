"""What coarser logits cost in KL divergence, in compiled passes over memory.

For logits that span at most SPAN: exp((x - greatest) / 4) of all of them is then a plain float64,
and serves both softmaxes, that over positions at temperature 4 as it is, that over classes by its
fourth power. `fidelity` has the same measures for any logits. Imported only when a frame is
encoded, as `kernels`.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPAN = 600.0
BLOCK = 64
"""Positions worked on at a time, so that a block's sums stay in the cache of a core."""

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
TO_INTEGER = 1.5 * 2.0**52  # added to a float64, its last bits are the integer nearest to it


@compiled(fused=True)
def _exp(x: float) -> float:
    """exp(x) of -700 to 700 within 3 units in the last place: in vectors, where libm's is not."""
    shifted = x * LOG2_E + TO_INTEGER
    power = shifted - TO_INTEGER
    r = (x - power * LN2_HIGH) - power * LN2_LOW
    # Taylor's series up to r^12 / 12!, for |r| <= ln(2) / 2
    y = 1 / 479001600
    y = y * r + 1 / 39916800
    y = y * r + 1 / 3628800
    y = y * r + 1 / 362880
    y = y * r + 1 / 40320
    y = y * r + 1 / 5040
    y = y * r + 1 / 720
    y = y * r + 1 / 120
    y = y * r + 1 / 24
    y = y * r + 1 / 6
    y = y * r + 1 / 2
    y = y * r + 1.0
    y = y * r + 1.0
    # times 2^power, by adding it to the exponent's bits
    exponent = np.float64(shifted).view(np.int64) << 52
    return np.int64(np.float64(y).view(np.int64) + exponent).view(np.float64)


@compiled
def nearest_steps(
    values: NDArray[Any],
    top: NDArray[Any],
    step: NDArray[np.float32],
    most: int,
    out: NDArray[np.uint16],
) -> None:
    """How many equal steps each value lies below its channel's top, at most `most`.

    Args:
        values, out: (C, n)
        top, step: (C,)
    """
    for c in range(values.shape[0]):
        highest, width = np.float64(top[c]), np.float64(step[c])
        for i in range(values.shape[1]):
            steps = np.rint((highest - np.float64(values[c, i])) / width)
            out[c, i] = np.int32(min(steps, np.float64(most)))


@compiled(fused=True)
def step_costs(
    logits: NDArray[np.float32],
    top: NDArray[np.float32],
    per_knee: float,
    pixel: NDArray[np.float64],
    spatial: NDArray[np.float64],
) -> None:
    """Weights of each channel's squared error in both divergences.

    pixel[c] = mean over i of p_ci (1 - p_ci) w_ci,  p = softmax of logits over channels
    spatial[c] = sum over i of q_ci w_ci,  q = softmax of logits / 4 over positions

    Args:
        logits: (C, n), that span at most SPAN
        top: (C,) the greatest of each channel
        per_knee: w = (1 + (top - logits) * per_knee)^2
        pixel, spatial: (C,) out
    """
    channels, count = logits.shape
    greatest = np.float64(top.max())
    quarter = np.empty((channels, BLOCK))
    # Sums of a channel run side by side, one each position of a block: vectors can add them.
    over_classes, over_positions = np.zeros((channels, BLOCK)), np.zeros((channels, BLOCK))
    total = np.zeros((channels, BLOCK))
    share = np.empty(BLOCK)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        share[:] = 0
        for c in range(channels):
            for i in range(size):
                q = _exp((np.float64(logits[c, start + i]) - greatest) * 0.25)
                quarter[c, i] = q
                share[i] += (q * q) * (q * q)
        for i in range(size):
            share[i] = 1 / share[i]
        for c in range(channels):
            highest = np.float64(top[c])
            for i in range(size):
                q = quarter[c, i]
                p = (q * q) * (q * q) * share[i]
                wider = 1 + (highest - np.float64(logits[c, start + i])) * per_knee
                over_classes[c, i] += p * (1 - p) * (wider * wider)
                over_positions[c, i] += q * (wider * wider)
                total[c, i] += q
    for c in range(channels):
        pixel[c] = over_classes[c].sum() / count
        spatial[c] = over_positions[c].sum() / total[c].sum()


@compiled(fused=True)
def divergences(
    true: NDArray[np.float32], kept: NDArray[np.float32], greatest: float
) -> tuple[float, float]:
    """Return `pixel_kl` and `spatial_kl` of `fidelity`.

    KL = sum of p (true - kept) + log(sum of exp(kept) / sum of exp(true)),  p = softmax of true

    Args:
        true, kept: (C, n) logits, all within SPAN of each other
        greatest: of them
    """
    channels, count = true.shape
    # Sums of p (true - kept), exp(true), exp(kept): over classes by position, ...
    errors, before, after = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    # ... and over positions by channel, side by side as in `step_costs`.
    over_positions = np.zeros((3, channels, BLOCK))
    pixel = 0.0
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        errors[:], before[:], after[:] = 0, 0, 0
        for c in range(channels):
            for i in range(size):
                x, y = np.float64(true[c, start + i]), np.float64(kept[c, start + i])
                q, r = _exp((x - greatest) * 0.25), _exp((y - greatest) * 0.25)
                over_positions[0, c, i] += q * (x - y)
                over_positions[1, c, i] += q
                over_positions[2, c, i] += r
                p = (q * q) * (q * q)
                errors[i] += p * (x - y)
                before[i] += p
                after[i] += (r * r) * (r * r)
        for i in range(size):
            pixel += errors[i] / before[i] + log(after[i] / before[i])
    spatial = 0.0
    for c in range(channels):
        total = over_positions[1, c].sum()
        spatial += over_positions[0, c].sum() / total / 4
        spatial += log(over_positions[2, c].sum() / total)
    return pixel / count, spatial / channels
