"""Steps as differences from what their neighbours foretell, which compress better.

The prediction of a step at (y, x) from those to its left (W), above (N) and above left (NW):

    "above":  N, which is undone a whole row at a time
    "median": median(W, N, W + N - NW), of LOCO-I (Weinberger et al., IEEE TIP 2000), for maps with
        edges
    "plane":  W + N - NW, for maps that were upsampled bilinearly, such as flow

Outside the map: above the first row everything is 0; left of the first column W and NW are N.
The difference is taken modulo 2^8 or 2^16, read as signed, and stored as 2 d for d >= 0, -2 d - 1
for d < 0. Channels are predicted each on their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Predictor = Literal["above", "median", "plane"]


def differences_of(steps: NDArray[Any], predictor: Predictor) -> NDArray[Any]:
    """The stored form of a map's steps.

    Args:
        steps: (C, h, w) uint8 or uint16

    Returns:
        the same shape and dtype
    """
    from stillroom.storage_specs.codecs.kernels import differences

    stored = np.empty(steps.shape, steps.dtype)
    rule = get_args(Predictor).index(predictor)
    differences(np.ascontiguousarray(steps), rule, 8 * steps.dtype.itemsize, stored)
    return stored


def steps_of(stored: NDArray[Any], predictor: Predictor) -> NDArray[Any]:
    """Undo `differences_of`.

    Returns:
        the same shape; of "plane" int16, else of the same dtype
    """
    from stillroom.storage_specs.codecs.kernels import undo_above, undo_median, undo_plane

    signed = predictor == "plane"
    steps = np.empty(stored.shape, np.int16 if signed else stored.dtype)
    # The kernels give a value to every step: here it is the step itself.
    if signed:
        undo_plane(stored, 1.0, steps)
    elif predictor == "above":
        none, one = np.zeros(len(stored), np.float32), np.ones(len(stored), np.float32)
        undo_above(stored, none, -one, steps)
    else:
        last = np.iinfo(stored.dtype).max
        every = np.arange(last + 1, dtype=stored.dtype)
        undo_median(stored, np.broadcast_to(every, (len(stored), last + 1)), int(last), steps)
    return steps
