"""Videos of a depth camera: a folder of colour images, and one of depth maps for some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import pyarrow.compute as pc
from pydantic import Field, model_validator

from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.clips import times_from_names
from stillroom.stages.sources.depth_files import DEPTH_SUFFIXES, DepthFiles
from stillroom.stages.sources.file_source import FileSource, TargetReader
from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.normals_of_depth import FIT, Camera, NormalsOfDepth
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.artifacts import DEPTH, NORMALS


class RgbdConfig(FileSettings):
    """Colour images and depth maps of the same name, seen by one camera.

    Attributes:
        root: the folder of both.
        images, depth: their folders below it.
        image_ending, depth_ending: of names, dropped before they pair: ".color" and ".depth" where
            both lie in one folder.
        unit: metres that a value of 1 stands for; left out, a millimetre in files of integers, a
            metre in files of floating-point numbers.
        near, far: metres; readings outside are none.
        camera: (fx, fy, cx, cy) in pixels of the images; given, frames have normals too, of planes
            fitted to their depth.
    """

    kind: Literal["rgbd"] = "rgbd"
    root: Path
    images: str = "color"
    depth: str = "depth"
    image_ending: str = ""
    depth_ending: str = ""
    unit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    near: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    far: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    camera: Camera | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.near >= self.far:
            raise ValueError(f"near {self.near:g} must be below far {self.far:g}, in metres")
        if (self.images, self.image_ending) == (self.depth, self.depth_ending):
            raise ValueError("images and depth maps are the same files; tell them by an ending")
        if self.camera is not None and min(self.camera.fx, self.camera.fy) <= 0:
            raise ValueError("camera: expected fx, fy, cx, cy in pixels, with fx and fy above 0")
        return self

    def folders(self) -> tuple[Path, ...]:
        """Return the folders of images and of depth maps."""
        root = self.root.expanduser()
        return tuple(dict.fromkeys((root / self.images, root / self.depth)))

    def depth_files(self) -> DepthFiles:
        """Return how depth maps are read."""
        return DepthFiles(self.unit, self.near, self.far)

    def further_targets(self) -> tuple[str, ...]:
        """Return depth and, of a camera that is known, normals."""
        return (DEPTH,) if self.camera is None else (DEPTH, NORMALS)

    def stated(self) -> dict[str, Any]:
        """Return kind, draw, and how depth maps are read."""
        targets: dict[str, Any] = {DEPTH: self.depth_files().stated()}
        if self.camera is not None:
            targets[NORMALS] = {"camera": list(self.camera), "fit": FIT}
        return {**super().stated(), "targets": targets}


def open_rgbd(config: RgbdConfig) -> FileSource:
    """List the images; a frame is named by its path below their folder, ending dropped.

    Its clip is the folder that it lies in, its time as in a source of clips. A depth map without an
    image is passed over.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, two frames of a clip have one time,
            or no frame has a depth map.
    """
    folders = config.folders()
    frames = find_images(folders[0], recursive=True).by_stem(config.image_ending)
    maps = find_images(folders[-1], recursive=True, suffixes=DEPTH_SUFFIXES)
    depths = frames.labels_from(maps.by_stem(config.depth_ending), label="depth map")
    files = dict.fromkeys(config.further_targets(), depths)
    listing = Listing(frames.ids, frames.files, targets=files).ordered()
    # of frames in no folder of their own: that of all images
    clips = pc.replace_substring_regex(listing.ids, r"^[^/]*$", f"{config.images}/")
    clips = pc.replace_substring_regex(clips, r"/[^/]*$", "")
    listing = choose(listing.by_clip_and_time(clips, times_from_names(listing.ids, clips)), config)
    readers: dict[str, TargetReader] = {DEPTH: config.depth_files()}
    if config.camera is not None:
        readers[NORMALS] = NormalsOfDepth(config.depth_files(), config.camera)
    return FileSource(listing, config.stated(), sparse=True, targets=readers)
