"""One look at a teacher before it is run over every frame: are its outputs what can be cached?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.teacher import Teacher

TOLERANCE = {"float32": 1e-2}  # of the range of a grid's values; batches are summed otherwise
HALF_TOLERANCE = 1e-1
EVAL = "put every module in it to eval() and take out what is random (F.dropout has training=True)"


def look_at(teacher: Teacher, canvas: tuple[int, int], grids: Collection[str], batch: int) -> None:
    """Run a teacher on two drawn frames: each alone, one of them again, then both as a batch.

    Args:
        grids: the outputs that are cached: others may be as they like
        batch: frames that it will be given at once; of 1, it is never given two

    Raises:
        ConfigError: they change from call to call or with the other frames of a batch, are not
            finite at all, are probabilities, or logits of a single channel; or it fails.
    """
    frames = _frames(canvas)
    with torch.random.fork_rng([]):  # what a network draws must not change what comes after it
        alone = [_run(teacher, frames[i : i + 1]) for i in range(2)]
        again = _run(teacher, frames[:1])
        together = {name: torch.cat([one[name] for one in alone]) for name in again}
        both = _run(teacher, frames) if batch > 1 else together
    tolerance = TOLERANCE.get(teacher.precision, HALF_TOLERANCE)
    for name in sorted(set(grids) & both.keys()):
        _check_finite(name, both[name])
        if not _agree(alone[0][name], again[name], both[name], tolerance):
            raise ConfigError(f"teacher: its {name} of one frame differ between two calls; {EVAL}")
        if not _agree(together[name], both[name], both[name], tolerance):
            raise ConfigError(
                f"teacher: its {name} of a frame depend on the other frames of the batch, as with "
                f"batch normalisation in training mode; {EVAL}"
            )
    if LOGITS in grids:
        _check_logits(both)


def _run(teacher: Teacher, frames: NDArray[np.uint8]) -> ModelOutput:
    try:
        return teacher(frames)
    except StillroomError:
        raise
    except Exception as error:  # whatever somebody's network raises
        raise ConfigError(
            f"teacher: fails on {len(frames)} drawn frame{'s' * (len(frames) > 1)} at the canvas' "
            f"size ({type(error).__name__}: {error}); if it takes one frame at a time, set "
            "cache.batch = 1"
        ) from error


def _check_finite(name: str, grid: Tensor) -> None:
    if not torch.isfinite(grid).any():
        raise ConfigError(
            f"teacher: its {name} of two drawn frames hold no finite value; look at its weights, "
            "its mean and std, and its precision"
        )


def _agree(one: Tensor, other: Tensor, of: Tensor, tolerance: float) -> bool:
    """Whether two grids agree where both are finite; a NaN now and then is a bad row, later."""
    sound = of[torch.isfinite(of)]
    finite = torch.isfinite(one) & torch.isfinite(other)
    difference = (one - other).abs()[finite].max() if finite.any() else one.new_zeros(())
    return bool(difference <= tolerance * (sound.max() - sound.min()) + 1e-6)


def _check_logits(output: ModelOutput) -> None:
    logits = output.get(LOGITS)
    if logits is None:
        return
    if logits.shape[1] == 1:
        raise ConfigError(
            "teacher: its logits have one channel, whose softmax is 1 everywhere, so that every "
            "pixel would count as sure; give two classes, and return "
            "torch.cat([torch.zeros_like(z), z], 1) of the channel z from a function of your own "
            '(kind = "python")'
        )
    total = logits.sum(1)
    if logits.min() >= 0 and logits.max() <= 1 + 1e-4 and (total - 1).abs().max() <= 1e-3:
        raise ConfigError(
            "teacher: its logits are probabilities (0 to 1, and 1 in sum over the classes): a "
            "softmax of them is nearly even, so that no pixel would be sure; return what comes "
            "before the softmax, or the logarithm of the probabilities"
        )


def _frames(canvas: tuple[int, int]) -> NDArray[np.uint8]:
    """Two frames of blocks, (2, H, W, 3): a dark one of little contrast, a bright one of much."""
    drawn = np.random.default_rng(0)
    height, width = canvas
    rows, columns = np.arange(height) // 8, np.arange(width) // 8
    frames = []
    for low, high in ((10, 90), (60, 250)):
        blocks = drawn.integers(low, high, (rows[-1] + 1, columns[-1] + 1, 3), np.uint8)
        frames.append(blocks[rows][:, columns])
    return np.stack(frames)
