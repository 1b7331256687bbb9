"""Where a batch's tensors lie: allocated whole before its frames are read straight into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stillroom.stages.train.batch import Batch, Triplets
from stillroom.storage_specs.artifacts import LABELS
from stillroom.storage_specs.buffers import lend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from stillroom.stages.train.reads import Read
    from stillroom.storage_specs.layout import ArraySpec

Shape = tuple[tuple[int, ...], torch.dtype]
"""Of an array of one frame, with its type."""
Allocate = Callable[[tuple[int, ...], torch.dtype], "Tensor"]
"""Makes a tensor of a shape and a type, of undefined content."""


@dataclass(frozen=True)
class FrameShapes:
    """What one frame of a stream has in a batch, without the first axis.

    Attributes:
        size: (H, W) of the images, and of the targets
        mask: (h, w)
        targets, artifacts: shape and type, by name
        masks: (h, w) of the masks of other grids, by stride
        unlit: whether there are images without jitter beside those with it
    """

    size: tuple[int, int]
    mask: tuple[int, int]
    targets: dict[str, Shape]
    artifacts: dict[str, Shape]
    masks: dict[int, tuple[int, int]]
    unlit: bool = False

    @property
    def labelled(self) -> bool:
        """Whether it has any target."""
        return bool(self.targets)


def frame_shapes(
    size: tuple[int, int],
    out_stride: int,
    artifacts: Mapping[str, Read],
    targets: Mapping[str, Read],
    *,
    strides: Iterable[int],
    unlit: bool,
) -> FrameShapes:
    """Return the shapes of frames of `size`.

    Args:
        out_stride: of the grid of the usual mask
        artifacts, targets: by their names in a batch
        strides: of the other grids that there are masks of
    """

    def cells(stride: int) -> tuple[int, int]:
        return -(-size[0] // stride), -(-size[1] // stride)

    def shape(spec: ArraySpec, stride: int) -> Shape:
        if spec.kind.geometry == "label":
            return size, torch.int64
        if not spec.kind.has_map:
            return spec.shape, torch.float32
        channels = spec.shape[0] if len(spec.shape) == 3 else 1
        return (channels, *(cells(stride) if spec.kind.has_stride else size)), torch.float32

    return FrameShapes(
        size=size,
        mask=cells(out_stride),
        targets={name: shape(read.spec, 1) for name, read in targets.items()},
        artifacts={name: shape(read.spec, read.out_stride) for name, read in artifacts.items()},
        masks={stride: cells(stride) for stride in sorted({*strides} - {out_stride})},
        unlit=unlit,
    )


def empty_batch(stream: str, shapes: FrameShapes, count: int, allocate: Allocate) -> Batch:
    """Return a batch of `count` frames to be filled in."""
    size, masked = shapes.size, torch.bool
    targets, artifacts = (
        {name: allocate((count, *shape), dtype) for name, (shape, dtype) in of.items()}
        for of in (shapes.targets, shapes.artifacts)
    )
    return Batch(
        stream=stream,
        labelled=shapes.labelled,
        images=allocate((count, 3, *size), torch.float32),
        labels=targets.pop(LABELS, None),
        mask=allocate((count, 1, *shapes.mask), masked),
        targets=targets,
        artifacts=artifacts,
        masks={
            stride: allocate((count, 1, *cells), masked) for stride, cells in shapes.masks.items()
        },
        frame_ids=[""] * count,
        unlit=allocate((count, 3, *size), torch.float32) if shapes.unlit else None,
    )


def empty_triplets(count: int, size: tuple[int, int], allocate: Allocate) -> Triplets:
    """Return how `count` triplets lie in a batch, their flow to be filled in."""
    return triplets_of(
        allocate((2 * count, 2, *size), torch.float32),
        allocate((2 * count, 1, *size), torch.bool),
    )


def triplets_of(flow: Tensor, visible: Tensor) -> Triplets:
    """Return how triplets lie in a batch whose flow this is."""
    count = len(flow) // 2
    itself = torch.arange(count, device=flow.device)
    before, after = itself + count, itself + 2 * count
    return Triplets(
        frames=torch.stack([before, itself, after], dim=1),
        pairs=torch.stack([torch.cat([itself, itself]), torch.cat([before, after])], dim=1),
        flow=flow,
        visible=visible,
    )


def reused(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor whose memory serves the next one when its last view is gone."""
    return torch.from_numpy(lend(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor that a GPU reads by itself; torch keeps its memory for the next one."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)
