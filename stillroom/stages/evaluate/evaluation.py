"""Score a model on labelled frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.across_ranks import everything, rank, said_once, share, world_size
from stillroom.stages.evaluate.boundary import BoundaryCounts, BoundaryScores
from stillroom.stages.evaluate.confusion import ConfusionMatrix, Scores
from stillroom.stages.evaluate.predict import Prediction, SkippedFrame, predictions, read_frames
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.predict import Predictor
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.stages.sources.source import Source


@dataclass(frozen=True)
class EvaluationResult:
    """What a model is worth on a set of frames.

    Attributes:
        scores: mIoU, accuracies, and IoU by class.
        boundary: the same along the outlines.
        size: at which they were scored: "canvas 360x480", "own 720x960", or "own, 3 sizes".
        frames: how many were scored.
        skipped: those that could not be used, with reasons.
        unlabelled: how many were passed over, because none of their pixels has a label.
        bad_labels: those that were passed over, because their label cannot be used, with reasons.
    """

    scores: Scores
    boundary: BoundaryScores
    size: str
    frames: int
    skipped: tuple[SkippedFrame, ...]
    unlabelled: int = 0
    bad_labels: tuple[SkippedFrame, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        scores = self.scores.to_dict()
        for row, boundary in zip(scores["classes"], self.boundary.iou, strict=True):
            row["boundary_iou"] = boundary
        return {
            "size": self.size,
            "frames": self.frames,
            "skipped": [asdict(frame) for frame in self.skipped],
            "unlabelled": self.unlabelled,
            "bad_labels": [asdict(frame) for frame in self.bad_labels],
            "boundary_miou": self.boundary.miou,
            **scores,
        }


def evaluate(
    predictor: Predictor,
    frames: Iterable[CanvasFrame | SkippedFrame],
    classes: Sequence[str],
    *,
    ignored: Sequence[str] = (),
    batch: int = 4,
    on_frames: Callable[[int], None] = lambda _: None,
) -> EvaluationResult:
    """Score a model on canvas frames, at the canvas's resolution or at that of their `own_label`.

    Logits are upsampled bilinearly by their stride before the argmax. Padding does not count: the
    pixels outside a frame's valid area are scored as ignored whatever their label says. Frames
    with no labelled pixel are not predicted: of a sparsely labelled clip they are most. Nor are
    those whose label cannot be used, which are told apart.

    Args:
        predictor: the model; see `StudentPredictor` and `TeacherPredictor`.
        frames: labelled frames, see `read_frames`; of processes that train together, this one's.
        classes: names of the label values 0..C-1.
        ignored: names among them that no mean includes.
        batch: frames predicted at once; the scores do not depend on it.
        on_frames: called with the number of frames done, with those skipped or passed over.

    Raises:
        ConfigError: a frame comes without a label map, the model tells another number of classes
            apart, there is no class of an ignored name, or no frame could be scored.
        ArtifactError: a label is out of range, or logits are not finite.
    """
    _check_ignored(ignored, classes)
    tally = _Tally(ConfusionMatrix(len(classes)), BoundaryCounts(len(classes)))

    def labelled() -> Iterator[CanvasFrame | SkippedFrame]:
        for frame in frames:
            if isinstance(frame, SkippedFrame) or (scored_label(frame) != IGNORE).any():
                yield frame
                continue
            if frame.label_fault:
                tally.bad_labels.append(SkippedFrame(frame.frame_id, frame.label_fault))
            else:
                tally.unlabelled += 1
            on_frames(tally.done())

    for found in predictions(predictor, labelled(), batch):
        if isinstance(found, SkippedFrame):
            tally.skipped.append(found)
        else:
            _check_channels(found, classes)
            tally.add(found)
        on_frames(tally.done())
    return tally.of_all().result(classes, ignored)


@dataclass
class _Tally:
    """What was counted so far, and at which sizes, and what was not."""

    matrix: ConfusionMatrix
    boundary: BoundaryCounts
    frames: int = 0
    sizes: set[str] = field(default_factory=set)
    kind: str = ""
    skipped: list[SkippedFrame] = field(default_factory=list)
    bad_labels: list[SkippedFrame] = field(default_factory=list)
    unlabelled: int = 0

    def done(self) -> int:
        """Count the frames that were seen."""
        return self.frames + len(self.skipped) + len(self.bad_labels) + self.unlabelled

    def of_all(self) -> _Tally:
        """Return what the processes that train together have counted of their frames."""
        first, *others = everything(self)
        for other in others:
            first.matrix.counts += other.matrix.counts
            first.boundary.both += other.boundary.both
            first.boundary.either += other.boundary.either
            first.frames += other.frames
            first.sizes |= other.sizes
            first.kind = first.kind or other.kind
            first.skipped += other.skipped
            first.bad_labels += other.bad_labels
            first.unlabelled += other.unlabelled
        found: _Tally = first
        return found

    def add(self, found: Prediction) -> None:
        """Count a frame, its outlines without the padding."""
        frame, label = found.frame, scored_label(found.frame)
        self.matrix.update(found.classes, label)
        height, width = frame.valid if frame.own_label is None else label.shape
        self.boundary.update(found.classes[:height, :width], label[:height, :width])
        self.kind = "canvas" if frame.own_label is None else "own"
        self.sizes.add("x".join(map(str, label.shape)))
        self.frames += 1

    def size(self) -> str:
        """Say at which size they were counted."""
        if len(self.sizes) > 1:
            return f"{self.kind}, {len(self.sizes)} sizes"
        return f"{self.kind} {min(self.sizes)}"

    def result(self, classes: Sequence[str], ignored: Sequence[str]) -> EvaluationResult:
        """Return the scores of what was counted."""
        if not self.frames:
            unused = [*self.skipped, *self.bad_labels]
            raise said_once(ConfigError(_nothing_scored(unused, self.unlabelled)))
        scores = self.matrix.scores(classes, ignored)
        return EvaluationResult(
            scores=scores,
            boundary=self.boundary.scores(scores),
            size=self.size(),
            frames=self.frames,
            skipped=tuple(self.skipped),
            unlabelled=self.unlabelled,
            bad_labels=tuple(self.bad_labels),
        )


def evaluate_source(
    predictor: Predictor,
    source: Source,
    canvas: tuple[int, int] | None,
    *,
    own_size: bool = False,
    ignored: Sequence[str] = (),
    batch: int = 4,
    limit: int | None = None,
    on_frames: Callable[[int], None] = lambda _: None,
) -> EvaluationResult:
    """Score a model on a labelled source; see `evaluate`. Processes that train together share it.

    Args:
        predictor: the model.
        source: the frames, their labels and class names.
        canvas: (height, width) that frames and labels are brought to; None: each at its own size.
        own_size: score at the labels' own size instead: the model sees the canvas, the padding is
            cut off its logits, and what is left is resized to the label, bilinear.
        ignored: names of classes that no mean includes.
        batch: frames predicted at once.
        limit: only the first frames.
        on_frames: called with the number of frames done.

    Raises:
        ConfigError: the source is not labelled, or as `evaluate`.
        ArtifactError: as `evaluate`.
    """
    if source.classes is None:
        raise ConfigError("evaluate.source: this source has no labels; name a labelled one")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected 1 or more frames, got {limit}")
    own = share(min(len(source), limit or len(source)), rank(), world_size())
    frames = read_frames(source, canvas, own, own_labels=own_size)
    return evaluate(
        predictor, frames, source.classes, ignored=ignored, batch=batch, on_frames=on_frames
    )


def _check_ignored(ignored: Sequence[str], classes: Sequence[str]) -> None:
    for name in ignored:
        if name not in classes:
            raise ConfigError(
                f"evaluate.ignore: no class {name!r}; the labels have {', '.join(classes[:20])}"
                f"{', ...' if len(classes) > 20 else ''}"
            )


def _check_channels(found: Prediction, classes: Sequence[str]) -> None:
    if found.channels != len(classes):
        raise ConfigError(
            f"the model tells {found.channels} classes apart, the labels have {len(classes)}: "
            f"{', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}; "
            "evaluate it on the classes it was trained for"
        )


def scored_label(frame: CanvasFrame) -> NDArray[np.uint8]:
    """Return what counts of a frame's label: its own, or that of the valid area, 255 elsewhere.

    Raises:
        ConfigError: it has none.
    """
    if frame.own_label is not None:
        return frame.own_label
    if frame.label is None:
        raise ConfigError(f"{frame.frame_id} has no label; evaluation needs a labelled source")
    height, width = frame.valid
    label = np.full_like(frame.label, IGNORE)
    label[:height, :width] = frame.label[:height, :width]
    return label


def _nothing_scored(skipped: Sequence[SkippedFrame], unlabelled: int) -> str:
    if unlabelled and not skipped:
        return (
            f"nothing to evaluate: no pixel of {unlabelled} frames has a label; name a source, "
            "or as many frames of it, that has some"
        )
    if not skipped:
        return "nothing to evaluate: the source has no frames"
    without = f", and {unlabelled} have no label" if unlabelled else ""
    return (
        f"nothing to evaluate: none of {len(skipped)} frames could be used{without}; "
        f"the first, {skipped[0].frame_id}: {skipped[0].reason}"
    )
