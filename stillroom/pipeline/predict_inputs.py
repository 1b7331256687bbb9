"""What `stillroom predict` is given, as frames: image files, folders of images, videos."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.sources.image_files import IMAGE_SUFFIXES
from stillroom.stages.sources.images import ImagesConfig, open_image_files, open_images
from stillroom.stages.sources.video import VIDEO_SUFFIXES, VideoConfig, open_video
from stillroom.stages.sources.video_moments import frame_rate
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stillroom.stages.sources.source import Frame, Source
    from stillroom.stages.sources.video import VideoSource

UNKNOWN_RATE = 25.0  # frames a second of the film of a video that states none
CLIP = "film"  # of images that are one


@dataclass(frozen=True, eq=False)
class InputFrame:
    """A frame to predict.

    Attributes:
        name: its path below the folders of what is written, without a suffix
        clip: whose film it is in, at `rate` frames a second; None: in none
    """

    name: str
    source: Source
    index: int
    clip: str | None
    rate: float

    def load(self) -> Frame:
        """Read it; raises as `Source.load`."""
        return self.source.load(self.index)


def open_inputs(inputs: Sequence[Path], fps: float | None) -> list[InputFrame]:
    """List all frames, images in natural order of their names before videos.

    Args:
        inputs: image files, folders of images, video files
        fps: see `predict`

    Raises:
        ConfigError: an input is missing or none of these, or two frames have one name.
    """
    folders, images, videos = (
        [path for path in inputs if _kind(path) == kind] for kind in ("folder", "image", "video")
    )
    frames: list[InputFrame] = []
    clip = None if fps is None else CLIP
    for source in (
        *([open_image_files(images)] if images else []),
        *([open_images(ImagesConfig(root=tuple(folders)))] if folders else []),
    ):
        for index, frame_id in enumerate(source.frame_ids):
            name = os.path.splitext(frame_id)[0]
            frames.append(InputFrame(name, source, index, clip, fps or UNKNOWN_RATE))
    if videos:
        frames += _video_frames(open_video(VideoConfig(root=tuple(videos), fps=fps)))
    names = [frame.name for frame in frames]
    if len(set(names)) < len(names):
        doubled = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"two frames would both be {doubled!r}; rename one, or predict it apart")
    return frames


def _kind(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if not path.exists():
        raise ConfigError(f"{path}: no such image, folder or video")
    for kind, suffixes in (("image", IMAGE_SUFFIXES), ("video", VIDEO_SUFFIXES)):
        if path.suffix.lower() in suffixes:
            return kind
    known = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise ConfigError(f"{path}: neither an image nor a video by its name ({known})")


def _video_frames(source: VideoSource) -> list[InputFrame]:
    rates = {
        clip.clip: source.config.fps or frame_rate(clip.file.index) or UNKNOWN_RATE
        for clip in source.clips
    }
    clips = [str(source.position(index)[0]) for index in range(len(source))]
    return [
        InputFrame(name, source, index, clip, rates[clip])
        for index, (name, clip) in enumerate(zip(source.frame_ids, clips, strict=True))
    ]
