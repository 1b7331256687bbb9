"""How steady a model is along the clips of a source, clip by clip and over all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from stillroom.stages.evaluate.clip_dataset import LeftOutClip
from stillroom.stages.evaluate.clip_meter import ClipMeter
from stillroom.stages.evaluate.predict import SkippedFrame
from stillroom.stages.evaluate.temporal_consistency import TemporalConsistency
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from stillroom.stages.evaluate.clip_dataset import Clip, ClipDataset
    from stillroom.stages.evaluate.predict import Predictor
    from stillroom.stages.evaluate.temporal_consistency import Consistency


@dataclass(frozen=True)
class ClipScores:
    """A model on one clip.

    Attributes:
        name: of the clip.
        frames: that were predicted.
        pairs: of frames that were compared.
        missing_pairs: that were not, since a frame is missing, unusable or of another size.
        consistency, stability, frame_error: see `ClipMeter`.
    """

    name: str
    frames: int
    pairs: int
    missing_pairs: int
    consistency: Consistency
    stability: float
    frame_error: float


@dataclass(frozen=True)
class VideoScores:
    """A model on all clips.

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
        """Return those of all clips."""
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


def measure_clips(
    predictor: Predictor,
    dataset: ClipDataset,
    *,
    keep: bool = False,
    on_frames: Callable[[int], None] = lambda _: None,
) -> VideoScores:
    """Measure how steady a model is, one frame at a time.

    Args:
        predictor: the model.
        dataset: the clips and their flow.
        keep: the predictions of the first clip that can be measured.
        on_frames: called with the number of frames that are done.

    Raises:
        ConfigError: no pair of any clip could be measured.
        ArtifactError: logits are not finite.
    """
    tally = _Tally(left_out=list(dataset.left_out))
    done = 0
    for clip in dataset.clips:
        meter, predictions = ClipMeter(predictor), []
        for each in dataset.frames(clip):
            if isinstance(each, SkippedFrame):
                tally.skipped.append(each)
            else:
                classes = meter.add(each.frame.image, each.flow, each.frame.valid)
                if keep and not tally.clips:
                    predictions.append(classes[0].numpy())
            done += 1
            on_frames(done)
        tally.add(clip, meter, predictions)
    return tally.scores()


@dataclass
class _Tally:
    """What was found so far."""

    left_out: list[LeftOutClip]
    clips: list[ClipScores] = field(default_factory=list)
    together: TemporalConsistency | None = None
    skipped: list[SkippedFrame] = field(default_factory=list)
    predictions: tuple[NDArray[np.uint8], ...] = ()

    def add(self, clip: Clip, meter: ClipMeter, predictions: list[NDArray[np.uint8]]) -> None:
        """Add a clip; one without a pixel that counts is left out."""
        try:
            found = meter.result()
        except ArtifactError as error:
            self.left_out.append(LeftOutClip(clip.name, str(error)))
            return
        self.predictions = self.predictions or tuple(predictions)
        missing = len(clip.indices) - 1 - meter.pairs
        self.clips.append(ClipScores(clip.name, meter.frames, meter.pairs, missing, *found))
        if meter.consistency is not None:
            size = meter.consistency.num_classes
            self.together = self.together or TemporalConsistency(size)
            self.together.join(meter.consistency)

    def scores(self) -> VideoScores:
        """Return those of all clips."""
        if self.together is None:
            raise ConfigError(_nothing_measured(self.left_out, self.skipped))
        return VideoScores(
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
