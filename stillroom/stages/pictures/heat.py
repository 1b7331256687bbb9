"""The one colour scale of heat maps."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@lru_cache(maxsize=1)
def heat() -> NDArray[np.uint8]:
    """Colours of 0..1 in 256 steps, (256, 3): dark is little, bright is much."""
    from matplotlib import colormaps

    table = colormaps["inferno"](np.arange(256))[:, :3]
    return np.asarray((table * 255).round(), np.uint8)
