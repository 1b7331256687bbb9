"""Folders of images without labels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from stillroom.stages.settings import Settings
from stillroom.stages.sources.files import FileSource
from stillroom.stages.sources.listing import Listing, find_images, joined
from stillroom.storage_specs.errors import ConfigError


class ImagesConfig(Settings):
    """Every image below one folder or several.

    Attributes:
        root: a folder, or a list of folders; each is read with all its subfolders.
    """

    kind: Literal["images"] = "images"
    root: Path | tuple[Path, ...]

    def folders(self) -> tuple[Path, ...]:
        """The folders that its files lie in."""
        roots = self.root if isinstance(self.root, tuple) else (self.root,)
        return tuple(root.expanduser() for root in roots)

    def stated(self) -> dict[str, Any]:
        """The identity as far as this section alone says it."""
        return {"kind": self.kind, "classes": None}


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
    found = [find_images(root, recursive=True) for root in roots]
    named = [each.by_path(prefix) for each, prefix in zip(found, prefixes, strict=True)]
    ids = pa.concat_arrays([ids for ids, _ in named])
    return FileSource(Listing(ids, joined([files for _, files in named])), config.stated())


def _prefixes(roots: list[Path]) -> list[str]:
    if not roots:
        raise ConfigError("an images source needs at least one folder in `root`")
    if len(roots) == 1:
        return [""]
    # realpath: unlike resolve() it leaves links in a circle to be named when they are read
    real = {root: Path(os.path.realpath(root)) for root in roots}
    for root in roots:
        for other in roots:
            if root is not other and real[root].is_relative_to(real[other]):
                raise ConfigError(f"root {root} lies inside root {other}: its images count twice")
    for depth in range(1, max(len(root.parts) for root in roots) + 1):
        tails = ["/".join(root.parts[1:][-depth:]) for root in roots]
        if len(set(tails)) == len(tails):
            return [tail + "/" for tail in tails]
    raise ConfigError("the same root is given twice")
