"""The files below a folder, found alike on every machine."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stillroom.stages.sources.image_files import IMAGE_SUFFIXES
from stillroom.stages.sources.listing import Files, PathPattern
from stillroom.stages.sources.names import at, repeated, text_of, text_order
from stillroom.stages.sources.spelled_names import spelled
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = r"\.[^./]*$"


@dataclass(frozen=True, eq=False)
class NamedFiles:
    """Frames, or labels, by the files of a folder.

    Attributes:
        folder: as it was given.
        ids: LargeStringArray.
        files: a file for each.
    """

    folder: str
    ids: Any
    files: Files

    def labels_from(self, labels: NamedFiles, frame: str = "frame", label: str = "label") -> Files:
        """Return the label files of these frames, none for frames without one.

        Args:
            frame, label: what the message calls them

        Raises:
            ConfigError: no frame has a label.
        """
        label_of = pc.index_in(self.ids, value_set=labels.ids)  # null where it has none
        if label_of.null_count == len(self.ids):
            raise ConfigError(
                f"no {frame} of {self.folder} has a {label} in {labels.folder}: they pair by name, "
                f"e.g. {self.ids[0].as_py()!r} against {labels.ids[0].as_py()!r}"
            )
        return labels.files.take(label_of)


@dataclass(frozen=True, eq=False)
class FoundFiles:
    """The image files below a folder, in order of their paths.

    Attributes:
        folder: as it was given.
        names: paths below the folder with "/" between parts: LargeStringArray.
        sizes: bytes: Int64Array.
    """

    folder: str
    names: Any
    sizes: Any

    @property
    def _head(self) -> str:
        return os.path.join(self.folder, "")

    def by_path(self, prefix: str = "") -> NamedFiles:
        """Name frames by `prefix` and the path below the folder."""
        ids = self.names
        if prefix:
            ids = pc.binary_join_element_wise(_scalar(prefix), ids, _scalar(""))
        pattern = PathPattern(self._head, len(prefix), "")
        files = Files((pattern,), pa.array(np.zeros(len(ids), np.int32)), self.sizes)
        return NamedFiles(self.folder, ids, files)

    def by_stem(self, ending: str = "") -> NamedFiles:
        """Name frames by the path without suffix and `ending`; leave out stems that end otherwise.

        Raises:
            ConfigError: two files have one name, or no file's name ends so.
        """
        stems = pc.replace_substring_regex(self.names, SUFFIX, "")
        kept = pc.ends_with(stems, ending)
        if not pc.any(kept).as_py():
            raise ConfigError(f"{self.folder} holds no image whose name ends in {ending!r}")
        names, stems, sizes = (each.filter(kept) for each in (self.names, stems, self.sizes))
        ids = pc.utf8_slice_codeunits(stems, 0, stop=-len(ending)) if ending else stems
        if doubled := repeated(at(text_order(ids), ids)):
            pair = names.filter(pc.equal(ids, doubled[0]))
            raise ConfigError(
                f"{self.folder} holds {pair[0]} and {pair[1]}: "
                f"both would be frame {doubled[0]!r}; remove one"
            )
        suffixes = pc.replace_substring_regex(names, rf"^.*({SUFFIX[:-1]})$", r"\1")
        known = suffixes.dictionary_encode()
        tails = (ending + each for each in known.dictionary.tolist())
        patterns = tuple(PathPattern(self._head, 0, tail) for tail in tails)
        return NamedFiles(self.folder, ids, Files(patterns, known.indices, sizes))


def _scalar(text: str) -> Any:
    return pa.scalar(text, pa.large_string())


def find_images(
    folder: Path, *, recursive: bool, suffixes: frozenset[str] = IMAGE_SUFFIXES
) -> FoundFiles:
    """List the image files of a folder, by suffix, as `walk` finds them.

    Raises:
        ConfigError: no such folder, one that `walk` cannot read, or no image in it.
    """
    found = kind_at(folder)
    if found != "folder":
        what = "is a file, not a folder" if found else "does not exist"
        raise ConfigError(f"{folder} {what}; point the source at a folder of images")
    sizes = array("q")

    def images() -> Iterator[str]:
        for relative, size in walk(folder, suffixes, recursive=recursive):
            sizes.append(size)
            yield relative

    names = text_of(images())
    if not len(names):
        raise ConfigError(f"{folder} holds no image ({' '.join(sorted(suffixes))})")
    order = text_order(names)
    all_sizes = pa.array(np.frombuffer(sizes, np.int64))
    return FoundFiles(str(folder), at(order, names), at(order, all_sizes))


def walk(folder: Path, suffixes: frozenset[str], *, recursive: bool) -> Iterator[tuple[str, int]]:
    """Yield (path below `folder`, bytes) of every visible file with one of the suffixes.

    Hidden files and folders (a leading dot) are left out; links are followed, a folder that was
    already entered is not entered again. A link that leads nowhere is a file of 0 bytes: loading
    it says that it is missing. A path that is no printable UTF-8 is yielded as it is spelled
    (spelled_names.py): loading it says so.

    Raises:
        ConfigError: a folder or what is in it cannot be read, or a folder holds a link that leads
            nowhere and has no suffix: it may stand for a whole folder.
    """
    entered: set[str] = set()
    waiting = [(str(folder), "")]
    while waiting:
        current, prefix = waiting.pop()
        real = str(Path(current).resolve())
        if real in entered:
            continue
        entered.add(real)
        folders = []
        for entry in _scan(current):
            relative = prefix + entry.name
            suffix = os.path.splitext(entry.name)[1].lower()
            what = _examine(entry, wanted=suffix in suffixes)
            if what == "folder":
                folders.append((entry.path, relative + "/"))
            elif isinstance(what, int):
                yield spelled(relative), what
            elif what == "nowhere" and recursive and not suffix:
                raise ConfigError(
                    f"{entry.path} is a link that leads nowhere, perhaps to a folder of the "
                    "source that is not there; mend the link, or remove it"
                )
        if recursive:
            # sorted: which of two links to one folder is entered must not depend on the disk
            waiting.extend(sorted(folders, reverse=True))


def kind_at(path: Path) -> Literal["folder", "file", "other"] | None:
    """Return what is at a path, links followed: "other" is a pipe or a device, None is nothing.

    Raises:
        ConfigError: the path cannot be examined: a folder above it is closed to this user, say.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise _unreadable(str(path), fault) from fault
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def _examine(
    entry: os.DirEntry[str], *, wanted: bool
) -> int | Literal["folder", "nowhere", "other"]:
    """Return the bytes of a wanted file (0 of one that is not there), or what else an entry is.

    A stat is made of links and of wanted files only.
    """
    try:
        if entry.is_dir():
            return "folder"
        if wanted and entry.is_file():
            return entry.stat().st_size
        nowhere = entry.is_symlink() and kind_at(Path(entry.path)) is None
    except FileNotFoundError:  # removed since its name was read
        nowhere = True
    except OSError as fault:
        raise _unreadable(entry.path, fault) from fault
    if nowhere:
        return 0 if wanted else "nowhere"
    return "other"


def _unreadable(path: str, fault: OSError) -> ConfigError:
    remedy = "mend the link" if fault.errno == errno.ELOOP else "give this user permission"
    return ConfigError(
        f"{path} cannot be read: {fault.strerror or fault}; {remedy}, or take it out of the source"
    )


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield the visible entries of a folder, in the disk's order."""
    try:
        with os.scandir(folder) as entries:
            while (entry := next(entries, None)) is not None:
                if not entry.name.startswith("."):
                    yield entry
    except OSError as fault:
        raise _unreadable(folder, fault) from fault
