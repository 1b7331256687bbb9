"""Folders of images without labels."""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.listing import Files, Listing, PathPattern, joined
from stillroom.stages.sources.names import text_of
from stillroom.stages.sources.recognise import warn_of_splits
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ImagesConfig(FileSettings):
    """Every image below one folder or several.

    Attributes:
        root: a folder, or a list of folders; each is read with all its subfolders.
    """

    kind: Literal["images"] = "images"
    root: Path | tuple[Path, ...]

    def folders(self) -> tuple[Path, ...]:
        """Return the root folders."""
        roots = self.root if isinstance(self.root, tuple) else (self.root,)
        return tuple(root.expanduser() for root in roots)


def open_images(config: ImagesConfig) -> FileSource:
    """List the images; a frame is named by its path below its root.

    With several roots the name starts with the root's own folder name, and with as many folders
    above it as it takes to tell the roots apart.

    Raises:
        ConfigError: no root, a root inside another, or a folder missing, unreadable or empty.
    """
    # abspath: "." has no name, and a link's own name is what its owner sees
    roots = [Path(os.path.abspath(root)) for root in config.folders()]
    prefixes = _prefixes(roots)
    for root in roots:
        warn_of_splits(root, config)
    found = [
        find_images(root, recursive=True).by_path(prefix)
        for root, prefix in zip(roots, prefixes, strict=True)
    ]
    ids = pa.concat_arrays([each.ids for each in found])
    listing = Listing(ids, joined([each.files for each in found])).ordered()
    return FileSource(choose(listing, config), config.stated())


def open_image_files(paths: Sequence[Path]) -> FileSource:
    """Open single image files as a source; a frame is named as its file.

    Raises:
        ConfigError: two files have one name.
    """
    ids = text_of(path.name for path in paths)
    whole = tuple(PathPattern(str(path), len(path.name), "") for path in paths)
    sizes = pa.array([path.stat().st_size for path in paths], pa.int64())
    files = Files(whole, pa.array(range(len(paths)), pa.int32()), sizes)
    return FileSource(Listing(ids, files).ordered(), ImagesConfig(root=tuple(paths)).stated())


def _prefixes(roots: list[Path]) -> list[str]:
    if not roots:
        raise ConfigError("an images source needs at least one folder in `root`")
    if len(roots) == 1:
        return [""]
    _refuse_overlaps(roots)
    depth = 1
    while len({_tail(root, depth) for root in roots}) < len(roots):
        depth += 1
    return [_tail(root, depth) + "/" for root in roots]


def _tail(root: Path, depth: int) -> str:
    return "/".join(root.parts[1:][-depth:])


def _refuse_overlaps(roots: list[Path]) -> None:
    """Refuse roots that hold the same images."""
    # realpath: unlike resolve() it leaves links in a circle to be named when they are read
    real = [Path(os.path.realpath(root)) for root in roots]
    for (root, here), (other, there) in permutations(zip(roots, real, strict=True), 2):
        if here == there:
            which = f"root {root} is" if root == other else f"roots {root} and {other} are"
            raise ConfigError(f"{which} the same folder given twice; take one out of the list")
        if here.is_relative_to(there):
            raise ConfigError(f"root {root} lies inside root {other}: its images count twice")
