"""`cache preview`: pictures of what a cache holds."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.cache_tools.sample import evenly
from stillroom.storage_specs.artifacts import (
    ARTIFACTS,
    FLOW,
    FRAMES,
    IGNORE,
    LABELS,
    LOGITS,
    PSEUDO_LABEL,
    artifact_of,
)
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import BUILD, Cache

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.pictures.sheet import FrameRow
    from stillroom.storage_specs.artifact_set import ArtifactSet

NOTE = "the three of most variance, red, green and blue"


def draw_preview(folder: Path | str, source: str | None, frames: int, out: Path) -> list[Path]:
    """Draw a sheet for every (source, teacher or flow model) of a cache; return their paths.

    A source that no teacher looked at is drawn by itself if it has targets other than labels.

    Args:
        out: of one sheet; the names of several are added to it

    Raises:
        CacheIncomplete: nothing is committed that could be drawn.
        ConfigError: there is no such source in the cache.
    """
    cache = Cache.open(folder)
    sets = [(name, teacher_of(of)) for name, of in cache.sets() if of != FRAMES]
    sets += [pair for pair in cache.sets() if pair[1] == FRAMES and _alone(cache, pair[0], sets)]
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
        draw = _draw_flow if FLOW in cache.artifact_set(name, teacher).arrays else _draw_frames
        draw(cache, name, teacher, frames, path)
        drawn.append(path)
    return drawn


def _alone(cache: Cache, source: str, drawn: list[tuple[str, str]]) -> bool:
    """Tell whether a source has targets other than labels, which no sheet of a teacher shows."""
    if any(source == name for name, _ in drawn):
        return False
    return bool(cache.artifact_set(source, FRAMES).arrays.keys() - {FRAMES, LABELS})


def _draw_flow(cache: Cache, source: str, model: str, frames: int, path: Path) -> None:
    """Draw some pairs, spread evenly, each as two frames, the flow, and what it hides."""
    from stillroom.stages.pictures.pair_sheets import FramePair, flow_sheet, visible_pixels

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
    pairs = []
    for row in evenly(drawn, frames):
        there = flow.read(FLOW, row["index"])
        back = row_of.get((row["partner"], row["frame_id"]))
        pairs.append(
            FramePair(
                frame_id=f"{row['frame_id']} > {row['partner']}",
                image=kept.read(FRAMES, place[row["frame_id"]]),
                other=kept.read(FRAMES, place[row["partner"]]),
                flow=there,
                visible=None if back is None else visible_pixels(there, flow.read(FLOW, back)),
            )
        )
    flow_sheet(path, pairs, title=f"{model} on {source}")


def _draw_frames(cache: Cache, source: str, teacher: str, frames: int, path: Path) -> None:
    """Draw some frames, spread evenly, a column for each artifact."""
    from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet

    kept = cache.artifact_set(source, FRAMES)
    sets = [] if teacher == FRAMES else cache.teacher_sets(source, teacher)
    usable = reduce(np.intersect1d, [one.usable() for one in (kept, *sets)])
    if not len(usable):
        raise CacheIncomplete(f"{source}/{teacher}: no frame is committed yet; {BUILD}")
    about = {row["index"]: row for row in kept.rows().to_pylist()}
    held = {name: one for one in sets[::-1] for name in one.arrays}
    holders = [*((name, kept) for name in kept.arrays if name != FRAMES), *held.items()]
    holders.sort(key=lambda each: [*ARTIFACTS].index(artifact_of(each[0]).name))
    classes, label_places = _classes(kept, sets)
    names = [f"true {name}" if one is kept and name in held else name for name, one in holders]

    def cell(name: str, holder: ArtifactSet, index: int) -> Cell:
        stride = holder.arrays[name].attributes.get("stride", 1)
        array = holder.read(name, index)
        if name == LABELS:
            array = label_places[array]
        return Cell(artifact_of(name).picture, array, stride=stride)

    rows = [
        FrameRow(
            frame_id=about[index]["frame_id"],
            image=kept.read(FRAMES, index),
            cells=[cell(*holder, index) for holder in holders],
            valid=(about[index]["valid_height"], about[index]["valid_width"]),
        )
        for index in evenly(usable.tolist(), frames)
    ]
    coloured, rows = _with_components(holders, rows)
    identity = held.get(PSEUDO_LABEL, kept).identity
    sheet = Sheet(
        f"{teacher} on {source}",
        ("frame", *names, *coloured),
        rows,
        classes,
        threshold=identity.get(PSEUDO_LABEL, {}).get("threshold"),
    )
    sheet.save(path)


def _with_components(
    holders: list[tuple[str, ArtifactSet]], rows: list[FrameRow]
) -> tuple[list[str], list[FrameRow]]:
    """Add a column for each map of channels, in colours; return the titles of these, and rows."""
    from stillroom.stages.pictures.components import component_pictures
    from stillroom.stages.pictures.sheet import Cell

    titles = []
    for place, (name, _) in enumerate(holders):
        if artifact_of(name).picture != "channels":
            continue
        cells = [row.cells[place] for row in rows]
        painted = component_pictures(
            [cell.array for cell in cells if cell.array is not None],
            [row.shown for row in rows],
            cells[0].stride,
        )
        titles.append(f"{name}: components")
        rows = [
            replace(row, cells=[*row.cells, Cell("painting", one, note=NOTE)])
            for row, one in zip(rows, painted, strict=True)
        ]
    return titles, rows


def _classes(
    kept: ArtifactSet, sets: list[ArtifactSet]
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return the classes of a sheet: the teacher's, and those of labels that it does not have.

    Returns:
        names, and (256,) the place among them of each value of a label
    """
    own = () if LABELS not in kept.arrays else tuple(kept.arrays[LABELS].attributes["classes"])
    arrays = [spec for one in sets for spec in one.arrays.values()]
    counts = [spec.shape[0] for spec in arrays if spec.artifact == LOGITS]
    count = counts[0] if counts else len(own) or IGNORE
    unnamed = own if len(own) == count else tuple(map(str, range(count)))
    stated: list[Any] = [spec.attributes["classes"] for spec in arrays
                         if "classes" in spec.attributes]  # fmt: skip
    names = tuple(stated[0]) if stated else unnamed
    both = (*names, *(name for name in own if name not in names))
    places = np.arange(256, dtype=np.uint8)
    if len(both) > IGNORE:  # more than a byte tells apart
        return names, places
    places[: len(own)] = [both.index(name) for name in own]
    return both, places
