"""Numbers onto a device and off it, without the host and the device waiting for each other."""

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


class Late:
    """A tensor on its way to the host: the copy is begun here, and waited for when it is read.

    What is read a step after it was begun has long arrived, and the device never runs dry.
    """

    def __init__(self, values: Tensor) -> None:
        self._host = values.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def tensor(self) -> Tensor:
        """Return the values, on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
