"""Video files, a clip each, without labels."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from stillroom.stages.sources.find_images import kind_at, walk
from stillroom.stages.sources.names import Names, natural_key, text_of
from stillroom.stages.sources.source import Frame
from stillroom.stages.sources.source_settings import SourceSettings
from stillroom.stages.sources.spelled_names import unspelled
from stillroom.stages.sources.video_index import index_video
from stillroom.stages.sources.video_moments import (
    ascends,
    choose_frames,
    frame_rate,
    numbers_by_place,
    uneven,
)
from stillroom.stages.sources.video_reader import VideoFile, VideoReader
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.video_index import VideoIndex

LOG = logging.getLogger(__name__)
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
_SLOWER = 0.99  # of the asked rate: 29.97 frames a second do for 30


class VideoConfig(SourceSettings):
    """Video files as OpenCV decodes them.

    Attributes:
        root: a folder of videos, read with its subfolders, a file, or a list of either.
        fps: frames a second that are taken, at most the files' own; None takes every frame.
    """

    kind: Literal["video"] = "video"
    root: Path | tuple[Path, ...]
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def folders(self) -> tuple[Path, ...]:
        """Return the root folders and files."""
        roots = self.root if isinstance(self.root, tuple) else (self.root,)
        return tuple(root.expanduser() for root in roots)

    def stated(self) -> dict[str, Any]:
        """Return kind, rate and classes."""
        return {"kind": self.kind, "fps": self.fps, "classes": None}


@dataclass(frozen=True, eq=False)
class VideoClip:
    """A video file in a source; `clip` is its name without the suffix.

    Attributes:
        times: of the frames that are taken, ascending: int64 (M,).
    """

    name: str
    clip: str
    size: int
    file: VideoFile
    times: NDArray[np.int64]


class VideoSource:
    """The frames of video files, clip by clip in natural order of the clips' names."""

    classes: tuple[str, ...] | None = None

    def __init__(self, config: VideoConfig, clips: list[VideoClip]) -> None:
        self.config = config
        self.clips = tuple(clips)
        self._ends = list(accumulate(len(clip.times) for clip in clips))
        self._reader = VideoReader()

    @cached_property
    def frame_ids(self) -> Names:
        """Names such as `tram/000123`: the file and the number of the frame in it."""
        return Names(
            text_of(
                f"{each.clip}/{number:06d}"
                for each in self.clips
                for number in each.file.numbers.tolist()
            )
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def load(self, index: int) -> Frame:
        """Decode one frame: the same pixels whatever was decoded before.

        Raises:
            FrameError: it is in the part of a file that was cut off or comes after damage, or the
                file is another now.
            SourceUnavailable: the file cannot be read now.
        """
        which, place = self._place(index)
        file = self.clips[which].file
        image = self._reader.read(which, file, int(file.numbers[place]))
        return Frame(self.frame_ids[index], image)

    def position(self, index: int) -> tuple[str | None, int | None]:
        """Return the file, and the frame's time: k of k / `fps`, or usual intervals of the file."""
        which, place = self._place(index)
        return self.clips[which].clip, int(self._times[which][place])

    def labelled(self, index: int) -> bool:
        """Tell that no frame of a video has a label."""
        return False

    def label_count(self) -> int:
        """Count no labels."""
        return 0

    def identity(self) -> dict[str, Any]:
        """Return the rate and a fingerprint of the files' names, sizes and counts of frames.

        Where moments and not places decide which frames are taken, a fingerprint of those follows.
        """
        rows = [
            [clip.name, clip.size, len(clip.file.index), len(clip.times)] for clip in self.clips
        ]
        chosen = [
            [clip.name, *clip.file.numbers.tolist()]
            for clip in self.clips
            if _by_moment(clip.file, self.config.fps)
        ]
        return {
            **self.config.stated(),
            "frames": len(self),
            "listing_sha256": _sha256(rows),
            **({"chosen_sha256": _sha256(chosen)} if chosen else {}),
        }

    @cached_property
    def _times(self) -> list[NDArray[np.int64]]:
        """The frames' times, clip by clip: wanted where frames are compared along time."""
        if self.config.fps is None:
            odd = [clip.name for clip in self.clips if uneven(clip.file.index)]
            _warn(
                odd,
                "has frames at uneven intervals, and steps of its time are not all of one length; "
                "`fps` takes frames at equal intervals",
            )
        return [clip.times for clip in self.clips]

    def _place(self, index: int) -> tuple[int, int]:
        index = range(len(self))[index]
        which = bisect_right(self._ends, index)
        return which, index - (self._ends[which - 1] if which else 0)


def open_video(config: VideoConfig) -> VideoSource:
    """Find the files and count their frames.

    Raises:
        ConfigError: no file, one that cannot be opened or of which no frame decodes, two that
            would be one clip, or `fps` is given and a file has no known rate or a lower one.
        SourceUnavailable: a file cannot be read now.
    """
    found = sorted(_found(config), key=lambda each: (natural_key(each[0]), each[0]))
    names = _clip_names(found)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # OpenCV decodes without the GIL
        indices = list(pool.map(index_video, [path for _, path in found]))
    clips = [
        _clip(name, path, clip, index, config.fps)
        for (name, path), clip, index in zip(found, names, indices, strict=True)
    ]
    short = [clip.name for clip in clips if clip.file.index.ends_early]
    _warn(
        short, "ends long before the length that it states: if it was cut off, the rest is missing"
    )
    if config.fps is not None:
        unknown = [clip.name for clip in clips if not ascends(clip.file.index)]
        _warn(unknown, "does not say when its frames are shown: `fps` counts them at its rate")
    return VideoSource(config, clips)


def _clip(name: str, path: Path, clip: str, index: VideoIndex, fps: float | None) -> VideoClip:
    if fps is not None:
        _demand_rate(path, frame_rate(index), fps)
    numbers, times = choose_frames(index, fps)
    return VideoClip(name, clip, path.stat().st_size, VideoFile(path, index, numbers), times)


def _warn(files: list[str], what: str) -> None:
    if files:
        more = f" (and {len(files) - 1} more such files)" if len(files) > 1 else ""
        LOG.warning("%s %s%s", files[0], what, more)


def _by_moment(file: VideoFile, fps: float | None) -> bool:
    """Tell whether other frames are taken than the places at the stated rate say."""
    return fps is not None and not np.array_equal(file.numbers, numbers_by_place(file.index, fps))


def _sha256(rows: list[list[Any]]) -> str:
    return hashlib.sha256(
        "".join(json.dumps(row) + "\n" for row in sorted(rows)).encode()
    ).hexdigest()


def _found(config: VideoConfig) -> list[tuple[str, Path]]:
    """Find name and path of every video."""
    found: list[tuple[str, Path]] = []
    for root in config.folders():
        kind = kind_at(root)
        if kind == "file":
            found.append((root.name, root))
            continue
        if kind != "folder":
            raise ConfigError(f"{root} does not exist; `root` is a folder of videos or a list")
        inside = [(name, root / name) for name, _ in walk(root, VIDEO_SUFFIXES, recursive=True)]
        strange = [raw for name, _ in inside if (raw := unspelled(name)) is not None]
        if strange:
            raise ConfigError(
                f"{root} holds {strange[0]!r}, which is no printable UTF-8; rename it"
            )
        if not inside:
            raise ConfigError(f"{root} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})")
        found += inside
    if not found:
        raise ConfigError("a video source needs at least one folder or file in `root`")
    return found


def _clip_names(found: list[tuple[str, Path]]) -> list[str]:
    paths: dict[str, Path] = {}
    for name, path in found:
        clip = os.path.splitext(name)[0]
        if clip in paths:
            raise ConfigError(f"{paths[clip]} and {path} would both be clip {clip!r}; rename one")
        paths[clip] = path
    return list(paths)


def _demand_rate(path: Path, rate: float, fps: float) -> None:
    if not rate:
        raise ConfigError(
            f"{path} states no frame rate, so `fps` = {fps:g} cannot be taken from it; leave `fps` "
            "out to take every frame, or write the file anew with a rate"
        )
    if rate < _SLOWER * fps:
        raise ConfigError(
            f"{path} has {rate:.4g} frames a second, and `fps` asks for {fps:g}: give `fps` at "
            "most the rate of the slowest file, or leave it out to take every frame"
        )
