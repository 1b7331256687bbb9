"""A batch that is packed, and how a device makes a `Batch` of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from stillroom.stages.across_ranks import ALL
from stillroom.stages.train.batch import Batch
from stillroom.stages.train.batch_memory import triplets_of
from stillroom.stages.train.clip_flow import shown_there
from stillroom.stages.train.packed.dequantise import DEQUANTISE
from stillroom.stages.train.packed.relight import relit
from stillroom.stages.train.packed.sampling import Axes, inside, sampled
from stillroom.stages.train.packed.slot import USED
from stillroom.stages.warp import inside_frame, visible
from stillroom.storage_specs.artifacts import FRAMES, LABELS

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.across_ranks import Rows
    from stillroom.stages.train.batch import Triplets
    from stillroom.stages.train.batch_memory import FrameShapes
    from stillroom.stages.train.mix import Mix
    from stillroom.stages.train.packed.slot import PackedArray, Slot
    from stillroom.stages.train.photometric import PhotometricConfig

TYPES = {  # of torch; steps of 16 bits are signed, since few of its operators take others
    "|u1": torch.uint8,
    "<i2": torch.int16,
    "<u2": torch.int16,
    "<f2": torch.float16,
    "<f4": torch.float32,
}


@dataclass
class PackedBatch:
    """Frames of one stream, each packed in a slot.

    Attributes:
        slots: (B, bytes of a slot) uint8
        heads: (B, words) int32, the slots' heads, on the host where the slots are not
        clips: whether the frames are triplets, in the order of `Triplets`
        rows, mix: as in `Batch`
    """

    stream: str
    slot: Slot
    shapes: FrameShapes
    jitter: PhotometricConfig
    slots: Tensor
    frame_ids: list[str]
    clips: bool
    heads: Tensor | None = None
    rows: Rows = ALL
    mix: Mix | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedBatch:
        """Return the same on `device`, by one copy a frame, of the bytes that it uses."""
        if torch.device(device).type == self.slots.device.type:
            return self
        slots = torch.empty(self.slots.shape, dtype=torch.uint8, device=device)
        return self._copied(slots, non_blocking=non_blocking)

    def pin_memory(self) -> PackedBatch:
        """Return the same in memory that a GPU reads by itself."""
        slots = torch.empty(self.slots.shape, dtype=torch.uint8, pin_memory=True)
        return self._copied(slots)

    def unpacked(self) -> Batch:
        """Decode what the slots hold, where they are."""
        head = self.slots[:, : self.slot.head].contiguous()
        words, floats = head.view(torch.int32), head.view(torch.float32)
        found = {array.name: self._array(array, words, floats) for array in self.slot.arrays}
        masks = {stride: self._mask(words, stride) for stride in self.slot.masks}
        images = found.pop(FRAMES)
        targets = {name: found.pop(name) for name in self.shapes.targets}
        unlit = images if self.shapes.unlit else None
        if not self.jitter.is_off():
            images = relit(self.jitter, images, masks[1], floats[:, self.slot.light])
        return Batch(
            stream=self.stream,
            labelled=self.shapes.labelled,
            images=images,
            labels=targets.pop(LABELS, None),
            mask=masks[self.slot.stride],
            artifacts=found,
            targets=targets,
            masks={stride: masks[stride] for stride in self.shapes.masks},
            frame_ids=self.frame_ids,
            triplets=self._triplets(words, floats, masks[1]) if self.clips else None,
            rows=self.rows,
            mix=self.mix,
            unlit=unlit,
        )

    def bytes_used(self) -> list[int]:
        """Return how many bytes of each slot are copied."""
        return self._heads()[:, USED].tolist()

    def _copied(self, slots: Tensor, *, non_blocking: bool = False) -> PackedBatch:
        for there, here, used in zip(slots, self.slots, self.bytes_used(), strict=True):
            there[:used].copy_(here[:used], non_blocking=non_blocking)
        return replace(self, slots=slots, heads=self._heads())

    def _heads(self) -> Tensor:
        if self.heads is not None:
            return self.heads
        return self.slots[:, : self.slot.head].contiguous().view(torch.int32)

    def _mask(self, words: Tensor, stride: int) -> Tensor:
        spans = words[:, self.slot.masks[stride]]
        height, width = self.shapes.size
        return inside(spans[:, :2], spans[:, 2:], (-(-height // stride), -(-width // stride)))

    def _triplets(self, words: Tensor, floats: Tensor, shown: Tensor) -> Triplets:
        """The flow to the neighbours, and where it can be trusted: as `CachedFlow` has it."""
        first = len(words) // 3
        flow, back = (self._array(one, words, floats, first) for one in self.slot.flows)
        there = words[first:, self.slot.flows[1].words["window"].stop - 1, None, None, None] > 0
        trusted = torch.where(there, visible(flow, back), inside_frame(flow))
        return triplets_of(flow, trusted & shown_there(flow, shown[first:]))

    def _array(self, array: PackedArray, words: Tensor, floats: Tensor, first: int = 0) -> Tensor:
        """One array of every frame from the first one on, decoded and sampled."""
        grid, codec = self._windows(array, first), array.spec.codec
        words, floats = words[first:], floats[first:]
        if array.by_host:
            return grid
        roles = codec.side_shapes(array.spec.shape)
        sides = {role: floats[:, array.words[role], None, None] for role in roles}
        values = DEQUANTISE[codec.name](codec, grid, sides)
        spans = words[:, array.words["spans"]]
        rows, columns = (
            Axes(
                low=words[:, array.words[f"{axis}s"]].long(),
                weight=floats[:, array.words.get(f"{axis} weights", slice(0, 0))],
                span=span,
            )
            for axis, span in (("row", spans[:, :2]), ("column", spans[:, 2:]))
        )
        made = sampled(array.spec.kind.geometry, values, rows, columns)
        scale = array.words.get("value scale")
        return made if scale is None else made.mul_(floats[:, scale, None, None])

    def _windows(self, array: PackedArray, first: int) -> Tensor:
        """Windows of the frames from the first one on, (B, C, h, w); whatever lies beyond each."""
        shape, dtype = array.window_shape(*array.most), TYPES[array.dtype.str]
        windows = self._heads()[first:, array.words["window"]].tolist()
        grid = self.slots.new_empty((len(windows), *shape), dtype=dtype)
        for room, slot, (begin, rows, columns) in zip(
            grid, self.slots[first:], windows, strict=True
        ):
            shape = array.window_shape(rows, columns)
            size = math.prod(shape) * dtype.itemsize
            window = slot[begin : begin + size].view(dtype).view(shape)
            room[tuple(slice(0, side) for side in shape)].copy_(window)
        axes = array.spec.kind.axes
        if array.by_host:
            return grid
        if axes[-1] == "rgb":
            return grid.permute(0, 3, 1, 2)
        return grid if len(axes) == 3 else grid[:, None]
