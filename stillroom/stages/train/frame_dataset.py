"""A source's frames with labels and artifacts as a torch `Dataset`, for any training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from stillroom.storage_specs.artifacts import BOXES, LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from stillroom.stages.train.dataset import CacheDataset


class FrameDataset(Dataset[dict[str, Any]]):
    """Frames of one source, each a dict that torch's `default_collate` can batch.

    An item, of a view of H x W pixels:

        "frame_id"                its name
        "image"                   (3, H, W) float32, RGB 0..255
        "label"                   (H, W) int64, 255 where there is none; of a labelled source
        "depth"                   (1, H, W) float32, metres, 0 where there is none; if it has it
        "normals"                 (3, H, W) float32, unit vectors, 0 where there is none; likewise
        "boxes"                   (N, 5) float32, x0, y0, x1, y1 in pixels and class, -1 in rows
                                  beyond the last; all 0 where it is not known; likewise
        "mask"                    (1, H, W) bool, True where a pixel shows the frame
        "fpn/logits"              (C, h, w) float32, and likewise each artifact that was asked for;
                                  pseudo labels (H, W) int64
        "mask@8"                  (1, h, w) bool, as "mask", of artifacts on a grid of stride 8

    Frames that are bad in the cache are left out. An item is a pure function of the seed, the epoch
    and the frame: `set_epoch` before each pass draws other views. Workers of a `DataLoader` follow.
    """

    def __init__(self, frames: CacheDataset, names: Mapping[str, str]) -> None:
        """Take what reads samples.

        Args:
            names: of what an item holds, by what `frames` reads for it
        """
        self._frames = frames
        self._names = dict(names)
        # Shared, since a loader's processes may outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Count the usable frames."""
        return len(self._frames)

    @property
    def frame_ids(self) -> list[str]:
        """The names of the frames, in order."""
        return [self._frames.frame_ids[index] for index in self._frames.indices]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the labels' classes; None where frames have no labels."""
        return self._classes_of(LABELS)

    @property
    def box_classes(self) -> tuple[str, ...] | None:
        """Names of the boxes' classes; None where frames have no boxes."""
        return self._classes_of(BOXES)

    def _classes_of(self, target: str) -> tuple[str, ...] | None:
        if target not in self._frames.targets:
            return None
        return tuple(self._frames.frames.arrays[target].attributes["classes"])

    def set_epoch(self, epoch: int) -> None:
        """Choose which views the next pass draws."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one frame; as in a list, -1 is the last.

        Raises:
            IndexError: there is no such frame.
            CacheError: it cannot be read, or is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        batch = self._frames.empty(1)
        self._frames.fill(batch, 0, int(self._epoch), index % len(self))
        sample = batch.sample(0)
        item: dict[str, Any] = {"frame_id": sample.frame_id, "image": sample.image}
        if sample.label is not None:
            item["label"] = sample.label
        item |= sample.targets
        masks: dict[int, Tensor] = {self._frames.out_stride: sample.mask, **sample.masks}
        item |= {("mask" if stride == 1 else f"mask@{stride}"): m for stride, m in masks.items()}
        return item | {self._names[read]: values for read, values in sample.artifacts.items()}
