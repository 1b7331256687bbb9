"""Reports of what was made out of a cache: another tier, a copy."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stillroom.commands.quantities import size
from stillroom.commands.show.reports import Shown, grid

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.pipeline.cache_tools.adapt import CodeReport
    from stillroom.pipeline.cache_tools.copy_cache import SetCopied
    from stillroom.pipeline.cache_tools.transcode import SetTranscoded


def transcoded(out: str, found: list[SetTranscoded]) -> Shown:
    """What was written, set by set."""
    table = grid("set", "shards", "already", "waiting", "before", "after", "fingerprint")
    for one in found:
        table.add_row(
            f"{one.source}/{one.set_name}",
            f"{one.shards}",
            f"{one.already}",
            f"{one.waiting}",
            size(one.bytes_before),
            size(one.bytes_after),
            one.fingerprint[:12],
        )
    parts: list[Any] = [table]
    for one in found:
        name = f"{one.source}/{one.set_name}"
        for artifact, (before, after) in one.codecs.items():
            parts.append(f"{name}/{artifact}: {before} -> {after}")
        parts += [f"{name}/{note}" for note in one.notes]
    if any(one.waiting for one in found):
        parts.append("shards wait for frames that the source has not cached: build, run it again")
    parts.append(f"written: {out}")
    return Shown(parts, {"cache": str(out), "sets": [asdict(one) for one in found]})


def copied(out: str, found: list[SetCopied]) -> Shown:
    """What was copied, set by set."""
    table = grid("set", "shards", "already", "missing", "bytes")
    for one in found:
        counts = (f"{one.shards}", f"{one.already}", f"{one.missing}", size(one.bytes))
        table.add_row(f"{one.source}/{one.set_name}", *counts)
    parts: list[Any] = [table, f"copied, every object checked by its sha256: {out}"]
    return Shown(parts, {"cache": str(out), "sets": [asdict(one) for one in found]})


def adapted(path: Path | str, found: list[CodeReport]) -> Shown:
    """The code of each teacher: how much it keeps, how small it is, what was written."""
    parts: list[Any] = []
    for one in found:
        parts += ["", *_code(one)] if parts else _code(one)
    written = sum(source.shards for one in found for source in one.sources)
    parts.append(f"written: {path}" if written else f"nothing to do: all codes are in {path}")
    return Shown(parts, {"cache": str(path), "codes": [asdict(one) for one in found]})


def _code(one: CodeReport) -> list[Any]:
    how = "trained now" if one.trained else "trained before"
    parts: list[Any] = [
        f"{one.teacher}/{one.code} of {one.features}, auto-encoder {how} ({one.weights[:12]})"
    ]
    if one.measures is not None:
        measures = one.measures
        parts.append(
            f"loses {measures.relative_mse:.2%} of the features' variance in "
            f"{measures.code_numbers:,} numbers a frame; a PCA of each cell's channels "
            f"{measures.pca_relative_mse:.2%} in {measures.pca_numbers:,} "
            f"({measures.pca_components} a cell); on {measures.frames} frames"
        )
        if measures.relative_mse > measures.pca_relative_mse:
            parts.append(
                f"the PCA loses less: train longer, as with --set adapt.{one.teacher}.epochs=10, "
                "under another name or into another cache"
            )
    table = grid("set", "frames", "bad", "shards", "already", "features", "code", "fingerprint")
    for source in one.sources:
        table.add_row(
            f"{source.source}/{one.set_name}",
            f"{source.frames}",
            f"{source.bad}",
            f"{source.shards}",
            f"{source.already}",
            size(source.features_bytes),
            size(source.code_bytes),
            source.fingerprint[:12],
        )
    return [*parts, table]
