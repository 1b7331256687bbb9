"""What happens on the make-believe device."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

PACKAGE = str(Path(__file__).parents[2] / "stillroom") + os.sep


class Record:
    """What happened since `clear`.

    Attributes:
        waits: synchronisations of host and device, by the line of stillroom and what it did
        late: waits for an event, which a step ahead of it hides, by line
        sent: bytes that were copied to the device
        ranges: NVTX ranges that were opened, by name
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.waits: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.sent = 0
        self.ranges: Counter[str] = Counter()

    def wait(self, what: str) -> None:
        self.waits[f"{line()}: {what}"] += 1


RECORD = Record()


def line() -> str:
    """The line of the package that is being run; the test's, where it runs none."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            return f"{path.removeprefix(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
