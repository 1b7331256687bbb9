"""Numbers onto a device, without the host and the device waiting for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def constants(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Return numbers as a tensor (N,) of the type and on the device of another.

    Filled there: `new_tensor` copies from the host, and that copy waits for all the device has to
    do.
    """
    return torch.stack([like.new_full((), number) for number in numbers])
