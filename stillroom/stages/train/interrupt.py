"""Ctrl-C between two steps, never inside one."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType, TracebackType

LOG = logging.getLogger(__name__)


class DeferredInterrupt:
    """While entered, the first Ctrl-C only raises a flag; the second interrupts at once.

    A step that is broken off leaves weights and optimiser of no one step, which must not become a
    checkpoint. Outside the main thread, where signals cannot be caught, it does nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: object = None
        self._installed = False

    def raise_if_asked(self) -> None:
        """Raise the KeyboardInterrupt that was held back, if there was one."""
        if self._asked:
            raise KeyboardInterrupt

    def __enter__(self) -> DeferredInterrupt:
        """Start to hold Ctrl-C back."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
            self._installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give Ctrl-C back to whoever had it."""
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        LOG.warning("interrupted: finishing this step and saving; once more to stop at once")
