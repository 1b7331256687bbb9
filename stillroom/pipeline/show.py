"""Reports as a person reads them (rich) and as a program reads them (one JSON document)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.pipeline.build import BuildReport
    from stillroom.pipeline.estimate import BuildEstimate
    from stillroom.pipeline.inspect_cache import SetInfo
    from stillroom.pipeline.verify import SetVerdict


@dataclass(frozen=True)
class Shown:
    """A report, twice: `parts` for rich, `document` for --json."""

    parts: list[Any]
    document: dict[str, Any]


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least one digit before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as 12 s, 1m 40s or 2h 05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def grid(*columns: str) -> Table:
    """A plain table: words left, numbers right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    return table


def estimate(plan: BuildEstimate) -> Shown:
    """What a build would write and how long it would take."""
    artifacts = list(dict.fromkeys(name for part in plan.sets for name in part.bytes))
    table = grid("source", "set", "frames", "shards", *artifacts, "total", "time")
    for part in plan.sets:
        table.add_row(
            part.plan.source,
            part.plan.set_name,
            f"{part.plan.missing_frames}",
            f"{len(part.plan.missing)}",
            *(size(part.bytes[name]) if name in part.bytes else "-" for name in artifacts),
            size(sum(part.bytes.values())),
            duration(part.seconds),
        )
    seconds = sum(part.seconds for part in plan.sets)
    total = f"in all {size(plan.bytes)} and {duration(seconds)} of one worker, from a few frames measured"
    lines = [table, total, f"nothing written (--dry-run). free disk: {size(plan.free_bytes)}"]
    if plan.bytes > plan.free_bytes:
        lines.append("[bold red]this does not fit on the disk[/]")
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
    }
    return Shown(lines, document)


def build_report(path: Path, report: BuildReport) -> Shown:
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
        text += f"; {bad} bad (stillroom cache info {path} --bad)"
    return Shown([text], document)


def cache_info(sets: list[SetInfo], *, bad: bool) -> Shown:
    """What a cache holds."""
    table = grid("set", "frames", "committed", "bad", "shards", "bytes", "fingerprint")
    parts: list[Any] = [table]
    for entry in sets:
        table.add_row(
            f"{entry.source}/{entry.set_name}",
            f"{entry.frames}",
            f"{entry.committed_frames}",
            f"{len(entry.bad)}",
            f"{entry.committed_shards}/{entry.shards}",
            size(sum(entry.bytes.values())),
            entry.fingerprint[:12],
        )
    arrays = grid("array", "shape", "codec", "bytes", "a frame")
    for entry in sets:
        for name, (shape, codec) in entry.arrays.items():
            used = entry.bytes.get(name, 0)
            frame = size(used / entry.committed_frames) if entry.committed_frames else "-"
            place = name if entry.set_name == "frames" else f"{entry.set_name}/{name}"
            arrays.add_row(f"{entry.source}/{place}", shape, codec, size(used), frame)
    parts += ["", arrays]
    if bad:
        rows = grid("bad frame", "reason")
        rows.columns[1].justify = "left"
        for entry in sets:
            for frame_id, reason in entry.bad.items():
                rows.add_row(f"{entry.source}/{entry.set_name} {frame_id}", reason)
        parts += ["", rows if rows.row_count else "no bad frames"]
    return Shown(parts, {"sets": [entry.document() for entry in sets]})


def verdicts(path: Path, found: list[SetVerdict]) -> Shown:
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
    parts: list[Any] = [table, *(f"[red]fault[/] {fault.message}" for fault in faults)]
    if faults:
        parts.append("to heal: delete the manifest parts named above, then run `stillroom cache build`")
    elif any(verdict.missing for verdict in found):
        parts.append(f"{path}: what is committed is sound; shards are missing: run `cache build`")
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
        "missing_shards": {f"{v.source}/{v.set_name}": list(v.missing) for v in found},
    }
    return Shown(parts, document)
