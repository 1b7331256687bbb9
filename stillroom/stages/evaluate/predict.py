"""Students and teachers as one kind of callable, and their predictions on canvas frames."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn.functional import interpolate

from stillroom.stages.models.inference import as_frames
from stillroom.stages.sources.canvas import CanvasFrame, to_canvas
from stillroom.stages.upsample import highest_class, upsample_logits
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ArtifactError, ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from stillroom.stages.models.student import Student
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.sources.source import Source


THREADS = 2  # that decode


class Predictor(Protocol):
    """What can be evaluated: frames in, a grid and its stride out: logits, or of another task."""

    def __call__(self, frames: NDArray[np.uint8] | Tensor) -> tuple[Tensor, int]:
        """Predict a batch.

        Args:
            frames: (B, H, W, 3) uint8, RGB.

        Returns:
            (B, C, ceil(H / stride), ceil(W / stride)), logits or what another task's head gives,
            and the stride in pixels.
        """


@dataclass(frozen=True)
class StudentPredictor:
    """A student in evaluation mode; its modules are back in their own modes after each batch.

    Attributes:
        output: which of its grids; that of its first head if left out.
    """

    student: Student
    output: str | None = None

    def __call__(self, frames: NDArray[np.uint8] | Tensor) -> tuple[Tensor, int]:
        """See `Predictor`."""
        device = next(self.student.parameters()).device
        images = as_frames(frames).to(device)
        with evaluation_mode(self.student), torch.inference_mode():
            # contiguous: a transposed view would send the first convolution down a slow path
            images = images.permute(0, 3, 1, 2).contiguous().float()  # (B, 3, H, W)
            output = self.output or next(iter(self.student.strides))
            return self.student(images).grids[output], self.student.strides[output]


@dataclass(frozen=True)
class TeacherPredictor:
    """A teacher, which takes uint8 frames and looks after its own mode and precision.

    Attributes:
        teacher: the teacher.
        own_upsampling: let its network upsample its logits, instead of doing it as students learn
            from cached logits.
        output: which of its grids.
    """

    teacher: Teacher
    own_upsampling: bool = False
    output: str = LOGITS

    def __call__(self, frames: NDArray[np.uint8] | Tensor) -> tuple[Tensor, int]:
        """See `Predictor`."""
        if self.own_upsampling and self.output == LOGITS:
            return self.teacher.own_logits(frames), 1
        if self.output not in self.teacher.strides:
            given = ", ".join(self.teacher.strides)
            raise ConfigError(
                f"a teacher without {self.output} cannot be scored on it; it gives {given}"
            )
        grid = self.teacher(frames)[self.output]
        stride = self.teacher.strides[self.output]
        return (grid[:, None] if grid.ndim == 3 else grid), stride  # depth has no axis of channels


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each part of it back into its own mode afterwards.

    `module.train()` alone would wake the parts that training keeps frozen.
    """
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that could not be used, and why."""

    frame_id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model predicts for one frame.

    Attributes:
        frame: the frame.
        classes: uint8, the class of the highest logit at every pixel: of the canvas, padding
            included; or of the label's own size, where the frame has its `own_label`.
        channels: how many classes the model told apart.
    """

    frame: CanvasFrame
    classes: NDArray[np.uint8]
    channels: int


def read_frames(
    source: Source,
    canvas: tuple[int, int] | None,
    indices: Iterable[int],
    *,
    own_labels: bool = False,
) -> Iterator[CanvasFrame | SkippedFrame]:
    """Read frames of a source, some ahead of their use; unusable ones come as skipped.

    Args:
        source: where frames come from.
        canvas: (height, width) that they are brought to; None leaves each at its own size.
        indices: of the frames.
        own_labels: give each frame its label and other targets at their own size as well.
    """

    def load(index: int) -> CanvasFrame | SkippedFrame:
        try:
            frame = source.load(index)
            fitted = to_canvas(frame, frame.image.shape[:2] if canvas is None else canvas)
            if not own_labels:
                return fitted
            return replace(fitted, own_label=frame.label, own_targets=frame.targets)
        except FrameError as error:
            return SkippedFrame(source.frame_ids[index], str(error))

    remaining = iter(indices)
    with ThreadPoolExecutor(THREADS, "decode") as pool:
        ahead = deque(pool.submit(load, index) for index in islice(remaining, 4 * THREADS))
        while ahead:
            loaded = ahead.popleft().result()
            ahead.extend(pool.submit(load, index) for index in islice(remaining, 1))
            yield loaded


def predictions(
    predictor: Predictor, frames: Iterable[CanvasFrame | SkippedFrame], batch: int = 4
) -> Iterator[Prediction | SkippedFrame]:
    """Predict the classes of frames in order; skipped ones pass through in their place.

    Raises: as `full_outputs`.
    """
    for found in full_outputs(predictor, frames, batch):
        if isinstance(found, SkippedFrame):
            yield found
            continue
        frame, full = found
        height, width = size = frame.image.shape[:2]
        if frame.own_label is not None:
            (height, width), size = frame.valid, frame.own_label.shape
        classes = highest_class(full[:, :height, :width], (size[0], size[1])).cpu().numpy()
        yield Prediction(frame, classes, len(full))


def full_outputs(
    predictor: Predictor, frames: Iterable[CanvasFrame | SkippedFrame], batch: int = 4
) -> Iterator[tuple[CanvasFrame, Tensor] | SkippedFrame]:
    """Predict frames in order: each with its grid at its pixels, (C, H, W); padding included.

    A batch holds up to `batch` consecutive frames of one size. Skipped ones pass through in their
    place.

    Raises:
        ArtifactError: the grid has another shape than its stride says, or is not finite. That is no
            fault of the frame: leaving it out would flatter the model.
        ConfigError: the batch is below 1.
    """
    if batch < 1:
        raise ConfigError(f"batch: expected 1 or more frames, got {batch}")
    for shape, group in groupby(frames, _shape):
        if shape is None:
            yield from (frame for frame in group if isinstance(frame, SkippedFrame))
            continue
        alike = (frame for frame in group if isinstance(frame, CanvasFrame))
        while together := list(islice(alike, batch)):
            yield from _predict_batch(predictor, together)


def at_size(output: Tensor, valid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Cut the padding off what was predicted, and bring it to a size: bilinear, from centres.

    Args:
        output: (C, H, W), at the pixels of a canvas
        valid: (height, width) of the part that is no padding
        size: (height, width)

    Returns:
        (C, *size)
    """
    seen = output[:, : valid[0], : valid[1]]
    if valid == size:
        return seen
    return interpolate(seen[None], size, mode="bilinear", align_corners=False)[0]


def _shape(frame: CanvasFrame | SkippedFrame) -> tuple[int, ...] | None:
    return None if isinstance(frame, SkippedFrame) else frame.image.shape


def _predict_batch(
    predictor: Predictor, frames: list[CanvasFrame]
) -> Iterator[tuple[CanvasFrame, Tensor]]:
    logits, stride = predictor(np.stack([frame.image for frame in frames]))
    names = ", ".join(frame.frame_id for frame in frames)
    if logits.ndim != 4 or len(logits) != len(frames) or not 1 <= logits.shape[1] <= 255:
        raise ArtifactError(
            f"output of {names}: expected ({len(frames)}, 1..255 channels, h, w), "
            f"got {tuple(logits.shape)}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ArtifactError(
            f"output of {names} is not finite: the model has diverged, or its precision is too low"
        )
    for frame, one in zip(frames, logits, strict=True):
        # One frame at a time: at C = 150, upsampled logits of a batch would fill the memory.
        height, width = frame.image.shape[:2]
        yield frame, upsample_logits(one[None], stride, (height, width))[0]  # (C, H, W)
