"""`cache info` and `cache preview`: what a cache holds, in numbers and in pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.run_file import load_run
from stillroom.pipeline.targets import FRAMES
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.files.objects import place_of
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.manifest import PairRow, bad_rows
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.storage_specs.fidelity import Fidelity
    from stillroom.storage_specs.store import ArtifactSet


@dataclass(frozen=True)
class SetInfo:
    """One artifact set in numbers.

    arrays: name -> (shape, codec)
    bytes: encoded bytes by array
    bad: reason by frame_id
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
    mean_confidence: float | None
    fidelity: Fidelity

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {**self.__dict__, "arrays": {k: list(v) for k, v in self.arrays.items()}}


def cache_folder(place: str | Path, overrides: Sequence[str] = ()) -> Path | str:
    """A cache's folder or URL, given as itself or by the run file that builds it.

    Raises:
        ConfigError: the run file has faults, or overrides were given without one.
    """
    path = place_of(place)
    if isinstance(path, Path) and path.suffix == ".toml":
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
        mean_confidence=float(np.mean(confidences)) if confidences else None,
        fidelity=target.fidelity(),
    )


def draw_preview(folder: Path | str, source: str | None, frames: int, out: Path) -> list[Path]:
    """A contact sheet for every (source, teacher) of a cache: OUT, or OUT with the names added.

    Raises:
        CacheIncomplete: nothing is committed that could be drawn.
        ConfigError: there is no such source in the cache.
    """
    cache = Cache.open(folder)
    sets = [(name, teacher_of(of)) for name, of in cache.sets() if of != FRAMES]
    pairs = list(dict.fromkeys(sets))  # a teacher's extension sets are drawn with its own
    known = sorted({name for name, _ in cache.sets()})
    if source is not None and source not in known:
        raise ConfigError(f"no source {source!r} in {folder}; it holds {', '.join(known)}")
    pairs = [pair for pair in pairs if source in (None, pair[0])]
    if not pairs:
        raise CacheIncomplete(
            f"{folder} holds no teacher's artifacts to draw; run `stillroom cache build RUN.toml`"
        )
    drawn = []
    for name, teacher in pairs:
        path = out if len(pairs) == 1 else out.with_stem(f"{out.stem}-{name}-{teacher}")
        _draw(cache, name, teacher, frames, path)
        drawn.append(path)
    return drawn


def _draw(cache: Cache, source: str, teacher: str, frames: int, path: Path) -> None:
    from stillroom.stages.evaluate.contact_sheet import CacheRow, contact_sheet

    said = cache.teacher_sets(source, teacher)
    if (source, FRAMES) not in cache.sets():
        raise CacheIncomplete(
            f"{source}: the cache keeps no frames to draw; build with cache.frames = true"
        )
    kept = cache.artifact_set(source, FRAMES)
    usable = reduce(np.intersect1d, [one.usable() for one in (kept, *said)])
    if not len(usable):
        raise CacheIncomplete(f"{source}/{teacher}: no frame is committed yet; run `cache build`")
    chosen = usable[np.linspace(0, len(usable) - 1, min(frames, len(usable))).round().astype(int)]
    about = {row["index"]: row for row in kept.rows().to_pylist()}

    holders = {artifact: one for one in (*said[::-1], kept) for artifact in one.arrays}
    specs = {artifact: one.arrays[artifact] for artifact, one in holders.items()}

    def read(artifact: str, index: int) -> Any:
        return holders[artifact].read(artifact, index) if artifact in holders else None

    grids = [specs[name] for name in ("logits", "confidence") if name in specs]
    rows = [
        CacheRow(
            frame_id=about[index]["frame_id"],
            image=kept.read("frames", index),
            label=read("labels", index),
            logits=read("logits", index),
            confidence=read("confidence", index),
            pseudo_label=read("pseudo_label", index),
            stride=grids[0].attributes["stride"] if grids else 1,
            valid=(about[index]["valid_height"], about[index]["valid_width"]),
        )
        for index in chosen.tolist()
    ]
    named = [list(spec.attributes["classes"]) for one in said for spec in one.arrays.values()
             if "classes" in spec.attributes]  # fmt: skip
    of = holders.get("pseudo_label", said[0])
    threshold = of.identity.get("pseudo_label", {}).get("threshold")
    contact_sheet(
        path,
        rows,
        named[0] if named else [str(number) for number in range(255)],
        threshold=threshold,
        title=f"{teacher} on {source}",
    )
