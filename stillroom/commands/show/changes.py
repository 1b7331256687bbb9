"""What was made out of a cache, as text: another tier, a copy, codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.commands.quantities import place, size
from stillroom.commands.show.grid import grid

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from stillroom.pipeline.cache_tools.adapt import CodeReport
    from stillroom.pipeline.cache_tools.copy_cache import SetCopied
    from stillroom.pipeline.cache_tools.transcode import SetTranscoded


def transcoded(out: str, found: list[SetTranscoded]) -> list[RenderableType]:
    """Lay out what was written, set by set."""
    rows = (
        (f"{one.source}/{one.set_name}", one.shards, one.already, one.waiting,
         size(one.bytes_before), size(one.bytes_after), one.fingerprint[:12])
        for one in found
    )  # fmt: skip
    columns = "set", "shards", "already", "waiting", "before", "after", "fingerprint"
    parts: list[RenderableType] = [grid(columns, rows)]
    for one in found:
        name = f"{one.source}/{one.set_name}"
        parts += [f"{name}/{artifact}: {a} -> {b}" for artifact, (a, b) in one.codecs.items()]
        parts += [f"{name}/{note}" for note in one.notes]
    if any(one.waiting for one in found):
        parts.append("shards wait for frames that the source has not cached: build, run it again")
    return [*parts, f"written: {place(out)}"]


def copied(out: str, found: list[SetCopied]) -> list[RenderableType]:
    """Lay out what was copied, set by set."""
    rows = (
        (f"{one.source}/{one.set_name}", one.shards, one.already, one.missing, size(one.bytes))
        for one in found
    )
    return [
        grid(("set", "shards", "already", "missing", "bytes"), rows),
        f"copied, every object checked by its sha256: {place(out)}",
    ]


def adapted(path: Path | str, found: list[CodeReport]) -> list[RenderableType]:
    """Lay out the code of each teacher: how much it keeps, how small it is, what was written."""
    parts: list[RenderableType] = []
    for one in found:
        parts += ["", *_code(one)] if parts else _code(one)
    written = sum(source.shards for one in found for source in one.sources)
    return [
        *parts,
        f"written: {place(path)}" if written else f"nothing to do: all codes are in {place(path)}",
    ]


def _code(one: CodeReport) -> list[RenderableType]:
    how = "trained now" if one.trained else "trained before"
    parts: list[RenderableType] = [
        f"{one.teacher}/{one.code} of {one.features}, auto-encoder {how} ({one.weights[:12]})"
    ]
    if one.measures is not None:
        measures = one.measures
        parts.append(
            f"loses {measures.relative_mse:.2%} of the features' variance in "
            f"{measures.code_numbers:,} numbers a frame; a PCA of each position's channels "
            f"{measures.pca_relative_mse:.2%} in {measures.pca_numbers:,} "
            f"({measures.pca_components} a position); on {measures.frames} frames"
        )
        if not measures.beats_pca:
            parts.append(
                "the PCA loses less: train longer, as with --set "
                f"adapt.{one.teacher}.beat_pca=true, under another name or into another cache"
            )
    rows = (
        (f"{of.source}/{one.set_name}", of.frames, of.bad, of.shards, of.already,
         size(of.features_bytes), size(of.code_bytes), of.fingerprint[:12])
        for of in one.sources
    )  # fmt: skip
    columns = "set", "frames", "bad", "shards", "already", "features", "code", "fingerprint"
    return [*parts, grid(columns, rows)]
