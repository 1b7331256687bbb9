"""Named spans of work, for whoever listens: a profile, or the profilers of a GPU by NVTX."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Listener = Callable[[str], Callable[[], None]]
"""Called in the span's own thread where it begins, with its name; returns what is called at its
end."""

_listeners: list[Listener] = []


@contextmanager
def span(name: str) -> Iterator[None]:
    """Tell the listeners of a piece of work; next to nothing where there are none."""
    ends = [begin(name) for begin in _listeners]
    try:
        yield
    finally:
        for end in reversed(ends):
            end()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener told of every span, in all threads, for the length of a with-block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
