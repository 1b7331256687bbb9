"""One look at a teacher before it is run over every frame: are its outputs what can be cached?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.models.logits_check import check_logits
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.teacher import Teacher

LOG = logging.getLogger(__name__)
TOLERANCE = {"float32": 1e-2}  # of the range of a grid's values; batches are summed otherwise
HALF_TOLERANCE = 1e-1
EVAL = "put every module in it to eval() and take out what is random (F.dropout has training=True)"


def look_at(
    place: str, teacher: Teacher, canvas: tuple[int, int], grids: Collection[str], batch: int
) -> None:
    """Run a teacher on two drawn frames: twice as it will be called, and each frame alone.

    Args:
        place: its section, as messages name it
        grids: the outputs that are cached: others may be as they like
        batch: frames that it will be given at once; of 1, it is never given two

    Raises:
        ConfigError: they change from call to call or with the other frames of a batch, are not
            finite at all, or are no logits, see `check_logits`; or it fails.
    """
    frames = _frames(canvas)
    singly = [frames[:1], frames[1:]]
    batches = [frames] if batch > 1 else singly
    with torch.random.fork_rng([]):  # what a network draws must not change what comes after it
        own, once = _run(place, teacher, batches)
        _, again = _run(place, teacher, batches)
        alone = _run(place, teacher, singly)[1] if batch > 1 else once
    tolerance = TOLERANCE.get(teacher.precision, HALF_TOLERANCE)
    for name in sorted(set(grids) & once.keys()):
        what = f"{place}: its {name}"
        _check_finite(what, once[name])
        _demand_equal(once[name], again[name], tolerance, f"{what} differ between two calls", EVAL)
        _demand_equal(
            once[name],
            alone[name],
            tolerance,
            f"{what} of a frame depend on the other frames of the batch",
            f"batch normalisation in training mode does so; {EVAL}",
        )
    if LOGITS in grids and LOGITS in own:
        check_logits(place, own[LOGITS])


def _run(
    place: str, teacher: Teacher, batches: Sequence[NDArray[np.uint8]]
) -> tuple[ModelOutput, ModelOutput]:
    """Return the network's own grids of all frames, and those that the teacher makes of them."""
    made = [_called(place, teacher, frames) for frames in batches]
    own, grids = (
        {name: torch.cat([one[name] for one in each]) for name in each[0]}
        for each in zip(*made, strict=True)
    )
    return own, grids


def _called(
    place: str, teacher: Teacher, frames: NDArray[np.uint8]
) -> tuple[ModelOutput, ModelOutput]:
    try:
        return teacher.run(frames)
    except StillroomError:
        raise
    except Exception as error:  # whatever somebody's network raises
        raise ConfigError(
            f"{place}: fails on {len(frames)} drawn frame{'s' * (len(frames) > 1)} at the canvas' "
            f"size ({type(error).__name__}: {error}); if it takes one frame at a time, set "
            "cache.batch = 1"
        ) from error


def _check_finite(what: str, grid: Tensor) -> None:
    """Refuse grids without a finite value; a NaN now and then is a bad row, later."""
    finite = torch.isfinite(grid)
    if finite.all():
        return
    remedy = "look at its weights, its mean and std, and its precision"
    if not finite.any():
        raise ConfigError(f"{what} of two drawn frames hold no finite value; {remedy}")
    odd = int((~finite.flatten(1).all(1)).sum())
    LOG.warning(
        "%s of %d of two drawn frames hold %d values that are not finite, as bad frames do; %s",
        what,
        odd,
        int((~finite).sum()),
        remedy,
    )


def _demand_equal(one: Tensor, other: Tensor, tolerance: float, problem: str, remedy: str) -> None:
    """Refuse what differs by more than a share of the range of its values."""
    sound = one[torch.isfinite(one)]
    span = float(sound.max() - sound.min())
    difference = _largest_difference(one, other)
    if difference > tolerance * span + 1e-6:
        raise ConfigError(
            f"{problem}, by up to {difference:.4g} where their values span {span:.4g}; {remedy}"
        )


def _largest_difference(one: Tensor, other: Tensor) -> float:
    """Between values that are finite in both; infinite where a frame has such in one of them."""
    finite = torch.isfinite(one), torch.isfinite(other)
    some = [each.flatten(1).any(1) for each in finite]
    if not torch.equal(*some):
        return float("inf")
    both = finite[0] & finite[1]
    return float((one - other).abs()[both].max()) if both.any() else 0.0


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
