"""One look at a teacher before it is run over every frame: are its outputs what can be cached?"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from stillroom.stages.models.logits_check import check_logits
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.teacher import Teacher

    Call = tuple[ModelOutput, ModelOutput]  # the network's own grids, and the teacher's

LOG = logging.getLogger(__name__)
TOLERANCE = {"float32": 1e-2}  # of the range of a channel's values; batches are summed otherwise
HALF_TOLERANCE = 1e-1
USUAL = 0.9  # of the channels have a range up to the one that noise is measured by
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
            finite at all, or are no logits, see `check_logits`; it computes in training mode, or
            gives every output in the same memory; or it fails.
    """
    frames = _frames(canvas)
    singly = [frames[:1], frames[1:]]
    batches = [frames] if batch > 1 else singly
    # What a network draws must not change what comes after it.
    with torch.random.fork_rng([]), _noting_training_mode() as training:
        once, again = ([_called(place, teacher, each) for each in batches] for _ in range(2))
        alone = [_called(place, teacher, each) for each in singly] if batch > 1 else once
    remedy = f"{', '.join(sorted(training))} in training mode: {EVAL}" if training else EVAL
    tolerance = TOLERANCE.get(teacher.precision, HALF_TOLERANCE)
    for name in sorted(set(grids) & once[0][1].keys()):
        what = f"{place}: its {name}"
        _demand_own_memory(what, [own[name] for own, _ in (*once, *again)])
        first, second, single = (
            torch.cat([made[name] for _, made in calls]) for calls in (once, again, alone)
        )
        _check_finite(what, first)
        _demand_equal(first, second, tolerance, f"{what} differ between two calls", remedy)
        of_batch = f"{what} of a frame depend on the other frames of the batch"
        _demand_equal(first, single, tolerance, of_batch, remedy)
    if training:
        raise ConfigError(f"{place}: it computes with {remedy}")
    if LOGITS in grids and LOGITS in once[0][0]:
        check_logits(place, torch.cat([own[LOGITS] for own, _ in once]))


@contextmanager
def _noting_training_mode() -> Iterator[set[str]]:
    """Note the kinds of modules that are called in training mode, where they compute otherwise."""
    found: set[str] = set()

    def note(module: nn.Module, _: object) -> None:
        if module.training and _has_modes(module):
            found.add(type(module).__name__)

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def _has_modes(module: nn.Module) -> bool:
    """Whether a module normalises by running statistics, or drops something, as it is called."""
    if isinstance(module, nn.modules.batchnorm._NormBase):  # batch and instance normalisation
        return module.running_mean is not None
    name, rate = type(module).__name__, getattr(module, "p", getattr(module, "drop_prob", None))
    return ("Drop" in name or name == "StochasticDepth") and rate != 0


def _called(place: str, teacher: Teacher, frames: NDArray[np.uint8]) -> Call:
    try:
        return teacher.run(frames)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
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
        "%s of %d of two drawn frames hold %d values that are not finite; such frames are left out "
        "of a cache as bad ones: %s",
        what,
        odd,
        int((~finite).sum()),
        remedy,
    )


def _demand_own_memory(what: str, grids: Sequence[Tensor]) -> None:
    """Refuse grids that the next call overwrites; from a GPU they are copied before it."""
    places = {grid.untyped_storage().data_ptr() for grid in grids if grid.device.type == "cpu"}
    if 0 < len(places) < len(grids):
        raise ConfigError(
            f"{what} of every call are in the same memory, where the next batch replaces them "
            "before they are written; return a copy (`.clone()`)"
        )


def _demand_equal(one: Tensor, other: Tensor, tolerance: float, problem: str, remedy: str) -> None:
    """Refuse what differs by more than a share of the range of its channel's values.

    Channels of a small range have that of most channels: a few that are far out, as a class that
    was masked by -1e9, hide nothing of the others.
    """
    finite = torch.isfinite(one), torch.isfinite(other)
    both = finite[0] & finite[1]
    difference = _most_by_channel(torch.where(both, (one - other).abs(), 0))
    high = _most_by_channel(torch.where(both, one, -torch.inf))
    low = -_most_by_channel(torch.where(both, -one, -torch.inf))
    span = (high - low).clamp(min=0)
    span = span.clamp(min=span.sort().values[int(USUAL * (len(span) - 1))])
    worst = (difference - tolerance * span).argmax()
    most, range_of = float(difference[worst]), float(span[worst])
    if not torch.equal(*(each.flatten(1).any(1) for each in finite)):
        most = float("inf")  # a frame has finite values in one of them alone
    if most > tolerance * range_of + 1e-6:
        raise ConfigError(
            f"{problem}, by up to {most:.4g} where values span {range_of:.4g}; {remedy}"
        )


def _most_by_channel(grid: Tensor) -> Tensor:
    """Return the largest value of each channel, (C,), of (B, C, h, w), or of (B, h, w) as one."""
    return (grid[:, None] if grid.ndim == 3 else grid).amax((0, 2, 3))


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
