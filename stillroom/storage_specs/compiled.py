"""Functions that run as machine code, beside the interpreter and not under its lock.

Files with such functions are imported only when they are called: numba takes half a second to
import. Compiled code is kept beside the file, or else in NUMBA_CACHE_DIR or in the user's cache
folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called with arguments of some types."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except (RuntimeError, OSError):  # no folder takes compiled code, or the disk is full
        return numba.njit(nogil=True)(function)
