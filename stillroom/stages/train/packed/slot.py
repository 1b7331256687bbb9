"""How a frame travels to the device that decodes it: in a slot of bytes, all of it in one copy.

A slot begins with a head of 4-byte words, which lie in the same place for every frame of a stream:
how many bytes are used, what is to be sampled along each axis, masks, jitter, and what codecs need.
Behind it lie the steps that the frame's view needs of each array, one window behind the other; the
rest of the slot is not copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.train.packed.dequantise import DEQUANTISE
from stillroom.stages.train.reads import Read
from stillroom.stages.view_values import VALUE_SCALES
from stillroom.storage_specs.artifacts import FLOW, FRAMES

if TYPE_CHECKING:
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.storage_specs.layout import ArraySpec

ALIGNMENT = 16  # bytes; of windows
WORD = 4
FLOW_BACK = "flow back"
USED = 0  # the word that says how many bytes of a slot are used


@dataclass(frozen=True)
class PackedArray:
    """How one array of a frame travels.

    Attributes:
        name: in a batch: "frames", a target's, or the key of an artifact; or "flow" from a frame to
            its neighbour and "flow back", which are in the neighbour's slot
        grid: rows and columns of the whole array
        strides: canvas pixels a position of the array, output pixels one of the result
        shape: of the result of one frame, without the axis of channels
        most: rows and columns of the largest window that a view needs
        words: where in the head its window (first byte, rows, columns), spans, rows, columns and
            their weights, the codec's sides and the scale of its values are
    """

    name: str
    read: Read
    grid: tuple[int, int]
    strides: tuple[int, int]
    shape: tuple[int, int]
    most: tuple[int, int]
    words: dict[str, slice]

    @cached_property
    def spec(self) -> ArraySpec:
        """How it is stored."""
        return self.read.spec

    @cached_property
    def by_host(self) -> bool:
        """Whether the host decodes it, and the result itself travels."""
        return self.spec.codec.name not in DEQUANTISE or not self.spec.kind.has_map

    def window_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Shape of a window as it travels."""
        if not self.spec.kind.has_map:
            return self.spec.shape
        if self.by_host:
            return (self.spec.shape[0], *self.shape)
        sides = {"y": rows, "x": columns}
        axes = zip(self.spec.kind.axes, self.spec.shape, strict=True)
        return tuple(sides.get(axis, length) for axis, length in axes)

    @cached_property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of what travels."""
        return np.dtype(np.float32 if self.by_host else self.spec.codec.steps)


@dataclass(frozen=True)
class Slot:
    """How the frames of a stream lie in their slots.

    Attributes:
        arrays: of a frame
        flows: of a neighbour in a clip
        light: words of the jitter's factors
        stride: of the usual mask
        masks: words of the spans (begin and end of rows, of columns) of a mask, by its stride
        head: bytes before the first window
        size: bytes of a slot
    """

    arrays: tuple[PackedArray, ...]
    flows: tuple[PackedArray, ...]
    light: slice
    stride: int
    masks: dict[int, slice]
    head: int
    size: int


class _Words:
    """Hands out words of a head, one behind the other."""

    def __init__(self) -> None:
        self.count = USED + 1

    def take(self, count: int) -> slice:
        self.count += count
        return slice(self.count - count, self.count)


def slot_of(dataset: CacheDataset) -> Slot:
    """Plan the slots of a stream's frames."""
    words = _Words()
    light = words.take(3)
    strides = {1, dataset.out_stride, *dataset.shapes.masks}
    masks = {stride: words.take(4) for stride in sorted(strides)}
    arrays = tuple(_packed(dataset, name, read, words) for name, read in _reads(dataset).items())
    flow = dataset.flow and Read(dataset.flow.flow, FLOW, 1)
    names = (FLOW, FLOW_BACK) if flow else ()
    flows = tuple(_packed(dataset, name, flow, words) for name in names if flow)
    head = _aligned(words.count * WORD)
    windows = (
        math.prod(one.window_shape(*one.most)) * one.dtype.itemsize for one in arrays + flows
    )
    size = head + sum(_aligned(window) for window in windows)
    return Slot(arrays, flows, light, dataset.out_stride, masks, head, size)


def _reads(dataset: CacheDataset) -> dict[str, Read]:
    of_source = {name: Read(dataset.frames, name, 1) for name in (FRAMES, *dataset.targets)}
    return of_source | dataset.artifacts


def _packed(dataset: CacheDataset, name: str, read: Read, words: _Words) -> PackedArray:
    spec, size = read.spec, dataset.size
    if not spec.kind.has_map:
        one = (1, 1)
        return PackedArray(name, read, one, one, one, one, {"window": words.take(3)})
    stride = int(spec.attributes["stride"]) if spec.kind.has_stride else 1
    out_stride = read.out_stride if spec.kind.has_stride else 1
    rows, columns = (-(-side // out_stride) for side in size)
    height, width = (spec.shape[spec.kind.axes.index(axis)] for axis in "yx")
    largest = (side / dataset.view.scale[0] / stride for side in size)
    # A window begins and ends between positions, and is sampled one beyond.
    most = [min(n, math.ceil(side) + 2) for n, side in zip((height, width), largest, strict=True)]
    taken = {"window": 3, "spans": 4, "rows": rows, "columns": columns}
    if spec.kind.geometry not in ("label", "nearest"):
        taken |= {"row weights": rows, "column weights": columns}
    if spec.kind.geometry in VALUE_SCALES:
        taken["value scale"] = 1 if len(spec.shape) == 2 else spec.shape[0]
    taken |= {k: math.prod(shape) for k, shape in spec.codec.side_shapes(spec.shape).items()}
    places = {key: words.take(count) for key, count in taken.items()}
    return PackedArray(
        name,
        read,
        (height, width),
        (stride, out_stride),
        (rows, columns),
        (most[0], most[1]),
        places,
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
