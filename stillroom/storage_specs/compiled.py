"""Functions that run as machine code, beside the interpreter and not under its lock.

Files with such functions are imported only when they are called: numba takes half a second to
import. Compiled code is kept beside the file, or else in NUMBA_CACHE_DIR or in the user's cache
folder.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(
    function: Callable[..., Any] | None = None, *, fused: bool = False
) -> Callable[..., Any]:
    """Compile a function when it is first called with arguments of some types.

    Args:
        fused: a * b + c may be rounded once, where the machine can; never for what is stored or
            decoded, which are the same bits everywhere
    """
    if function is None:
        return partial(compiled, fused=fused)
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"} if fused else False}
    try:
        made = numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # no folder takes compiled code, or the disk is full
        made = numba.njit(**options)(function)
    return cast("Callable[..., Any]", made)
