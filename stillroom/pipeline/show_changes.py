"""Reports of what was made out of a cache: another tier, a copy, more of the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.show import Shown, grid
from stillroom.pipeline.units import size

if TYPE_CHECKING:
    from stillroom.pipeline.copy_cache import SetCopied
    from stillroom.pipeline.transcode import SetTranscoded


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
