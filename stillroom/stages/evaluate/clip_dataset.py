"""The clips of a source: which there are, where frames are missing, and the flow in them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from stillroom.stages.evaluate.clip_flow import ClipFrame
from stillroom.stages.evaluate.predict import SkippedFrame, read_frames
from stillroom.stages.sources.clip_times import times_of_clips, usual_step
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stillroom.stages.evaluate.clip_flow import ClipFlow
    from stillroom.stages.evaluate.evaluation_settings import VideoConfig
    from stillroom.stages.sources.source import Source


@dataclass(frozen=True)
class Clip:
    """Frames of a source that follow each other.

    Attributes:
        name: of the clip.
        indices: of its frames in the source, in the order of time.
        breaks: positions in `indices` whose frame does not follow at once the one before it.
    """

    name: str
    indices: tuple[int, ...]
    breaks: frozenset[int]

    @property
    def pairs(self) -> int:
        """Frames that follow each other at once."""
        return len(self.indices) - 1 - len(self.breaks)


@dataclass(frozen=True)
class LeftOutClip:
    """A clip that cannot be measured, and why."""

    clip: str
    reason: str


@dataclass(frozen=True, eq=False)
class ClipDataset:
    """Clips of a source, with the flow in them.

    Attributes:
        source, canvas: the frames, and the (height, width) that they are brought to.
        clips: of the source, in the order in which they are measured.
        flow: what knows the flow.
        left_out: clips that were asked for and are of no use.
    """

    source: Source
    canvas: tuple[int, int]
    clips: tuple[Clip, ...]
    flow: ClipFlow
    left_out: tuple[LeftOutClip, ...] = ()

    def __len__(self) -> int:
        return sum(len(clip.indices) for clip in self.clips)

    def frames(self, clip: Clip) -> Iterator[ClipFrame | SkippedFrame]:
        """Yield the frames of a clip in the order of time; those that cannot be read as skipped."""
        before: ClipFrame | None = None
        loaded = read_frames(self.source, self.canvas, clip.indices)
        for place, (index, frame) in enumerate(zip(clip.indices, loaded, strict=True)):
            if isinstance(frame, SkippedFrame):
                before = None
                yield frame
                continue
            here, flow = ClipFrame(index, frame), None
            if before and before.frame.valid == frame.valid and place not in clip.breaks:
                flow = self.flow.between(before, here)
            yield replace(here, flow=flow)
            before = here

    def compute_flow(self, on_frames: Callable[[int], None] = lambda _: None) -> None:
        """Have the flow of all clips computed, where it is not kept yet.

        Args:
            on_frames: called with the number of frames that are done
        """
        done = 0
        for clip in self.clips:
            for _ in self.frames(clip):
                done += 1
                on_frames(done)


def clips_of(source: Source, settings: VideoConfig) -> tuple[list[Clip], list[LeftOutClip]]:
    """The clips that are asked for, in the order of the source, and those that are of no use.

    Two frames follow each other at once where no more time lies between them than the difference
    that is the most frequent in their clip, or an eighth more of times that a clock gave.

    Raises:
        ConfigError: the source has no clips, none by such a name, none of two frames, or one with
            two frames at a time.
    """
    timed = _timed_frames(source, settings.source)
    wanted = list(timed)
    if isinstance(settings.clips, tuple):
        _demand_known(settings, wanted)
        wanted = list(dict.fromkeys(settings.clips))
    most = settings.clips if isinstance(settings.clips, int) else len(wanted)
    found: list[Clip] = []
    left_out: list[LeftOutClip] = []
    for name in wanted:
        if len(found) == most:
            break
        clip = _clip(name, timed[name], settings.frames)
        if clip.pairs:
            found.append(clip)
        else:
            count = len(clip.indices)
            reason = "it has one frame" if count == 1 else f"its {count} frames are no neighbours"
            left_out.append(LeftOutClip(name, reason))
    if not found:
        raise ConfigError(
            f"evaluate.video.source: {settings.source!r} has no clip of two frames that follow "
            f"each other; {left_out[0].clip}: {left_out[0].reason}"
        )
    return found, left_out


def _timed_frames(source: Source, name: str) -> dict[str, dict[int, int]]:
    """The index of every frame, by clip and time."""
    timed = times_of_clips(source)
    if not timed:
        raise ConfigError(
            f"evaluate.video.source: {name!r} has no clips: its frames do not say to which clip "
            "they belong and when; name a source of video"
        )
    return timed


def _demand_known(settings: VideoConfig, known: Sequence[str]) -> None:
    for name in settings.clips if isinstance(settings.clips, tuple) else ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            first = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            hint = f"did you mean {near[0]!r}?" if near else f"known: {first}"
            raise ConfigError(
                f"evaluate.video.clips: {settings.source!r} has no clip {name!r}; {hint}"
            )


def _clip(name: str, timed: dict[int, int], most: int | str) -> Clip:
    """The beginning of a clip; its usual difference of time is that of the whole clip."""
    most_apart = sum(usual_step(timed))
    times = list(timed) if isinstance(most, str) else list(timed)[:most]
    steps = [later - now for now, later in pairwise(times)]
    breaks = frozenset(place for place, step in enumerate(steps, 1) if step > most_apart)
    return Clip(name, tuple(timed[time] for time in times), breaks)
