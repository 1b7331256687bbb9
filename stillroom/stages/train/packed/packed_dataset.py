"""Packs the frames of a stream for a device that decodes them, instead of decoding them here."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.geometry import mask_spans
from stillroom.stages.train.batch_memory import reused
from stillroom.stages.train.cached_sets import read_view
from stillroom.stages.train.packed.packed_batch import PackedBatch
from stillroom.stages.train.packed.slot import ALIGNMENT, FLOW_BACK, USED, slot_of
from stillroom.stages.train.sample import places
from stillroom.stages.view_axes import Part, axes_between, axes_under, positions_needed
from stillroom.stages.view_values import VALUE_SCALES
from stillroom.storage_specs.artifacts import FLOW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from stillroom.stages.train.batch_memory import Allocate
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.job import TrainJob
    from stillroom.stages.train.packed.slot import PackedArray
    from stillroom.stages.train.sample import Shown
    from stillroom.stages.view import View
    from stillroom.stages.view_kernels import Axis

LOG = logging.getLogger(__name__)


def streams_of(job: TrainJob) -> Mapping[str, CacheDataset | PackedDataset]:
    """Return a run's streams, packed where the device is to decode them."""
    usual = "device" if torch.device(job.device).type == "cuda" else "host"
    if (job.settings.decode or usual) == "host":
        return job.streams
    packed = {name: PackedDataset(dataset) for name, dataset in job.streams.items()}
    for one in packed.values():
        one.tell()
    return packed


class PackedDataset:
    """The frames of a stream, as `CacheDataset` has them, but packed.

    Attributes:
        frame_ids, indices: the stream's
    """

    def __init__(self, dataset: CacheDataset) -> None:
        self._dataset = dataset
        self._slot = slot_of(dataset)
        self.name, self.frame_ids, self.indices = dataset.name, dataset.frame_ids, dataset.indices

    def __len__(self) -> int:
        """Count the usable frames."""
        return len(self._dataset)

    def tell(self) -> None:
        """Say which artifacts the host decodes after all."""
        for one in self._slot.arrays:
            if one.by_host and one.spec.kind.has_map:
                LOG.warning(
                    "stream %s: the host decodes %s, since codec %s does not store values of cells",
                    self.name,
                    one.name,
                    one.spec.codec.name,
                )

    def empty(self, count: int, allocate: Allocate = reused) -> PackedBatch:
        """Return a batch of `count` frames, or triplets, for `fill`."""
        dataset, frames = self._dataset, 3 * count if self._dataset.clips else count
        return PackedBatch(
            stream=self.name,
            slot=self._slot,
            shapes=dataset.shapes,
            jitter=dataset.jitter,
            slots=allocate((frames, self._slot.size), torch.uint8),
            frame_ids=[""] * frames,
            clips=dataset.clips,
        )

    def fill(self, batch: PackedBatch, place: int, epoch: int, frame: int) -> None:
        """Read what a view of one frame needs into a batch; as `CacheDataset.fill`."""
        shown = self._dataset.shown(epoch, frame)
        for i, one in zip(places(batch.frame_ids, place, shown), shown, strict=True):
            batch.frame_ids[i] = one.frame_id
            self._pack(batch.slots[i].numpy(), one)

    def _pack(self, slot: NDArray[np.uint8], shown: Shown) -> None:
        head = slot[: self._slot.head].view(np.int32)
        head[:] = 0
        head.view(np.float32)[self._slot.light] = shown.light
        for stride, words in self._slot.masks.items():
            rows, columns = mask_spans(shown.view, self._dataset.canvas, shown.valid, stride)
            head[words] = rows.start, rows.stop, columns.start, columns.stop
        end = self._slot.head
        for array in self._slot.arrays + self._slot.flows:
            row = None if self._dataset.is_live(array.name, shown) else _row(array, shown)
            if row is not None:
                end = _pack_array(array, head, slot, end, shown.view, row)
        head[USED] = end


def _pack_array(
    array: PackedArray,
    head: NDArray[np.int32],
    slot: NDArray[np.uint8],
    end: int,
    view: View,
    row: int,
) -> int:
    """Put what a view needs of an array at the end of a slot; return its new end."""
    begin, (holder, artifact, out_stride) = -(-end // ALIGNMENT) * ALIGNMENT, array.read
    words = array.words
    if array.by_host:
        out = _room(array, slot, begin, 0, 0)
        read_view(holder, artifact, row, view, out_stride, torch.from_numpy(out))
        head[words["window"]] = begin, 0, 0
        return begin + out.nbytes
    axes = _axes(array, view)
    rows, columns = map(positions_needed, axes, array.grid)
    out = _room(array, slot, begin, rows.stop - rows.start, columns.stop - columns.start)
    side = holder.read_steps(artifact, row, rows, columns, out)
    head[words["window"]] = begin, rows.stop - rows.start, columns.stop - columns.start
    head[words["spans"]] = axes[0].begin, axes[0].end, axes[1].begin, axes[1].end
    floats = head.view(np.float32)
    for axis, first, name in zip(axes, (rows.start, columns.start), ("row", "column"), strict=True):
        head[words[f"{name}s"]] = axis.low - first
        if len(axis.weight):
            floats[words[f"{name} weights"]] = axis.weight
    if "value scale" in words:
        floats[words["value scale"]] = VALUE_SCALES[array.spec.kind.geometry](view)
    for role, values in side.items():
        floats[words[role]] = values.reshape(-1)
    return begin + out.nbytes


def _row(array: PackedArray, shown: Shown) -> int | None:
    """Return which row of its set an array of a frame is; None where it has none."""
    if array.name not in (FLOW, FLOW_BACK):
        return shown.index
    if shown.neighbour is None:
        return None
    return shown.neighbour.flow_to if array.name == FLOW else shown.neighbour.flow_back


def _room(
    array: PackedArray, slot: NDArray[np.uint8], begin: int, rows: int, columns: int
) -> NDArray[np.generic]:
    """Return the part of a slot that a window fills."""
    shape = array.window_shape(rows, columns)
    size = math.prod(shape) * array.dtype.itemsize
    return slot[begin : begin + size].view(array.dtype).reshape(shape)


def _axes(array: PackedArray, view: View) -> tuple[Axis, Axis]:
    height, width = array.grid
    whole = Part(height, width, slice(0, height), slice(0, width))
    if "row weights" in array.words:
        return axes_between(view, whole, *array.strides)
    return axes_under(view, whole)
