"""`cache info`: what a cache holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.files.object_store import place_of
from stillroom.storage_specs.manifest import PairRow, bad_labels, bad_rows
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.fidelity import Fidelity


@dataclass(frozen=True)
class SetInfo:
    """One artifact set in numbers.

    Attributes:
        arrays: name -> (shape, codec)
        bytes: encoded bytes by array
        bad: reason by frame_id
        bad_labels: reason by frame_id, of frames that can be used, but for their labels
        fidelity: worst error and divergences by array, as measured on a few frames of every shard
    """

    source: str
    set_name: str
    frames: int
    committed_frames: int
    shards: int
    committed_shards: int
    fingerprint: str
    arrays: dict[str, tuple[str, str]]
    bytes: dict[str, int]
    bad: dict[str, str]
    bad_labels: dict[str, str]
    mean_confidence: float | None
    fidelity: Fidelity

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
        return {**self.__dict__, "arrays": {k: list(v) for k, v in self.arrays.items()}}


def cache_folder(place: str | Path, overrides: Sequence[str] = ()) -> Path | str:
    """A cache's folder or URL, given as itself or by the run file that builds it.

    Raises:
        ConfigError: the run file has faults, or overrides were given without one.
    """
    path = place_of(place)
    if isinstance(path, Path) and path.suffix == ".toml":
        # Run files name networks; a cache by itself is read without torch.
        from stillroom.pipeline.run_file.loading import load_run

        return load_run(path, overrides).cache.path
    if overrides:
        raise ConfigError(f"{path}: --set changes a run file, and this is a cache")
    return path


def describe_cache(folder: Path | str) -> list[SetInfo]:
    """Every artifact set of a cache.

    Raises:
        CacheIncomplete: there is no cache in this folder.
    """
    cache = Cache.open(folder)
    return [_describe(cache.artifact_set(source, name)) for source, name in cache.sets()]


def _describe(target: ArtifactSet) -> SetInfo:
    rows = target.rows()
    bad = {
        f"{row.frame_id} > {row.partner}" if isinstance(row, PairRow) else row.frame_id: row.reason
        for row in bad_rows(rows)
    }
    confidences = [value for value in rows["confidence"].to_pylist() if value is not None]
    return SetInfo(
        source=target.source,
        set_name=target.name,
        frames=target.count,
        committed_frames=rows.num_rows,
        shards=target.shards,
        committed_shards=len(target.committed()),
        fingerprint=target.fingerprint,
        arrays={
            name: ("x".join(str(side) for side in spec.shape), spec.codec.name)
            for name, spec in target.arrays.items()
        },
        bytes=target.sizes(),
        bad=bad,
        bad_labels={row.frame_id: row.reason for row in bad_labels(rows)},
        mean_confidence=float(np.mean(confidences)) if confidences else None,
        fidelity=target.fidelity(),
    )
