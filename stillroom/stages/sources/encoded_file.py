"""An image or a label map as it is stored: a file, or a piece of a larger one."""

from __future__ import annotations

from typing import Protocol


class EncodedFile(Protocol):
    """What a path offers, and a member of an archive too."""

    @property
    def name(self) -> str:
        """Its name, without what lies above it: messages that are kept hold no more."""

    def read_bytes(self) -> bytes:
        """Read all of it.

        Raises:
            OSError: it cannot be read.
            FrameError: a member of an archive is not whole.
        """
