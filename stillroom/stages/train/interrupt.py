"""Ctrl-C and SIGTERM take effect between two steps, and never inside one."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

LOG = logging.getLogger(__name__)
# Batch systems and containers send SIGTERM, and some seconds later SIGKILL.
HELD_BACK = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupt:
    """While entered, the first Ctrl-C or SIGTERM only raises a flag; the second acts at once.

    A step that is broken off leaves weights and optimiser of no one step, which must not become a
    checkpoint. Outside the main thread, where signals cannot be caught, it does nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[signal.Signals, object] = {}

    def held_back(self) -> KeyboardInterrupt | None:
        """Return the KeyboardInterrupt that is due, if there is one."""
        return KeyboardInterrupt() if self._asked else None

    def __enter__(self) -> DeferredInterrupt:
        """Install the handler."""
        if threading.current_thread() is threading.main_thread():
            for each in HELD_BACK:
                self._previous[each] = signal.signal(each, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the former handlers."""
        for each, previous in self._previous.items():
            signal.signal(each, previous)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        LOG.warning("interrupted: finishing this step and saving; once more to stop at once")
