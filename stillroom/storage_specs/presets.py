"""Presets: three packaged choices of codecs, and a run file's changes to them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.artifacts import artifact_of
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.compressors import compressor_from_dict
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.storage_specs.codecs.codec import Codec

PRESETS = ("fast", "compact", "exact")
MAX_SHARD_FRAMES = 4096


@dataclass(frozen=True)
class Storage:
    """The storage of one artifact: quantised by `codec`, then compressed without loss."""

    codec: Codec
    compressor: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"codec": self.codec.to_dict(), "compressor": self.compressor}


@dataclass(frozen=True)
class Preset:
    """A preset with a run's changes applied.

    Attributes:
        storages: by artifact, or by artifact and layer ("features/penultimate") where a run sets it
    """

    name: str
    shard_frames: int
    storages: dict[str, Storage]

    def storage(self, artifact: str) -> Storage:
        """Return the storage of this artifact; a layer's own entry precedes that of all layers.

        Raises:
            ConfigError: no such artifact.
        """
        return self.storages.get(artifact) or self.storages[artifact_of(artifact).name]


def load_preset(
    name: str, overrides: Mapping[str, Any] | None = None, shard_frames: int | None = None
) -> Preset:
    """Read a packaged preset and apply a run's changes.

    Args:
        overrides: artifact -> {"codec": ..., "compressor": ...}, either may be left out and either
            may be a bare name
        shard_frames: in place of the preset's

    Raises:
        ConfigError: an unknown preset, artifact, key, codec or compressor.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    package = resources.files("stillroom.storage_specs")
    text = (package / "presets" / f"{name}.toml").read_text(encoding="utf8")
    document = tomllib.loads(text)
    frames = document.pop("shard_frames")
    storages = {artifact: _storage(artifact, given, None) for artifact, given in document.items()}
    frames = _shard_frames(frames if shard_frames is None else shard_frames)
    for artifact, given in (overrides or {}).items():
        usual = storages.get(artifact) or storages[artifact_of(artifact).name]
        storages[artifact] = _storage(artifact, given, usual)
    return Preset(name, frames, storages)


def _storage(artifact: str, given: Any, usual: Storage | None) -> Storage:
    kind = artifact_of(artifact)
    if isinstance(given, str):
        given = {"codec": given}
    if not isinstance(given, dict):
        raise ConfigError(f"{artifact}: expected a codec and a compressor, got {given!r}")
    for key in given:
        if key not in ("codec", "compressor"):
            near = get_close_matches(key, ("codec", "compressor"), n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{artifact}: unknown key {key!r}; {hint}known: codec, compressor")
    codec = codec_from_dict(given["codec"]) if "codec" in given or not usual else usual.codec
    if codec.name not in kind.codecs:
        raise ConfigError(
            f"{artifact}: codec {codec.name!r} cannot store it; known: {', '.join(kind.codecs)}"
        )
    compressor = (
        compressor_from_dict(given["compressor"])
        if "compressor" in given or not usual
        else usual.compressor
    )
    return Storage(codec, compressor)


def _shard_frames(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SHARD_FRAMES:
        raise ConfigError(f"shard_frames = {value!r}; expected 1 to {MAX_SHARD_FRAMES}")
    return value
