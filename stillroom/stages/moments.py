"""Means and variances of the columns that count."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from stillroom.stages.across_ranks import alone, summed

if TYPE_CHECKING:
    from torch import Tensor


class Moments(NamedTuple):
    """Of values (D, M): mean and variance, (D,); mean square of all of them, (); 0 where none is.

    there: () bool, whether any column counted
    """

    mean: Tensor
    variance: Tensor
    square: Tensor
    there: Tensor


def moments(values: Tensor, counted: Tensor | None = None) -> Moments:
    """Take the moments of the columns that count.

    A CPU picks them out. A GPU would have to be waited for to know how many there are: there the
    others become 0, and the divisor leaves them out; so they do where ranks train together, whose
    columns all count.

    Args:
        values: (D, M) floating
        counted: (M,) bool; None counts all
    """
    if counted is None:
        counted = torch.ones(values.shape[1], dtype=torch.bool, device=values.device)
    elif not values.is_cuda and alone():
        values, counted = values[:, counted], counted[counted]
    if values.is_cuda or not alone():
        return _without_picking(values, counted)
    there = counted.any()
    if not values.shape[1]:
        none = values.new_zeros(len(values))
        return Moments(none, none, none.new_zeros(()), there)
    mean, variance = values.mean(1), values.var(1, correction=0)
    return Moments(mean, variance, values.square().mean(), there)


def _without_picking(values: Tensor, counted: Tensor) -> Moments:
    total = summed(counted.sum())
    number = total.clamp(min=1)
    values = values.masked_fill(~counted, 0)
    mean = summed(values.sum(1)) / number
    apart = (values - mean[:, None]).masked_fill(~counted, 0)
    square = summed(values.square().sum()) / (number * len(values))
    return Moments(mean, summed(apart.square().sum(1)) / number, square, total > 0)
