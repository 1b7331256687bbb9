"""One file of a listing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """A file directly in a folder.

    Attributes:
        bytes: its size
        signature: compares equal as long as nobody has written the file again
    """

    name: str
    bytes: int
    signature: object
