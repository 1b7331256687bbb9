"""Score a model on frames with targets other than labels: a task of `TASKS` at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.across_ranks import everything, rank, said_once, share, world_size
from stillroom.stages.evaluate.predict import SkippedFrame, at_size, full_outputs, read_frames
from stillroom.stages.evaluate.tasks import TASKS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.evaluate.predict import Predictor
    from stillroom.stages.evaluate.tasks import Tally
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.stages.sources.source import Source


@dataclass(frozen=True)
class TaskResult:
    """What a model is worth at a task on a set of frames.

    Attributes:
        task: its name
        scores: by name
        size: at which they were scored: "canvas 240x320", "own 480x640", or "own, 3 sizes"
        frames, pixels: how many were scored
        skipped: frames that could not be used, with reasons
        without: how many were passed over, because they have no target
        bad_targets: those that were, because theirs cannot be used, with reasons
    """

    task: str
    scores: dict[str, float]
    size: str
    frames: int
    pixels: int
    skipped: tuple[SkippedFrame, ...]
    without: int = 0
    bad_targets: tuple[SkippedFrame, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "size": self.size,
            "frames": self.frames,
            "pixels": self.pixels,
            "skipped": [asdict(frame) for frame in self.skipped],
            "without": self.without,
            "bad_targets": [asdict(frame) for frame in self.bad_targets],
            **self.scores,
        }


def evaluate_task(
    predictor: Predictor,
    source: Source,
    task: str,
    canvas: tuple[int, int] | None,
    *,
    own_size: bool = False,
    batch: int = 4,
    limit: int | None = None,
    on_frames: Callable[[int], None] = lambda _: None,
) -> TaskResult:
    """Score a model's head on a source with its target. Processes that train together share it.

    Args:
        predictor: gives the task's output
        task: a row of `TASKS`, other than segmentation
        canvas: (height, width) that frames and targets are brought to; None: each at its own size
        own_size: score at the targets' own size instead: the model sees the canvas, the padding is
            cut off what it gives, and what is left is resized to the target, bilinear
        batch: frames predicted at once
        limit: only the first frames
        on_frames: called with the number of frames done

    Raises:
        ConfigError: the source has no such target, or no pixel of the frames has one.
        ArtifactError: the model gives what is not finite.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected 1 or more frames, got {limit}")
    own = share(min(len(source), limit or len(source)), rank(), world_size())
    frames = read_frames(source, canvas, own, own_labels=own_size)
    return _Count(task).over(predictor, frames, batch, on_frames)


@dataclass
class _Count:
    """What was counted so far, and at which sizes, and what was not."""

    task: str
    tally: Tally = field(init=False)
    sizes: set[str] = field(default_factory=set)
    kind: str = ""
    skipped: list[SkippedFrame] = field(default_factory=list)
    bad_targets: list[SkippedFrame] = field(default_factory=list)
    without: int = 0
    done: int = 0

    def __post_init__(self) -> None:
        made = TASKS[self.task].tally
        if made is None:
            raise ConfigError(f"{self.task} is scored by evaluate_source")
        self.tally = made()

    def over(
        self,
        predictor: Predictor,
        frames: Iterable[CanvasFrame | SkippedFrame],
        batch: int,
        on_frames: Callable[[int], None],
    ) -> TaskResult:
        """Count frames; those without a target are not predicted."""
        for found in full_outputs(predictor, self._with_target(frames, on_frames), batch):
            if isinstance(found, SkippedFrame):
                self.skipped.append(found)
            else:
                self._add(*found)
            self.done += 1
            on_frames(self.done)
        whole: _Count
        whole, *others = everything(self)
        for other in others:
            whole._merge(other)
        return whole._result()

    def _with_target(
        self, frames: Iterable[CanvasFrame | SkippedFrame], on_frames: Callable[[int], None]
    ) -> Iterator[CanvasFrame | SkippedFrame]:
        target = TASKS[self.task].target
        for frame in frames:
            if isinstance(frame, SkippedFrame) or _truth(frame, target).any():
                yield frame
                continue
            if target in frame.faults:
                self.bad_targets.append(SkippedFrame(frame.frame_id, frame.faults[target]))
            else:
                self.without += 1
            self.done += 1
            on_frames(self.done)

    def _add(self, frame: CanvasFrame, output: Tensor) -> None:
        truth = _truth(frame, TASKS[self.task].target)
        size = (truth.shape[-2], truth.shape[-1])
        seen = at_size(output, frame.valid, size)
        self.tally.add(seen.float().cpu().numpy(), truth)
        self.kind = "own" if frame.own_targets else "canvas"
        self.sizes.add("x".join(map(str, size if frame.own_targets else frame.image.shape[:2])))

    def _merge(self, other: _Count) -> None:
        self.tally.merge(other.tally)
        self.sizes |= other.sizes
        self.kind = self.kind or other.kind
        self.skipped += other.skipped
        self.bad_targets += other.bad_targets
        self.without += other.without

    def _result(self) -> TaskResult:
        if not self.tally.pixels:
            raise said_once(ConfigError(self._nothing()))
        sizes = f", {len(self.sizes)} sizes" if len(self.sizes) > 1 else f" {min(self.sizes)}"
        return TaskResult(
            task=self.task,
            scores=self.tally.scores(),
            size=self.kind + sizes,
            frames=self.tally.frames,
            pixels=self.tally.pixels,
            skipped=tuple(self.skipped),
            without=self.without,
            bad_targets=tuple(self.bad_targets),
        )

    def _nothing(self) -> str:
        unused = [*self.skipped, *self.bad_targets]
        first = f"; the first, {unused[0].frame_id}: {unused[0].reason}" if unused else ""
        return (
            f"nothing to evaluate: {self.without} frames have no {TASKS[self.task].target}, and "
            f"{len(unused)} could not be used{first}"
        )


def _truth(frame: CanvasFrame, target: str) -> NDArray[np.float32]:
    """Return what counts of a frame's target: its own, or that of the valid area.

    Raises:
        ConfigError: it has none, as no frame of its source.
    """
    if target not in frame.targets:
        raise ConfigError(
            f"{frame.frame_id} has no {target}; evaluation needs a source that labels its frames "
            "with it"
        )
    if frame.own_targets:
        return np.asarray(frame.own_targets[target])
    height, width = frame.valid
    return np.asarray(frame.targets[target][..., :height, :width])
