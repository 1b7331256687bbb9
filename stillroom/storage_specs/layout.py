"""Names and paths in a cache, and definitions of sets.

Pure functions of their arguments: nothing here reads or writes. docs/storage_format.md,
sections 2 and 3, is the same in prose.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.artifacts import (
    AXIS_LENGTHS,
    FRAMES,
    LABELS,
    TARGETS,
    Artifact,
    artifact_of,
)
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.compressors import compressor_from_dict
from stillroom.storage_specs.errors import ArtifactError, ConfigError
from stillroom.storage_specs.fingerprint import fingerprint, plain
from stillroom.storage_specs.shards.stored_array import StoredArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.storage_specs.codecs.codec import Codec

FORMAT_VERSION = 2
"""The newest; a set that is all of an older one's is written as that, byte for byte."""
KEY = "stillroom"
"""The attribute of a Zarr group or array under which ours stand."""
RESERVED = (FRAMES, LABELS, "manifest")

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
EXTENSION = re.compile(r"\.[0-9a-f]{8}")
"""The suffix of an extension set, after its teacher's name."""

# A reader believes no more than this of a cache that somebody else may have written.
MAX_SHARDS = 1_000_000
MAX_SHARD_FRAMES = 65_536
MAX_FRAME_BYTES = 2**31 - 1  # of one stored array, and Blosc's limit
MAX_SHARD_BYTES = 2**36


@dataclass(frozen=True)
class ArraySpec:
    """One artifact of a set: its shape for one frame and how it is stored.

    Attributes:
        artifact: "logits", "features/penultimate", ...
        attributes: JSON kept with the array, such as {"stride": 4, "classes": [...]}
        tile: rows and columns of the tiles that a frame is cut into; None: it is one chunk
    """

    artifact: str
    shape: tuple[int, ...]
    codec: Codec
    compressor: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    attributes: dict[str, Any] = field(default_factory=dict)
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        kind = artifact_of(self.artifact)
        if kind.layered and "/" not in self.artifact:
            raise ConfigError(f"artifact {self.artifact!r}: name a layer, {self.artifact}/<layer>")
        shape = tuple(int(length) for length in self.shape)
        fixed = [AXIS_LENGTHS.get(axis) for axis in kind.axes]
        fits = len(shape) == len(fixed) and all(
            length > 0 and want in (None, length) for length, want in zip(shape, fixed, strict=True)
        )
        if not fits:
            axes = ", ".join(
                axis if want is None else f"{axis} = {want}"
                for axis, want in zip(kind.axes, fixed, strict=True)
            )
            raise ArtifactError(f"{self.artifact}: expected ({axes}), none empty, got {shape}")
        if self.codec.name not in kind.codecs:
            raise ConfigError(
                f"{self.artifact}: codec {self.codec.name!r} cannot store it; "
                f"known: {', '.join(kind.codecs)}"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "compressor", compressor_from_dict(self.compressor))
        object.__setattr__(self, "attributes", plain(self.attributes, self.artifact))
        if self.tile is not None:
            object.__setattr__(self, "tile", self._checked_tile(*self.tile))

    def _checked_tile(self, rows: int, columns: int) -> tuple[int, int]:
        if not self.kind.has_map:
            raise ConfigError(f"{self.artifact}: no map that could be cut into tiles")
        height, width = (self.shape[self.kind.axes.index(axis)] for axis in "yx")
        if not (1 <= rows <= height and 1 <= columns <= width and rows * columns < height * width):
            raise ConfigError(
                f"{self.artifact}: tile {rows}x{columns}; expected a part of {height}x{width} cells"
            )
        if not self.codec.tileable:
            raise ConfigError(
                f"{self.artifact}: codec {self.codec.name!r} cannot be cut into tiles: it needs "
                "a cell's neighbours, or the whole frame; leave out tile, or use codec byte"
            )
        return int(rows), int(columns)

    @property
    def kind(self) -> Artifact:
        """The artifact behind the name."""
        return artifact_of(self.artifact)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON; `from_dict` reads it."""
        return {
            "artifact": self.artifact,
            "shape": list(self.shape),
            "codec": self.codec.to_dict(),
            "compressor": self.compressor,
            "attributes": self.attributes,
            # only where it is set: fingerprints of caches without tiles stay what they were
            **({} if self.tile is None else {"tile": list(self.tile)}),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ArraySpec:
        """The spec of a `to_dict`."""
        return cls(
            document["artifact"],
            tuple(document["shape"]),
            codec_from_dict(document["codec"]),
            document["compressor"],
            document["attributes"],
            tuple(document["tile"]) if "tile" in document else None,
        )


@dataclass(frozen=True)
class Definition:
    """The definition of a set: the same definition always makes the same bytes.

    Attributes:
        identity: everything outside the cache that the bytes depend on, as JSON
        count: frames of the source; shard k holds frames k*shard_frames and following
    """

    source: str
    name: str
    identity: dict[str, Any]
    count: int
    shard_frames: int
    arrays: tuple[ArraySpec, ...]

    def __post_init__(self) -> None:
        check_names(self.source, self.name)
        for option, value in (("count", self.count), ("shard_frames", self.shard_frames)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{self.source}/{self.name}: {option} = {value}; at least 1")
        if not isinstance(self.identity, dict):
            raise ConfigError(f"{self.source}/{self.name}: its identity is no object")
        if not self.arrays:
            raise ConfigError(f"{self.source}/{self.name}: a set needs at least one array")
        self._check_sizes()
        paths = [stored.path for spec in self.arrays for stored in self.stored(spec)]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ConfigError(f"two arrays would both be stored as {twice[0]}; rename one")
        for spec in self.arrays:
            of_source = spec.kind.made_by == "source"
            if not (of_source or spec.kind.target) if self.name == FRAMES else of_source:
                raise ConfigError(
                    f"{spec.artifact} does not belong into the set {self.name!r}: "
                    f"frames and what labels them ({', '.join(TARGETS)}) make up the set 'frames'"
                )
        object.__setattr__(self, "identity", plain(self.identity))

    def _check_sizes(self) -> None:
        """Refuse what no reader may be asked to hold (ConfigError)."""
        limits = [
            ("shards", -(-self.count // self.shard_frames), MAX_SHARDS),
            ("frames a shard", self.shard_frames, MAX_SHARD_FRAMES),
        ]
        for spec in self.arrays:
            for stored in self.stored(spec):
                each = stored.frame_bytes
                limits.append((f"bytes a frame of {spec.artifact}", each, MAX_FRAME_BYTES))
                whole = each * min(self.shard_frames, self.count)
                limits.append((f"bytes a shard of {spec.artifact}", whole, MAX_SHARD_BYTES))
        for what, value, limit in limits:
            if value > limit:
                raise ConfigError(f"{self.source}/{self.name}: {value:,} {what}; at most {limit:,}")

    def stored(self, spec: ArraySpec) -> tuple[StoredArray, ...]:
        """The Zarr arrays of one artifact: its values first, then the codec's side arrays."""
        path = f"{set_folder(self.source, self.name)}/{spec.artifact}"
        about = {"artifact": spec.artifact, "codec": spec.codec.to_dict()}
        values = StoredArray(
            path=path,
            artifact=spec.artifact,
            shape=spec.codec.stored_shape(spec.shape),
            dtype=spec.codec.stored,
            fill=spec.kind.fill_value,
            compressor=spec.compressor,
            axes=spec.kind.axes,
            attributes={**about, "role": "values", **spec.attributes},
            tile=spec.tile,
        )
        sides = [
            StoredArray(
                path=f"{path}_{suffix}",
                artifact=spec.artifact,
                shape=shape,
                dtype="<f4",
                fill=0,
                compressor={"name": "none"},
                axes=spec.kind.axes[: len(shape)],
                attributes={**about, "role": suffix},
            )
            for suffix, shape in spec.codec.side_shapes(spec.shape).items()
        ]
        return (values, *sides)

    def bare_groups(self) -> list[str]:
        """Paths of the groups without attributes that the set's own group and arrays lie in."""
        folder = set_folder(self.source, self.name)
        paths = [] if self.name == FRAMES else [self.source]
        for spec in self.arrays:
            above = f"{folder}/{spec.artifact}".rpartition("/")[0]
            if above != folder and above not in paths:
                paths.append(above)
        return paths

    def folders(self) -> list[str]:
        """Paths of every folder that files of the set lie in."""
        arrays = [stored.path for spec in self.arrays for stored in self.stored(spec)]
        return [set_folder(self.source, self.name), part_folder(self.source, self.name), *arrays]

    @property
    def version(self) -> int:
        """The first version of the format whose readers know the set: 2 of further targets."""
        held = {spec.artifact for spec in self.arrays}
        return 2 if self.name == FRAMES and held - {FRAMES, LABELS} else 1

    def layout(self) -> dict[str, Any]:
        """The cache's own part of the identity."""
        return {
            "format_version": self.version,
            "count": self.count,
            "shard_frames": self.shard_frames,
            "arrays": {spec.artifact: spec.to_dict() for spec in self.arrays},
        }

    @property
    def fingerprint(self) -> str:
        """sha256 over the identity and the layout."""
        return fingerprint({"identity": self.identity, "layout": self.layout()})

    @property
    def fingerprints(self) -> dict[str, str]:
        """sha256 over the identity and the layout of each artifact alone."""
        layout = self.layout()
        return {
            name: fingerprint(
                {"identity": self.identity, "layout": {**layout, "arrays": {name: of}}}
            )
            for name, of in layout["arrays"].items()
        }

    def document(self) -> dict[str, Any]:
        """The set's group attributes, as JSON."""
        return {
            "set": self.name,
            "source": self.source,
            "identity": self.identity,
            "layout": self.layout(),
            "fingerprint": self.fingerprint,
            "fingerprints": self.fingerprints,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Definition:
        """The definition of a `document`; KeyError, TypeError or ValueError where it is none."""
        layout = document["layout"]
        return cls(
            source=document["source"],
            name=document["set"],
            identity=document["identity"],
            count=layout["count"],
            shard_frames=layout["shard_frames"],
            arrays=tuple(ArraySpec.from_dict(spec) for spec in layout["arrays"].values()),
        )


def check_names(source: str, name: str) -> None:
    """Refuse a source's or a set's name that the layout has no room for (ConfigError)."""
    for what, value, reserved in (
        ("source", source, RESERVED),
        ("set", name, tuple(word for word in RESERVED if word != FRAMES)),
    ):
        whole = value
        if what == "set" and (place := EXTENSION.search(value)) and teacher_of(value) != FRAMES:
            value = value[: place.start()] if place.end() == len(value) else value
        if not NAME.fullmatch(value):
            raise ConfigError(
                f"{what} name {whole!r}: use a-z, 0-9, '_' and '-', a letter or digit first"
            )
        if value in reserved:
            raise ConfigError(f"{what} name {whole!r} is reserved; choose another")


def teacher_of(set_name: str) -> str:
    """Return the teacher of a set: of its own, or of an extension `<teacher>.<8 hex digits>`."""
    return set_name.partition(".")[0]


def extension_name(teacher: str, identity: Mapping[str, Any]) -> str:
    """The name of a set that holds more artifacts of a teacher; it follows from its identity."""
    return f"{teacher}.{fingerprint(identity)[:8]}"


def set_folder(source: str, name: str) -> str:
    """Path of a set's Zarr group: the frames lie directly in the source's."""
    return source if name == FRAMES else f"{source}/{name}"


def part_folder(source: str, name: str) -> str:
    """Path of the folder of a set's manifest parts."""
    return f"manifest/{source}/{name}"


def part_path(source: str, name: str, shard: int) -> str:
    """Path of one shard's manifest part."""
    return f"{part_folder(source, name)}/{shard:05d}.parquet"


def catalogue_path(source: str, name: str) -> str:
    """Path of the copy of a set's rows in one file."""
    return f"manifest/{source}/{name}.catalogue"


def group_json(attributes: Mapping[str, Any]) -> bytes:
    """Return the zarr.json of a group with these attributes under "stillroom"; none: bare."""
    own = {KEY: dict(attributes)} if attributes else {}
    document = {"zarr_format": 3, "node_type": "group", "attributes": own}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
