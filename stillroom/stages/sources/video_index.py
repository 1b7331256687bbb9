"""Index a video file: every frame that decodes, and the time at which it is shown.

The count in a container is an estimate in some formats and may be wrong in others: a file that was
cut off states frames that it lost, one that was cut out of another has frames that no player shows,
and an AVI counts those that its camera dropped. So the frames are decoded once and counted, up to
the first that is damaged: what comes after it refers back to it. Their times, which are exact,
later identify the frame that a seek has landed on. Counting takes a while, and every command opens
its sources: an index is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stillroom.stages.sources.read_faults import read_through
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATED = frozenset({".avi", ".m4v", ".mov", ".mp4"})
"""Containers with an index, whose count is no estimate from a duration."""
DOUBTFUL = 4
"""Frames before a cut, or damage, that are not trusted: what was lost may be shown before them."""
_FORMAT = 2  # of a kept index; part of its name
_RETRIES = 16  # after a frame that does not decode: at the end of a file none follows
_MISSING_MS = 1000.0  # or a tenth of its length, if that is more, by which a file may end early


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """A video file by its frames.

    Attributes:
        rate: frames a second as the container states them; 0 where it does not.
        lost: frames that the container states, or that follow a damaged one, and cannot be read.
        times_ms: float64 (N,), when each frame that decodes is shown, from the first.
        stated_ms: length that a container without a count of frames states; 0 where it does not.
    """

    rate: float
    lost: int
    times_ms: NDArray[np.float64]
    stated_ms: float = 0.0

    def __len__(self) -> int:
        """Count the frames, with those that are lost."""
        return len(self.times_ms) + self.lost

    @property
    def whole(self) -> int:
        """Number of the first frames that can be trusted."""
        return max(0, len(self.times_ms) - DOUBTFUL) if self.lost else len(self.times_ms)

    @property
    def ends_early(self) -> bool:
        """Whether the frames end long before the stated length, and nothing else tells of a cut."""
        missing = self.stated_ms - self.times_ms[-1]
        return not self.lost and bool(missing > max(_MISSING_MS, 0.1 * self.stated_ms))


def open_capture(path: Path, *options: int) -> cv2.VideoCapture | None:
    """Open a video file; None where it cannot be opened."""
    capture = cv2.VideoCapture()
    opened = capture.open(os.path.abspath(path), cv2.CAP_FFMPEG, list(options))
    return capture if opened else None


def index_video(path: Path) -> VideoIndex:
    """Return a file's index: the kept one if the file is still the same, else by decoding.

    Raises:
        ConfigError: it cannot be opened, or none of its frames decodes.
        SourceUnavailable: it cannot be read now.
    """
    kept = _kept_at(path)
    if kept is not None and (found := _read(kept)) is not None:
        return found
    made = _decode(path)
    if kept is not None:
        _write(kept, made)
    return made


def _decode(path: Path) -> VideoIndex:
    capture = open_capture(path)
    if capture is None:
        _check_the_disk(path)
        raise ConfigError(
            f"{path} cannot be opened as a video ({_bytes(path)}); it is cut off, damaged or of "
            "a format that OpenCV does not know: repair it, or take it out of the source"
        )
    times = []
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    if not times:
        _check_the_disk(path)
        raise ConfigError(
            f"{path} holds no frame that can be decoded ({_bytes(path)}); take it out of the source"
        )
    rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = rate if np.isfinite(rate) and rate > 0 else 0.0
    # 1000 is what a browser's recordings state where they do not know it.
    index = VideoIndex(rate if rate < 1000 else 0.0, 0, np.array(times, np.float64))
    goes_on = any(capture.grab() for _ in range(_RETRIES))
    if path.suffix.lower() in STATED:
        index = replace(index, lost=_lost(path, index, round(count), goes_on))
    elif goes_on:
        index = replace(index, lost=max(1, _packets(path) - len(times)))
    elif rate and count > 0:
        index = replace(index, stated_ms=1000 * count / rate)
    if index.lost:
        _check_the_disk(path)
    return index


def _lost(path: Path, index: VideoIndex, stated: int, goes_on: bool) -> int:
    """Count the frames that a container states and that do not decode any more."""
    decoded = len(index.times_ms)
    if goes_on:
        return max(1, stated - decoded)
    if decoded >= stated or _packets(path) >= stated:
        return 0  # were all of them in the file, those that do not show are hidden on purpose
    if path.suffix.lower() == ".avi":  # it has a place for every moment, also for a dropped frame
        decoded = max(decoded, 1 + round(index.times_ms[-1] * index.rate / 1000))
    return max(0, stated - decoded)


def _check_the_disk(path: Path) -> None:
    """Read a file before it is called damaged: OpenCV does not tell that from a disk that fails.

    Raises:
        SourceUnavailable: the file cannot be read now.
    """
    with suppress(FrameError):
        read_through(path)


def _packets(path: Path) -> int:
    """Count the encoded frames of a file without decoding them."""
    capture, count = open_capture(path, cv2.CAP_PROP_FORMAT, -1), 0
    while capture is not None and capture.grab():
        count += 1
    return count


def _bytes(path: Path) -> str:
    try:
        return f"{path.stat().st_size} bytes"
    except OSError as fault:
        return fault.strerror or type(fault).__name__


def _kept_at(path: Path) -> Path | None:
    """Return where the index of a file in this state is kept; None where nothing can be."""
    try:
        state = path.stat()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except (OSError, RuntimeError):
        return None
    key = (_FORMAT, cv2.__version__, str(path.resolve()), state.st_size, state.st_mtime_ns)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    return Path(base) / "stillroom" / "videos" / f"{name}.npy"


def _read(kept: Path) -> VideoIndex | None:
    try:
        values = np.load(kept, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if values.dtype != np.float64 or values.ndim != 1 or len(values) < 4:
        return None
    return VideoIndex(float(values[0]), int(values[1]), values[3:].copy(), float(values[2]))


def _write(kept: Path, index: VideoIndex) -> None:
    values = np.concatenate([[index.rate, index.lost, index.stated_ms], index.times_ms])
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            np.save(Path(folder) / kept.name, values)
            os.replace(Path(folder) / kept.name, kept)
    except OSError:
        return  # no room or no permission: it is counted again next time
