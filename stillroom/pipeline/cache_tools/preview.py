"""`cache preview`: pictures of what a cache holds."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.artifacts import FLOW, FRAMES
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import BUILD, Cache

if TYPE_CHECKING:
    from pathlib import Path


def draw_preview(folder: Path | str, source: str | None, frames: int, out: Path) -> list[Path]:
    """A sheet for every (source, teacher or model of motion) of a cache: OUT, or names added to it.

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
        raise CacheIncomplete(f"{folder} holds no teacher's artifacts to draw; {BUILD}")
    drawn = []
    for name, teacher in pairs:
        path = out if len(pairs) == 1 else out.with_stem(f"{out.stem}-{name}-{teacher}")
        if (name, FRAMES) not in cache.sets():
            raise CacheIncomplete(
                f"{name}: the cache keeps no frames to draw; build with cache.frames = true"
            )
        draw = _draw_motion if FLOW in cache.artifact_set(name, teacher).arrays else _draw_frames
        draw(cache, name, teacher, frames, path)
        drawn.append(path)
    return drawn


def _draw_motion(cache: Cache, source: str, model: str, frames: int, path: Path) -> None:
    """Some pairs, spread evenly, each as two frames, the flow, and what it hides."""
    from stillroom.stages.pictures.flow_sheet import FlowRow, flow_sheet, visible_pixels

    flow, kept = cache.artifact_set(source, model), cache.artifact_set(source, FRAMES)
    place = {frame_id: index for index, frame_id in enumerate(kept.rows()["frame_id"].to_pylist())}
    usable = set(kept.usable().tolist())
    about = [
        row
        for row in flow.rows().to_pylist()
        if row["status"] == "ok"
        and {place.get(row["frame_id"]), place.get(row["partner"])} <= usable
    ]
    if not about:
        raise CacheIncomplete(f"{source}/{model}: no pair is committed yet; {BUILD}")
    row_of = {(row["frame_id"], row["partner"]): row["index"] for row in about}
    drawn = [row for row in about if row["draw"] is not None] or about
    chosen = np.linspace(0, len(drawn) - 1, min(frames, len(drawn))).round().astype(int)
    rows = []
    for row in (drawn[number] for number in chosen):
        there = flow.read(FLOW, row["index"])
        back = row_of.get((row["partner"], row["frame_id"]))
        rows.append(
            FlowRow(
                frame_id=f"{row['frame_id']} > {row['partner']}",
                image=kept.read("frames", place[row["frame_id"]]),
                other=kept.read("frames", place[row["partner"]]),
                flow=there,
                visible=None if back is None else visible_pixels(there, flow.read(FLOW, back)),
            )
        )
    flow_sheet(path, rows, title=f"{model} on {source}")


def _draw_frames(cache: Cache, source: str, teacher: str, frames: int, path: Path) -> None:
    """Some frames, spread evenly, with what a teacher says of each."""
    from stillroom.stages.pictures.contact_sheet import CacheRow, contact_sheet

    said, kept = cache.teacher_sets(source, teacher), cache.artifact_set(source, FRAMES)
    usable = reduce(np.intersect1d, [one.usable() for one in (kept, *said)])
    if not len(usable):
        raise CacheIncomplete(f"{source}/{teacher}: no frame is committed yet; {BUILD}")
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
