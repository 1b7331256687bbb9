"""What the processes of one training run know together; of one process alone, its own.

All ranks call each function, in the same order. None waits for a GPU: what the host has to know is
exchanged between the hosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from stillroom.storage_specs.errors import StillroomError, StoppedElsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

T = TypeVar("T")


def alone() -> bool:
    """Whether this process trains by itself."""
    return world_size() == 1


def world_size() -> int:
    """Return the number of processes that train together."""
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def rank() -> int:
    """Return which of them this is, from 0; rank 0 writes."""
    return 0 if alone() else distributed.get_rank()


def share(count: int, rank: int, world_size: int) -> range:
    """Return which of `count` things in a row are a rank's: as many as others', or one more."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


class _Sum(torch.autograd.Function):
    """The sum over ranks. Each rank's loss depends on it, so that their gradients add up too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)


def summed(values: Tensor) -> Tensor:
    """Add up the tensors of all ranks, which have one shape; differentiable."""
    if alone():
        return values
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def largest(values: Tensor) -> Tensor:
    """Return the largest of all ranks, number by number; without gradient."""
    values = values.detach().clone()
    if not alone():
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


def gathered(rows: Tensor) -> Tensor:
    """Put the rows of all ranks below each other, in the order of ranks; differentiable.

    Args:
        rows: (n, ...) numbers, n may be another one on each rank

    Returns:
        (sum of n, ...), the same on every rank
    """
    if alone():
        return rows
    counts = everyones(len(rows))
    before = sum(counts[: rank()])
    after = sum(counts) - before - len(rows)
    above, below = (rows.new_zeros(count, *rows.shape[1:]) for count in (before, after))
    return summed(torch.cat([above, rows, below]))


def mean_of_all(total: Tensor, count: Tensor, least: float = 1) -> Tensor:
    """Return this rank's share of the mean over what all ranks count.

    share = world size * total / max(least, sum of the ranks' counts)

    The mean of the shares over ranks is total / count of one process that sees everything, and so
    is that of their gradients, which a step takes. The mean of the ranks' own means would be
    another number wherever they count unequally many.

    Args:
        total, count: () each, of this rank's batch
        least: below which it is 0 that was counted
    """
    if alone():
        return total / count.clamp(min=least)
    return world_size() * total / summed(count).clamp(min=least)


def averaged(values: Tensor) -> Tensor:
    """Return the mean over ranks, without gradient."""
    return values if alone() else summed(values.detach()) / world_size()


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over ranks, in one message a type of numbers."""
    if alone():
        return
    for dtype in sorted({each.dtype for each in tensors}, key=str):
        some = [each for each in tensors if each.dtype == dtype]
        whole = averaged(torch.cat([each.flatten() for each in some]))
        parts = torch.split(whole, [each.numel() for each in some])
        means = [part.view(each.shape) for part, each in zip(parts, some, strict=True)]
        torch._foreach_copy_(some, means)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their means over ranks, after the last backward pass of a step.

    Every rank must have one for the same parameters, which follows from the terms.
    """
    average([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Make tensors what they are on rank 0."""
    if alone():
        return
    for each in tensors:
        whole = each.detach().contiguous()
        distributed.broadcast(whole, 0)
        each.copy_(whole)


def everyones(number: int) -> list[int]:
    """Return a number of each rank's, in the order of ranks."""
    if alone():
        return [number]
    numbers = torch.zeros(world_size(), dtype=torch.int64)
    numbers[rank()] = number
    distributed.all_reduce(numbers)
    return [int(each) for each in numbers]


def everything(of: Any) -> list[Any]:
    """Return an object of each rank's, in the order of ranks."""
    if alone():
        return [of]
    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, of)
    return found


def agree(error: BaseException | None) -> None:
    """Stop all ranks where one has to stop.

    Args:
        error: this rank's reason; None: it has none

    Raises:
        KeyboardInterrupt: some rank has such a reason, and none another.
        StoppedElsewhere: another rank has an error, which it raises.
    """
    if alone():
        if error is not None:
            raise error
        return
    kinds = everyones(0 if error is None else 1 if isinstance(error, KeyboardInterrupt) else 2)
    if 2 in kinds:
        if error is not None and kinds.index(2) == rank():
            raise error
        raise StoppedElsewhere(f"rank {kinds.index(2)} has failed")
    if 1 in kinds:
        raise KeyboardInterrupt


def together(do: Callable[[], T]) -> T:
    """Do something on every rank; where it fails on one, that one raises its error and all stop."""
    try:
        done = do()
    except Exception as error:
        agree(error)
        raise
    agree(None)
    return done


def said_once(error: StillroomError) -> StillroomError:
    """Return an error that every rank has found: rank 0 says it, the others that it does."""
    return error if rank() == 0 else StoppedElsewhere(f"rank 0 says: {error}")


@dataclass(frozen=True)
class Rows:
    """Which rows this rank has of a batch that ranks share.

    Random numbers are drawn for the rows of all ranks, from generators in the same state, so that a
    frame gets the same ones however many ranks there are.

    Attributes:
        start: its first row in the batch of all ranks
        of: how many all ranks have; None: all are its own
        blocks: the batch has so many blocks of such rows one after the other, each shared alike
    """

    start: int = 0
    of: int | None = None
    blocks: int = 1

    def rand(
        self, shape: Sequence[int], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw numbers between 0 and 1 for its own rows, of `shape` with them."""
        if self.of is None:
            return torch.rand(*shape, device=device, dtype=dtype)
        return self._own(
            torch.rand(self.blocks * self.of, *shape[1:], device=device, dtype=dtype), shape[0]
        )

    def dropout(self, values: Tensor, share: float) -> Tensor:
        """Do as torch's dropout in training, for its own rows (B, ...)."""
        if self.of is None:
            return torch.nn.functional.dropout(values, share)
        kept = values.new_empty(self.blocks * self.of, *values.shape[1:]).bernoulli_(1 - share)
        return values * self._own(kept.div_(1 - share), len(values))

    def _own(self, drawn: Tensor, count: int) -> Tensor:
        blocks = drawn.view(self.blocks, -1, *drawn.shape[1:])
        return blocks[:, self.start : self.start + count // self.blocks].flatten(0, 1)


ALL = Rows()
