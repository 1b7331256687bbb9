"""Frames of video files by number, in any order and from any thread, always the same pixels.

A decoder only goes forward. A few are kept open, each at its place in a file: a shard's frames,
asked for one after the other, are read on from there. Elsewhere a decoder must seek, and no
container promises where a seek lands: the time of the frame it lands on is looked up in the file's
index. If it is unknown, or past the wanted frame, the seek aims farther back, and in the end the
file is read from its start.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stillroom.stages.sources.read_faults import read_through
from stillroom.stages.sources.video_index import VideoIndex, open_capture
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DECODERS = 4  # open at a time: three shards are read side by side, and files may end within them
RECENT = 8  # wanted frames that a decoder remembers: so many threads ask for them in any order
REACH = 64  # frames over which reading on is preferred to a seek
MARGINS = (16, 64, 256)  # frames that a seek aims before the wanted one: later ones may refer back


@dataclass(frozen=True, eq=False)
class VideoFile:
    """A file, and which of its frames are wanted.

    Attributes:
        path: the file.
        index: its frames.
        numbers: of the wanted frames, ascending: int64 (M,).
    """

    path: Path
    index: VideoIndex
    numbers: NDArray[np.int64]

    def before(self, number: int) -> NDArray[np.int64]:
        """Return the numbers of the last few frames that are wanted before one."""
        place = int(np.searchsorted(self.numbers, number))
        return self.numbers[max(0, place - RECENT) : place]


class _Decoder:
    """An open file at a place. `lock` is held while it moves."""

    def __init__(self, file: VideoFile) -> None:
        self.file = file
        self.lock = threading.Lock()
        self.aim = 0  # where it will be after all reads that were asked for
        self._capture: cv2.VideoCapture | None = None
        self._next = 0  # number of the frame that a grab gives
        self._recent: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._disk_works = False  # until it is checked, which is once: files are large
        self._ascending = bool((np.diff(file.index.times_ms) > 0).all())

    def read(self, number: int) -> NDArray[np.uint8]:
        """Read one frame, RGB."""
        with self.lock:
            if number not in self._recent:
                if self._capture is None or not 0 <= number - self._next <= REACH:
                    self._approach(number)
                recent = self.file.before(number)
                while self._next < number:
                    self._grab(keep=self._next in recent)
                self._grab(keep=True)
            return self._recent[number].copy()

    def _approach(self, number: int) -> None:
        """Move to any place at or before a frame."""
        for margin in MARGINS if self._ascending else ():
            if number - margin <= 0 or not self._seek(number - margin):
                break
            time = self._time_ms() if self._capture and self._capture.grab() else np.nan
            times = self.file.index.times_ms
            place = int(np.searchsorted(times, time))
            if place < min(number, len(times)) and times[place] == time:
                self._next = place + 1
                return
        self._capture, self._next = self._opened(), 0

    def _seek(self, number: int) -> bool:
        if self._capture is None:
            self._capture = self._opened()
        return bool(self._capture.set(cv2.CAP_PROP_POS_FRAMES, number))

    def _grab(self, *, keep: bool) -> None:
        """Decode the next frame; convert its colours only where it is to be remembered."""
        number, index = self._next, self.file.index
        grabbed = self._capture is not None and self._capture.grab()
        if not grabbed or self._time_ms() != index.times_ms[number]:
            self._capture = None
            raise self._fault("the file has changed since it was listed")
        self._next += 1
        if keep:
            self._recent[number] = self._retrieved(number)
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    def _retrieved(self, number: int) -> NDArray[np.uint8]:
        good, image = self._capture.retrieve() if self._capture is not None else (False, None)
        if not good or image is None or image.ndim != 3 or image.shape[2] != 3:
            raise self._fault(f"frame {number} cannot be read as colours")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def _time_ms(self) -> float:
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) if self._capture else float("nan")

    def _opened(self) -> cv2.VideoCapture:
        capture = open_capture(self.file.path)
        if capture is None:
            raise self._fault("cannot be opened any more")
        return capture

    def _fault(self, what: str) -> FrameError:
        """Return the fault of a frame, once the disk is known not to be the cause."""
        if not self._disk_works:
            read_through(self.file.path)
            self._disk_works = True
        return FrameError(f"{self.file.path.name}: {what}")


# A parent's decoders in its fork: closing them would wait for threads that the fork does not have.
_OF_THE_PARENT: list[_Decoder] = []


class VideoReader:
    """A few open decoders for any number of files and threads."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._decoders: list[tuple[int, _Decoder]] = []  # with the file's key; last used last
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoReader, ()

    def read(self, key: int, file: VideoFile, number: int) -> NDArray[np.uint8]:
        """Read frame `number` of a file, RGB uint8 (H, W, 3).

        Args:
            key: of the file, the same every time

        Raises:
            FrameError: the file has no such frame any more, or has changed.
            SourceUnavailable: it cannot be read now.
        """
        if number >= file.index.whole:
            raise FrameError(
                f"{file.path.name}: the file is cut off or damaged; of its {len(file.index)} "
                f"frames the first {file.index.whole} are whole; number {number} (from 0) is not"
            )
        if self._process != os.getpid():  # a fork shares its files' places with its parent
            _OF_THE_PARENT.extend(decoder for _, decoder in self._decoders)
            self._start()
        with self._lock:
            decoder = self._choose(key, file, number)
            near = self._near(decoder, number)
            decoder.aim = max(decoder.aim, number + 1) if near else number + 1
        return decoder.read(number)

    def _near(self, decoder: _Decoder, number: int) -> bool:
        oldest = min(decoder.file.before(decoder.aim), default=decoder.aim)
        return oldest <= number <= decoder.aim + REACH

    def _choose(self, key: int, file: VideoFile, number: int) -> _Decoder:
        """Take the decoder that will be near; else a new one for that unused for longest."""
        near = [each for each in self._decoders if each[0] == key and self._near(each[1], number)]
        if near:
            chosen = min(near, key=lambda each: abs(number - each[1].aim))
        elif len(self._decoders) >= DECODERS and self._decoders[0][0] == key:
            chosen = self._decoders[0]
        else:
            chosen = (key, _Decoder(file))
        # One that leaves the list is closed when its last reader lets go of it.
        kept = [each for each in self._decoders if each is not chosen]
        self._decoders = [*kept, chosen][-DECODERS:]
        return chosen[1]
