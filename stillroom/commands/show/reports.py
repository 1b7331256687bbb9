"""Reports as a person reads them (rich) and as a program reads them (one JSON document)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from stillroom.commands.quantities import duration, size

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from stillroom.pipeline.build.estimate import BuildEstimate
    from stillroom.pipeline.build.report import BuildReport
    from stillroom.pipeline.cache_tools.info import SetInfo
    from stillroom.pipeline.cache_tools.verify import SetVerdict


@dataclass(frozen=True)
class Shown:
    """A report, twice: `parts` for rich, `document` for --json."""

    parts: list[Any]
    document: dict[str, Any]


def grid(*columns: str) -> Table:
    """A plain table: words left, numbers right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    return table


def array_name(source: str, set_name: str, artifact: str) -> str:
    """Where an array lies below the cache's folder."""
    return f"{source}/{artifact}" if set_name == "frames" else f"{source}/{set_name}/{artifact}"


def estimate(plan: BuildEstimate) -> Shown:
    """What a build would write and how long it would take."""
    table = grid("set", "frames", "shards", "bytes", "time")
    arrays = grid("array", "bytes", "a frame")
    for part in plan.sets:
        source, set_name = part.plan.source, part.plan.set_name
        frames = part.plan.missing_frames
        if not frames:
            table.add_row(f"{source}/{set_name}", "done")
            continue
        total = size(sum(part.bytes.values()))
        shards = f"{len(part.plan.missing)}"
        rows = _rows(frames, part.plan.artifacts)
        table.add_row(f"{source}/{set_name}", rows, shards, total, duration(part.seconds))
        for artifact, used in part.bytes.items():
            arrays.add_row(array_name(source, set_name, artifact), size(used), size(used / frames))
    seconds = sum(part.seconds for part in plan.sets)
    total = f"in all {size(plan.bytes)} and {duration(seconds)} of one worker, by a few frames"
    lines: list[Any] = [table, "", arrays, "", total]
    lines += [
        f"{source}: {lonely} of {lonely + chosen} frames have no neighbour on one side at these "
        "offsets, and are in no triplet"
        for source, (lonely, chosen) in plan.lonely.items()
        if lonely
    ]
    free = "" if plan.free_bytes is None else f". free disk: {size(plan.free_bytes)}"
    lines.append(f"nothing written (--dry-run){free}")
    if plan.free_bytes is not None and plan.bytes > plan.free_bytes:
        lines.append(Text("this does not fit on the disk", style="bold red"))
    document = {
        "sets": [
            {
                "source": part.plan.source,
                "set": part.plan.set_name,
                "missing_frames": part.plan.missing_frames,
                "missing_shards": len(part.plan.missing),
                "bytes": part.bytes,
                "seconds": part.seconds,
            }
            for part in plan.sets
        ],
        "bytes": plan.bytes,
        "seconds": seconds,
        "free_bytes": plan.free_bytes,
        "lonely_frames": {source: lonely for source, (lonely, _) in plan.lonely.items()},
    }
    return Shown(lines, document)


def _rows(count: int, artifacts: Collection[str]) -> str:
    """How many frames there are, or pairs of frames."""
    return f"{count} pairs" if list(artifacts) == ["flow"] else f"{count}"


def build_report(path: Path | str, report: BuildReport) -> Shown:
    """What a build did."""
    wanted = sum(plan.shards for plan in report.plans)
    document = {
        "cache": str(path),
        "shards": wanted,
        "shards_computed": report.shards,
        "frames_computed": report.frames,
        "bytes_written": report.bytes,
        "bad_frames": {f"{source}/{name}": n for (source, name), n in report.bad.items() if n},
        "seconds": report.wall_seconds,
        "produce_seconds": report.produce_seconds,
    }
    if not report.shards:
        return Shown([f"{path}: all {wanted} shards are committed, nothing to do"], document)
    bad = sum(report.bad.values())
    text = (
        f"{path}: {report.shards} of {wanted} shards computed, {report.frames} rows, "
        f"{size(report.bytes)} in {duration(report.wall_seconds)}"
    )
    if bad:
        text += f"; {_bad(bad, report.bad_frames)}: stillroom cache info {path} --bad"
    return Shown([text], document)


def _bad(rows: int, frames: int) -> str:
    said = f"{rows} bad row{'s' * (rows > 1)}"
    return said + (f" ({frames} frame{'s' * (frames > 1)})" if frames else "")


def cache_info(sets: list[SetInfo], *, bad: bool) -> Shown:
    """What a cache holds."""
    table = grid("set", "frames", "committed", "bad", "shards", "bytes", "fingerprint")
    parts: list[Any] = [table]
    for entry in sets:
        table.add_row(
            f"{entry.source}/{entry.set_name}",
            _rows(entry.frames, entry.arrays),
            f"{entry.committed_frames}",
            f"{len(entry.bad)}",
            f"{entry.committed_shards}/{entry.shards}",
            size(sum(entry.bytes.values())),
            entry.fingerprint[:12],
        )
    arrays = grid(
        "array", "shape", "codec", "bytes", "a frame", "largest error", "KL pixel", "spatial"
    )
    for entry in sets:
        for name, (shape, codec) in entry.arrays.items():
            used = entry.bytes.get(name, 0)
            frame = size(used / entry.committed_frames) if entry.committed_frames else "-"
            place = array_name(entry.source, entry.set_name, name)
            lost = entry.fidelity.get(name, {})
            errors = (lost.get(key) for key in ("largest_error", "pixel_kl", "spatial_kl"))
            shown = ("" if error is None else f"{error:.2g}" for error in errors)
            arrays.add_row(place, shape, codec, size(used), frame, *shown)
    parts += ["", arrays]
    if bad:
        rows = grid("bad frame", "reason")
        rows.columns[1].justify = "left"
        for entry in sets:
            for frame_id, reason in entry.bad.items():
                rows.add_row(f"{entry.source}/{entry.set_name} {frame_id}", reason)
        parts += ["", rows if rows.row_count else "no bad frames"]
    return Shown(parts, {"sets": [entry.document() for entry in sets]})


def verdicts(path: Path | str, found: list[SetVerdict]) -> Shown:
    """What `cache verify` found: a line a set, then every fault by name."""
    table = grid("set", "shards", "missing", "bad frames", "faults")
    for verdict in found:
        table.add_row(
            f"{verdict.source}/{verdict.set_name}",
            f"{verdict.shards - len(verdict.missing)}",
            f"{len(verdict.missing)}",
            f"{verdict.bad_frames}",
            f"{len(verdict.faults)}",
        )
    faults = [fault for verdict in found for fault in verdict.faults]
    parts: list[Any] = [table, *(Text.assemble(("fault ", "red"), str(fault)) for fault in faults)]
    if faults:
        repaired = [line for verdict in found for line in verdict.repaired]
        parts += [Text.assemble(("repair ", "yellow"), line) for line in repaired]
        parts.append(
            "what was damaged is withdrawn or rewritten: run `stillroom cache build RUN.toml`"
            if repaired
            else f"to heal: run `stillroom cache verify {path} --repair`, "
            "then `stillroom cache build RUN.toml`"
        )
    elif any(verdict.missing for verdict in found):
        parts.append(
            f"{path}: what is committed is sound; shards are missing: run "
            "`stillroom cache build RUN.toml`"
        )
    else:
        parts.append(f"{path}: complete and sound")
    document = {
        "cache": str(path),
        "faults": [
            {
                "source": fault.source,
                "set": fault.set_name,
                "shard": fault.shard,
                "array": fault.array,
                "index": fault.index,
                "kind": fault.kind,
                "message": fault.message,
            }
            for fault in faults
        ],
        "repaired": [line for verdict in found for line in verdict.repaired],
        "missing_shards": {f"{v.source}/{v.set_name}": list(v.missing) for v in found},
    }
    return Shown(parts, document)
