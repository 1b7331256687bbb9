"""How each artifact of a teacher is made from its output, a small function an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import (
    ARTIFACTS,
    CONFIDENCE,
    DEPTH,
    FEATURES,
    IGNORE,
    LOGITS,
    PIXEL_CONFIDENCE,
    PSEUDO_LABEL,
    artifact_of,
)
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.teacher import Teacher

MOST_CLASSES = IGNORE  # of a pseudo label, a byte: 0 to 254


@dataclass(frozen=True)
class Output:
    """What a teacher gives for one frame, in the grid that an artifact is made from.

    Attributes:
        grid: (C, h, w) or (h, w) float32, on the teacher's device
        stride: pixels of the frame to one position of it
        shown: (H, W) bool, there too: which pixels are the photo's, and not padding
        threshold: pixels whose highest class probability is below it get no pseudo label (Xie et
            al., "Improving Fast Segmentation With Teacher-student Learning", 2018, sec. 4.1: 0.7)
    """

    grid: Tensor
    stride: int
    shown: Tensor
    threshold: float

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """Highest class probability of each pixel, and its class: (H, W), (H, W)."""
        height, width = self.shown.shape
        full = upsample_logits(self.grid[None], self.stride, (height, width))[0]
        probability, label = full.softmax(0).max(0)
        return probability, label


def unchanged(output: Output) -> Tensor:
    """Return the grid itself: (C, h, w)."""
    return output.grid


def confidence(output: Output) -> Tensor:
    """Return the highest class probability: (h, w)."""
    return output.grid.softmax(0).amax(0)


def pseudo_label(output: Output) -> Tensor:
    """Return the class of each pixel, 255 where unsure or outside the photo: (H, W)."""
    probability, label = output.best
    sure = (probability >= output.threshold) & output.shown
    return label.masked_fill(~sure, IGNORE).to(torch.uint8)


def pixel_confidence(output: Output) -> Tensor:
    """Return what `pseudo_label` compares with its threshold, 0 outside the photo: (H, W)."""
    return output.best[0].masked_fill(~output.shown, 0)


def depth(output: Output) -> Tensor:
    """Return the grid with 0, no value, where a centre lies outside the photo: (h, w)."""
    middles, stride = output.shown.new_zeros(output.grid.shape), output.stride
    under = output.shown[stride // 2 :: stride, stride // 2 :: stride]
    middles[: under.shape[0], : under.shape[1]] = under
    return output.grid.masked_fill(~middles, 0)


MAKERS: dict[str, Callable[[Output], Tensor]] = {
    LOGITS: unchanged,
    FEATURES: unchanged,
    PSEUDO_LABEL: pseudo_label,
    CONFIDENCE: confidence,
    PIXEL_CONFIDENCE: pixel_confidence,
    DEPTH: depth,
}


def make_artifacts(
    teacher: Teacher,
    output: ModelOutput,
    place: int,
    names: Iterable[str],
    shown: Tensor,
    threshold: float,
) -> dict[str, Tensor]:
    """Make artifacts of one frame from what a teacher gives for a batch.

    Args:
        names: as in the run file: "logits", "features/<layer>", "pseudo_label", ...
        shown, threshold: of an `Output`

    Raises:
        ConfigError: the teacher has no such output, or more classes than a byte can tell apart.
    """
    grids = {artifact: output_of(artifact, output) for artifact in names}
    if LOGITS in output:
        demand_labels_fit(grids, output[LOGITS].shape[1])
    of_frame = {  # one for all artifacts of a grid: what two of them need is computed once
        name: Output(output[name][place], teacher.strides[name], shown, threshold)
        for name in set(grids.values())
    }
    return {
        artifact: MAKERS[artifact_of(artifact).name](of_frame[name])
        for artifact, name in grids.items()
    }


def artifact_shapes(
    teacher: Teacher, names: Iterable[str], size: tuple[int, int], threshold: float
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Find shape and stride of a frame's artifacts, by one forward pass on a black frame.

    Args:
        size: (height, width) of the frame
    """
    frames = torch.zeros((1, *size, 3), dtype=torch.uint8)
    output, strides = teacher(frames), teacher.strides
    shown = torch.ones(size, dtype=torch.bool, device=teacher.device)
    return {
        name: (
            tuple(made.shape),
            strides[output_of(name, strides)] if artifact_of(name).has_stride else 1,
        )
        for name, made in make_artifacts(teacher, output, 0, names, shown, threshold).items()
    }


def output_of(artifact: str, outputs: Collection[str]) -> str:
    """Find the teacher's output that an artifact is made from, among those that it gives.

    Raises:
        ConfigError: it gives no such output; the message lists what can be made of those it gives.
    """
    row = artifact_of(artifact)
    name = artifact if row.layered else row.output
    if name is None or name not in outputs:
        known = [each for each in MAKERS if ARTIFACTS[each].output in outputs]
        known += [each for each in outputs if artifact_of(each).layered]
        raise ConfigError(
            f"artifact {artifact!r}: this teacher has no such output; known: {', '.join(known)}"
        )
    return name


def demand_labels_fit(artifacts: Collection[str], classes: int, name: str = "teacher") -> None:
    """Refuse pseudo labels of more classes than a byte can tell apart.

    Raises:
        ConfigError: they are wanted, and some class would be stored as another, or as "ignore".
    """
    if PSEUDO_LABEL in artifacts and classes > MOST_CLASSES:
        raise ConfigError(
            f"{name}: {classes} classes, but a pseudo_label is a byte: at most {MOST_CLASSES} "
            f"classes, for {IGNORE} says 'ignore'; take pseudo_label out of cache.artifacts, and "
            "learn from logits"
        )
