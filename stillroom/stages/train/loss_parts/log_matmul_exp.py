"""A log-sum-exp over pairs, as one matrix product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

# Products below e^-87 are lost in float32. Beside a sum above this they are nothing.
_TRUSTED = -65.0


def log_matmul_exp(left: Tensor, right: Tensor) -> Tensor:
    """Sum exponentials over all pairs, without making the pairs.

    out_ic = log sum_k exp(left_ik + right_ck)

    One product of two matrices, N K C multiplications, in memory N K + C K + N C. Where the two
    sides pull so far apart that the product loses the sum (where every k is 65 nats and more below
    the largest left plus the largest right), that row is computed term by term instead, column
    after column, with nothing kept for the gradient but left and right. A GPU would have to be
    waited for to find such rows: there the product is in float64, which loses a sum 700 nats down
    and gives -inf for it.

    Args:
        left: (..., N, K), finite; on a CPU (N, K)
        right: (..., C, K), finite; on a CPU (C, K)

    Returns:
        (..., N, C)
    """
    if left.is_cuda:
        return _in_float64(left, right)
    left_top = left.detach().amax(dim=1, keepdim=True)  # (N, 1)
    right_top = right.detach().amax(dim=1, keepdim=True)  # (C, 1)
    total = (left - left_top).exp() @ (right - right_top).exp().T  # (N, C)
    lost = total.detach() < torch.e**_TRUSTED
    # The log of what is replaced below must not send an infinity back.
    result = total.masked_fill(lost, 1).log() + (left_top + right_top.T)
    rows = lost.any(dim=1).nonzero().squeeze(1)
    if len(rows) == 0:
        return result
    return result.index_copy(0, rows, _term_by_term(left[rows], right))


def _in_float64(left: Tensor, right: Tensor) -> Tensor:
    wide, other = left.double(), right.double()
    top, other_top = (one.detach().amax(dim=-1, keepdim=True) for one in (wide, other))
    total = (wide - top).exp() @ (other - other_top).exp().mT
    return (total.log() + (top + other_top.mT)).to(left.dtype)


def _term_by_term(left: Tensor, right: Tensor) -> Tensor:
    def column(every: Tensor, one: Tensor) -> Tensor:
        return torch.logsumexp(every + one, dim=1)

    parts = [
        checkpoint(column, left, one, use_reentrant=False, preserve_rng_state=False)
        for one in right
    ]
    return torch.stack(parts, dim=1)  # (N, C)
