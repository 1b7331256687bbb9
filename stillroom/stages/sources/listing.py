"""The frames of a source by their files: named, ordered and fingerprinted the same everywhere.

A million frames are nothing unusual: a listing is a few Arrow arrays, and a frame's paths are made
when they are asked for.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stillroom.stages.sources.clip_times import ClipTimes, order_by_clip
from stillroom.stages.sources.names import CHUNK, Names, at, natural_order, repeated, text_order
from stillroom.storage_specs.artifacts import LABELS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from stillroom.stages.sources.encoded_file import EncodedFile


@dataclass(frozen=True)
class PathPattern:
    """How a frame's id becomes the path of one of its files: `head + id[cut:] + tail`."""

    head: str
    cut: int
    tail: str

    def path(self, frame_id: str) -> str:
        """Return the path of that frame's file."""
        return f"{self.head}{frame_id[self.cut :]}{self.tail}"


class FrameFiles(Protocol):
    """The images of a listing's frames, or their labels, of which a frame may have none."""

    @property
    def pattern(self) -> Any:
        """Where the frames' are, null where one has none: Int32Array."""

    @property
    def sizes(self) -> Any:
        """Bytes, null where a frame has none: Int64Array."""

    def take(self, indices: Any) -> Self:
        """Return those at some indices, none where an index is null."""

    def file(self, index: int, frame_id: str) -> EncodedFile | None:
        """Return a frame's; None where it has none."""

    def called(self, index: int, frame_id: str) -> tuple[str, ...]:
        """Return what else a list of frames may call one."""


@dataclass(frozen=True, eq=False)
class Files:
    """A file for every frame of a listing.

    Attributes:
        patterns: the few ways in which ids become paths.
        pattern: which of them a frame's is, null where it has no such file: Int32Array.
        sizes: bytes, null where it has none: Int64Array.
    """

    patterns: tuple[PathPattern, ...]
    pattern: Any
    sizes: Any

    def take(self, indices: Any) -> Files:
        """Return the files at some indices, none where an index is null."""
        return Files(self.patterns, at(indices, self.pattern), at(indices, self.sizes))

    def file(self, index: int, frame_id: str) -> Path | None:
        """Return a frame's file; None where it has none."""
        pattern = self.pattern[index].as_py()
        return None if pattern is None else Path(self.patterns[pattern].path(frame_id))

    def called(self, index: int, frame_id: str) -> tuple[str, ...]:
        """Return what else a frame may be called: its file's path, without ending or suffix too."""
        pattern = self.patterns[self.pattern[index].as_py()]
        path = os.path.abspath(pattern.path(frame_id))
        return path, os.path.splitext(path)[0], path[: -len(pattern.tail) or None]


def joined(parts: list[Files]) -> Files:
    """Put the files of several folders one after the other."""
    starts = np.cumsum([0, *(len(part.patterns) for part in parts)])
    shifted = [
        pc.add(part.pattern, pa.scalar(start, pa.int32()))
        for part, start in zip(parts, starts[:-1], strict=True)
    ]
    return Files(
        tuple(pattern for part in parts for pattern in part.patterns),
        pa.concat_arrays(shifted),
        pa.concat_arrays([part.sizes for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class Listing:
    """The frames of a source: 20 bytes a frame, 32 with labels, and its id's text.

    Attributes:
        ids: LargeStringArray.
        images: a file for every frame.
        labels: a file for every frame that has one; None in an unlabelled source.
        targets: likewise of further targets, by name.
        clips: clip and time of every frame, where the listing is in their order.
    """

    ids: Any
    images: FrameFiles
    labels: FrameFiles | None = None
    clips: ClipTimes | None = None
    targets: Mapping[str, FrameFiles] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> EncodedFile:
        """Return a frame's image."""
        frame_id = self.ids[int(index)].as_py()
        file = self.images.file(int(index), frame_id)
        if file is None:
            raise IndexError(f"frame {frame_id!r} has no image file")
        return file

    def label(self, index: int) -> EncodedFile | None:
        """Return a frame's label; None where it has none."""
        if self.labels is None:
            return None
        return self.labels.file(int(index), self.ids[int(index)].as_py())

    def labelled(self, index: int) -> bool:
        """Tell whether a frame has a label file, or one of another target."""
        return any(bool(files.pattern[int(index)].is_valid) for files in self._labelling().values())

    def label_count(self) -> int:
        """Count the frames that have one."""
        there = [np.asarray(pc.is_valid(files.pattern)) for files in self._labelling().values()]
        return int(np.logical_or.reduce(there).sum()) if there else 0

    def target(self, name: str, index: int) -> EncodedFile | None:
        """Return the file of a further target of a frame; None where it has none."""
        return self.targets[name].file(int(index), self.ids[int(index)].as_py())

    def take(self, indices: Any) -> Listing:
        """Return the frames at some indices, in that order."""
        labels = None if self.labels is None else self.labels.take(indices)
        clips = None if self.clips is None else self.clips.take(np.asarray(indices))
        targets = {name: files.take(indices) for name, files in self.targets.items()}
        return Listing(at(indices, self.ids), self.images.take(indices), labels, clips, targets)

    def ordered(self) -> Listing:
        """Return the frames in natural order of their ids.

        Raises:
            ConfigError: two frames have the same id.
        """
        ordered = self.take(natural_order(Names(self.ids)))
        if doubled := repeated(ordered.ids):
            raise ConfigError(
                f"two files would both be frame {doubled[0]!r}"
                + (f" (and {len(doubled) - 1} more such pairs)" if len(doubled) > 1 else "")
                + "; frame names must be unique in a source: rename or remove one of each"
            )
        return ordered

    def by_clip_and_time(self, clips: Any, times: NDArray[np.int64]) -> Listing:
        """Return the frames in natural order of their clips, by time within each.

        Args:
            clips: LargeStringArray, the clip of each frame
            times: int64 (N,), of each frame

        Raises:
            ConfigError: two frames of a clip have the same time.
        """
        order, places = order_by_clip(clips, times)
        ordered = replace(self.take(pa.array(order)), clips=places)
        if len(doubled := places.repeated()):
            first = int(doubled[0])
            clip, time = places.position(first)
            more = f" (and {len(doubled) - 1} more such pairs)" if len(doubled) > 1 else ""
            raise ConfigError(
                f"frames {ordered.ids[first].as_py()!r} and {ordered.ids[first + 1].as_py()!r} "
                f"both have time {time} in clip {clip!r}{more}; the last number of a frame's name "
                "is its time, and each time comes once in a clip: rename or remove one of each"
            )
        return ordered

    def around_labels(self, steps: int | None) -> Listing:
        """Return the frames within so many steps of a labelled one in their clip; all for None."""
        if steps is None or self.labels is None or self.clips is None:
            return self
        labelled = np.asarray(pc.is_valid(self.labels.pattern))
        return self.take(pa.array(np.flatnonzero(self.clips.near(labelled, steps))))

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of names and file sizes, independent of folder and of order."""
        digest = hashlib.sha256()
        order = text_order(self.ids)
        for start in range(0, len(self), CHUNK):
            rows = self.take(order[start : start + CHUNK])._rows()
            digest.update("".join(rows).encode())
        return digest.hexdigest()

    def _rows(self) -> Iterator[str]:
        """Yield a line a frame: its id and the sizes of its files."""
        ids, sizes = self.ids.to_pylist(), self.images.sizes.to_pylist()
        tails = [""] * len(ids)
        for name, files in self._labelling().items():
            what = "" if name == LABELS else f'"{name}", '  # as it was before there were others
            tails = [
                tail if size is None else f"{tail}, {what}{size}"
                for tail, size in zip(tails, files.sizes.to_pylist(), strict=True)
            ]
        for frame_id, size, tail in zip(ids, sizes, tails, strict=True):
            yield f"[{encode_basestring_ascii(frame_id)}, {size}{tail}]\n"

    def _labelling(self) -> dict[str, FrameFiles]:
        """The files of the labels, and of further targets, by name."""
        labels = {} if self.labels is None else {LABELS: self.labels}
        return {**labels, **self.targets}
