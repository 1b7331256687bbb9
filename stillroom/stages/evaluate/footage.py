"""Models along the clips of a source: how steady each is, clip by clip and over all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from stillroom.stages.evaluate.clip import ClipMeter
from stillroom.stages.evaluate.clip_flow import ClipFrame
from stillroom.stages.evaluate.clips import LeftOutClip
from stillroom.stages.evaluate.predict import SkippedFrame, chosen_frames
from stillroom.stages.evaluate.temporal_consistency import TemporalConsistency
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stillroom.stages.evaluate.clip import Step
    from stillroom.stages.evaluate.clip_flow import ClipFlow
    from stillroom.stages.evaluate.clips import Clip
    from stillroom.stages.evaluate.predict import Predictor
    from stillroom.stages.evaluate.temporal_consistency import Consistency
    from stillroom.stages.sources.source import Source


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame of a clip, and the motion that leads to it from the frame before.

    step: None at the beginning, and where the frame before is missing or of another size
    """

    here: ClipFrame
    step: Step | None


@dataclass(frozen=True, eq=False)
class Footage:
    """Clips of a source, with the motion in them.

    Attributes:
        source, canvas: the frames, and the (height, width) that they are brought to.
        clips: of the source, in the order in which they are measured.
        flow: what knows the motion.
        left_out: clips that were asked for and are of no use.
    """

    source: Source
    canvas: tuple[int, int]
    clips: tuple[Clip, ...]
    flow: ClipFlow
    left_out: tuple[LeftOutClip, ...] = ()

    @property
    def frames(self) -> int:
        """Of all clips together."""
        return sum(len(clip.indices) for clip in self.clips)

    def moments(self, clip: Clip) -> Iterator[Moment | SkippedFrame]:
        """The frames of a clip in the order of time; those that cannot be read as skipped."""
        before: ClipFrame | None = None
        loaded = chosen_frames(self.source, self.canvas, clip.indices)
        for place, (index, frame) in enumerate(zip(clip.indices, loaded, strict=True)):
            if isinstance(frame, SkippedFrame):
                before = None
                yield frame
                continue
            here, step = ClipFrame(index, frame), None
            follows = before is not None and place not in clip.breaks
            if before is not None and follows and before.frame.valid == frame.valid:
                step = self.flow.step(before, here)
            yield Moment(here, step)
            before = here

    def follow(self, on_frames: Callable[[int], None] = lambda _: None) -> None:
        """Have the motion of all clips computed, where it is not kept yet.

        on_frames: told how many frames are done
        """
        done = 0
        for clip in self.clips:
            for _ in self.moments(clip):
                done += 1
                on_frames(done)


@dataclass(frozen=True)
class ClipScores:
    """A model on one clip.

    Attributes:
        name: of the clip.
        frames: that were predicted.
        pairs: of frames that were compared.
        missing_pairs: that were not, since a frame is missing, unusable or of another size.
        consistency, stability, frame_error: see `ClipResult`.
    """

    name: str
    frames: int
    pairs: int
    missing_pairs: int
    consistency: Consistency
    stability: float
    frame_error: float


@dataclass(frozen=True)
class FootageScores:
    """A model on all clips of a footage.

    Attributes:
        clips: clip by clip.
        consistency: over all pairs of all clips, counted together before IoU is taken.
        stability, frame_error: means over the clips.
        skipped: frames that could not be used.
        left_out: clips in which nothing could be measured.
        predictions: of the first of the clips, where they were to be kept: (h, w) uint8 of every
            frame that could be used.
    """

    clips: tuple[ClipScores, ...]
    consistency: Consistency
    stability: float
    frame_error: float
    skipped: tuple[SkippedFrame, ...]
    left_out: tuple[LeftOutClip, ...]
    predictions: tuple[NDArray[np.uint8], ...] = field(default=(), repr=False)

    @property
    def pairs(self) -> int:
        """Of all clips."""
        return sum(clip.pairs for clip in self.clips)

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON values; curves stand with their clips."""
        consistency = self.consistency.to_dict()
        del consistency["curve"]
        return {
            "pairs": self.pairs,
            "consistency": consistency,
            "stability": self.stability,
            "frame_error": self.frame_error,
            "clips": [asdict(clip) for clip in self.clips],
            "skipped": [asdict(frame) for frame in self.skipped],
            "left_out": [asdict(clip) for clip in self.left_out],
        }


def measure_footage(
    predictor: Predictor,
    footage: Footage,
    *,
    keep: bool = False,
    on_frames: Callable[[int], None] = lambda _: None,
) -> FootageScores:
    """Measure how steady a model is, one frame at a time.

    Args:
        predictor: the model.
        footage: the clips and their motion.
        keep: the predictions of the first clip that can be measured.
        on_frames: told how many frames are done.

    Raises:
        ConfigError: no pair of any clip could be measured.
        ArtifactError: logits are not finite.
    """
    tally = _Tally(left_out=list(footage.left_out))
    done = 0
    for clip in footage.clips:
        meter, seen = ClipMeter(predictor), []
        for moment in footage.moments(clip):
            if isinstance(moment, SkippedFrame):
                tally.skipped.append(moment)
            else:
                frame = moment.here.frame
                classes = meter.add(frame.image, moment.step, frame.valid)
                if keep and not tally.clips:
                    seen.append(classes[0].numpy())
            done += 1
            on_frames(done)
        tally.add(clip, meter, seen)
    return tally.scores()


@dataclass
class _Tally:
    """What was found so far."""

    left_out: list[LeftOutClip]
    clips: list[ClipScores] = field(default_factory=list)
    together: TemporalConsistency | None = None
    skipped: list[SkippedFrame] = field(default_factory=list)
    predictions: tuple[NDArray[np.uint8], ...] = ()

    def add(self, clip: Clip, meter: ClipMeter, seen: list[NDArray[np.uint8]]) -> None:
        """Add a clip; one without a pixel that counts is left out."""
        try:
            found = meter.result()
        except ArtifactError as error:
            self.left_out.append(LeftOutClip(clip.name, str(error)))
            return
        self.predictions = self.predictions or tuple(seen)
        missing = len(clip.indices) - 1 - meter.pairs
        self.clips.append(ClipScores(clip.name, meter.frames, meter.pairs, missing, *found))
        if meter.consistency is not None:
            size = meter.consistency.num_classes
            self.together = self.together or TemporalConsistency(size)
            self.together.join(meter.consistency)

    def scores(self) -> FootageScores:
        """Of all clips."""
        if self.together is None:
            raise ConfigError(_nothing_measured(self.left_out, self.skipped))
        return FootageScores(
            clips=tuple(self.clips),
            consistency=self.together.scores(),
            stability=fmean(clip.stability for clip in self.clips),
            frame_error=fmean(clip.frame_error for clip in self.clips),
            skipped=tuple(self.skipped),
            left_out=tuple(self.left_out),
            predictions=self.predictions,
        )


def _nothing_measured(left_out: Sequence[LeftOutClip], skipped: Sequence[SkippedFrame]) -> str:
    lines = [f"clip {each.clip}: {each.reason}" for each in left_out[:10]]
    lines += [f"frame {each.frame_id}: {each.reason}" for each in skipped[:10]]
    return "\n  ".join(["evaluate.video: no two frames of any clip could be compared", *lines])
