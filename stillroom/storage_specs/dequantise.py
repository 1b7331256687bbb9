"""Steps back into numbers, in compiled code: one pass over memory, without the interpreter's lock.

numba is imported, and what it compiles is loaded, when the first frame is decoded.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def affine(
    values: NDArray[np.uint8],
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Fill out = scale[channel] * values + offset[channel], each step rounded to float32.

    values: (C, ...) uint8
    scale, offset: (C,) float32
    out: (C, ...) float32, C-contiguous
    """
    if values.size:
        rows = (len(values), -1)
        steps = np.ascontiguousarray(values).reshape(rows)
        _affine_kernel()(steps, scale, offset, out.reshape(rows))


@cache
def _affine_kernel() -> Callable[..., None]:
    numbers = "Array(f4, 1, 'C', readonly=True)"
    steps = "Array(u1, 2, 'C', readonly=True)"
    return compiled(_affine, f"void({steps}, {numbers}, {numbers}, f4[:, ::1])")


def compiled(function: Callable[..., None], signature: str) -> Callable[..., None]:
    """The function as machine code, kept on disk where some folder takes it.

    numba tries __pycache__ beside the source, then NUMBA_CACHE_DIR or the user's cache folder.
    """
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        made: Callable[..., None] = njit(signature, cache=True, **options)(function)
    except (RuntimeError, OSError):  # no folder can be written, or the disk is full
        made = njit(signature, **options)(function)
    return made


def _affine(values: Any, scale: Any, offset: Any, out: Any) -> None:
    # Not fused into one rounding: every reader of the format finds the same bits.
    for channel in range(values.shape[0]):
        step, least = scale[channel], offset[channel]
        for i in range(values.shape[1]):
            out[channel, i] = step * np.float32(values[channel, i]) + least
