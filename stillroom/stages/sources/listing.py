"""Which files are in a folder: found, named, ordered and fingerprinted the same everywhere.

A million frames are nothing unusual: the listing is a few Arrow arrays. A frame's record is made
when it is looked at.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stillroom.stages.sources.images_on_disk import IMAGE_SUFFIXES
from stillroom.stages.sources.names import (
    CHUNK,
    Names,
    at,
    natural_order,
    repeated,
    sorted_places,
    text_of,
)
from stillroom.stages.sources.walk import kind_at, walk
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIX = r"\.[^./]*$"


@dataclass(frozen=True, slots=True)
class ListedFrame:
    """A frame by its files; `label` is None where it has no label file."""

    frame_id: str
    image: str
    size: int
    label: str | None = None
    label_size: int | None = None


@dataclass(frozen=True)
class Spelling:
    """How a frame's id becomes the path of one of its files: `head + id[cut:] + tail`."""

    head: str
    cut: int
    tail: str

    def path(self, frame_id: str) -> str:
        """The path of that frame's file."""
        return f"{self.head}{frame_id[self.cut :]}{self.tail}"


@dataclass(frozen=True, eq=False)
class Files:
    """A file for every frame of a listing.

    Attributes:
        spellings: the few ways in which ids become paths.
        spelled: which of them a frame's is, null where it has no such file: Int32Array.
        sizes: bytes, null where it has none: Int64Array.
    """

    spellings: tuple[Spelling, ...]
    spelled: Any
    sizes: Any

    def take(self, places: Any) -> Files:
        """The files at some places, none where a place is null."""
        return Files(self.spellings, at(places, self.spelled), at(places, self.sizes))

    def file(self, index: int, frame_id: str) -> tuple[str | None, int | None]:
        """Path and size of a frame's file; (None, None) where it has none."""
        spelled = self.spelled[index].as_py()
        if spelled is None:
            return None, None
        return self.spellings[spelled].path(frame_id), self.sizes[index].as_py()


def joined(parts: list[Files]) -> Files:
    """The files of several folders, one folder's after the other's."""
    starts = np.cumsum([0, *(len(part.spellings) for part in parts)])
    return Files(
        tuple(spelling for part in parts for spelling in part.spellings),
        pa.concat_arrays(
            [
                pc.add(part.spelled, pa.scalar(start, pa.int32()))
                for part, start in zip(parts, starts[:-1], strict=True)
            ]
        ),
        pa.concat_arrays([part.sizes for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class Listing:
    """The frames of a source by their files: 20 bytes a frame, 32 with labels, and its id's text.

    Attributes:
        ids: LargeStringArray.
        images: a file for every frame.
        labels: a file for every frame that has one; None in an unlabelled source.
    """

    ids: Any
    images: Files
    labels: Files | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> ListedFrame:
        frame_id = self.ids[int(index)].as_py()
        image, size = self.images.file(int(index), frame_id)
        if image is None or size is None:
            raise IndexError(f"frame {frame_id!r} has no image file")
        label, label_size = (
            (None, None) if self.labels is None else self.labels.file(int(index), frame_id)
        )
        return ListedFrame(frame_id, image, size, label, label_size)

    def labelled(self, index: int) -> bool:
        """Whether a frame has a label file."""
        return self.labels is not None and bool(self.labels.spelled[int(index)].is_valid)

    def take(self, places: Any) -> Listing:
        """The frames at some places, in that order."""
        labels = None if self.labels is None else self.labels.take(places)
        return Listing(at(places, self.ids), self.images.take(places), labels)

    def ordered(self) -> Listing:
        """In natural order of the ids.

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

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of names and file sizes, independent of folder and of order."""
        digest = hashlib.sha256()
        order = sorted_places(self.ids)
        for start in range(0, len(self), CHUNK):
            rows = self.take(order[start : start + CHUNK])._rows()
            digest.update("".join(rows).encode())
        return digest.hexdigest()

    def _rows(self) -> Iterator[str]:
        """A line a frame: its id and the sizes of its files."""
        ids, sizes = self.ids.to_pylist(), self.images.sizes.to_pylist()
        labels = [None] * len(ids) if self.labels is None else self.labels.sizes.to_pylist()
        for frame_id, size, label_size in zip(ids, sizes, labels, strict=True):
            tail = "" if label_size is None else f", {label_size}"
            yield f"[{encode_basestring_ascii(frame_id)}, {size}{tail}]\n"


@dataclass(frozen=True, eq=False)
class FoundFiles:
    """The image files below a folder, in order of their paths.

    Attributes:
        folder: as it was given, with a separator at its end.
        names: paths below the folder with "/" between parts: LargeStringArray.
        sizes: bytes: Int64Array.
    """

    folder: str
    names: Any
    sizes: Any

    @property
    def _shown(self) -> str:
        return self.folder[:-1] or self.folder

    def by_path(self, prefix: str = "") -> tuple[Any, Files]:
        """Frames that are named `prefix` and the path below the folder: their ids and files."""
        ids = self.names
        if prefix:
            ids = pc.binary_join_element_wise(_scalar(prefix), ids, _scalar(""))
        spelling = Spelling(self.folder, len(prefix), "")
        return ids, Files((spelling,), pa.array(np.zeros(len(ids), np.int32)), self.sizes)

    def by_stem(self, ending: str = "") -> tuple[Any, Files]:
        """Frames that are named by the path without suffix and `ending`: their ids and files.

        Files whose stem ends otherwise are left out.

        Raises:
            ConfigError: two files have one name, or no file's name ends so.
        """
        stems = pc.replace_substring_regex(self.names, SUFFIX, "")
        kept = pc.ends_with(stems, ending)
        if not pc.any(kept).as_py():
            raise ConfigError(f"{self._shown} holds no image whose name ends in {ending!r}")
        names, stems, sizes = (each.filter(kept) for each in (self.names, stems, self.sizes))
        ids = pc.utf8_slice_codeunits(stems, 0, stop=-len(ending)) if ending else stems
        if doubled := repeated(at(sorted_places(ids), ids)):
            pair = names.filter(pc.equal(ids, doubled[0]))
            raise ConfigError(
                f"{self._shown} holds {pair[0]} and {pair[1]}: "
                f"both would be frame {doubled[0]!r}; remove one"
            )
        suffixes = pc.replace_substring_regex(names, rf"^.*({SUFFIX[:-1]})$", r"\1")
        known = suffixes.dictionary_encode()
        spellings = (Spelling(self.folder, 0, ending + each) for each in known.dictionary.tolist())
        return ids, Files(tuple(spellings), known.indices, sizes)


def _scalar(text: str) -> Any:
    return pa.scalar(text, pa.large_string())


def find_images(folder: Path, *, recursive: bool) -> FoundFiles:
    """List the image files of a folder, told by suffix.

    Hidden files and folders (a leading dot) are left out; links are followed, a folder that was
    already entered is not entered again. A link that leads nowhere is listed with 0 bytes: loading
    it says that it is missing.

    Raises:
        ConfigError: no such folder, a folder that cannot be read, a name that is not UTF-8, a
            link that may have led to a folder and leads nowhere, or no image in it.
    """
    found = kind_at(folder)
    if found != "folder":
        what = "is a file, not a folder" if found else "does not exist"
        raise ConfigError(f"{folder} {what}; point the source at a folder of images")
    sizes = array("q")

    def images() -> Iterator[str]:
        for relative, size in walk(folder, IMAGE_SUFFIXES, recursive=recursive):
            sizes.append(size)
            yield relative

    names = text_of(images())
    if not len(names):
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise ConfigError(f"{folder} holds no image ({suffixes})")
    order = sorted_places(names)
    all_sizes = pa.array(np.frombuffer(sizes, np.int64))
    return FoundFiles(os.path.join(str(folder), ""), at(order, names), at(order, all_sizes))
