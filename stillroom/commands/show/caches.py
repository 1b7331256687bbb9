"""A cache as text: what a build would do or did, what it holds, and whether it is sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from stillroom.commands.quantities import duration, place, size
from stillroom.commands.show.grid import array_name, grid
from stillroom.storage_specs.artifacts import FLOW

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from rich.console import RenderableType

    from stillroom.pipeline.build.estimate import BuildEstimate, SetEstimate
    from stillroom.pipeline.build.pace import Pace
    from stillroom.pipeline.build.report import BuildReport
    from stillroom.pipeline.cache_tools.info import SetInfo
    from stillroom.pipeline.cache_tools.verify import VerifyReport
    from stillroom.stages.evaluate.value_range import Range


def estimate(found: BuildEstimate) -> list[RenderableType]:
    """Lay out what a build would write, and how long it would take."""
    arrays = (
        (array_name(one.plan.source, one.plan.set_name, artifact), size(used),
         size(used / one.plan.missing_frames))
        for one in found.sets
        for artifact, used in one.bytes.items()
    )  # fmt: skip
    total = f"in all {size(found.bytes)} and {duration(found.seconds)}"
    parts: list[RenderableType] = [
        grid(("set", "frames", "shards", "bytes", "time"), map(_to_build, found.sets)),
        "",
        grid(("array", "bytes", "a frame"), arrays),
        "",
        f"{total} of one worker, by a few frames",
    ]
    parts += [
        f"{source}: {lonely} of {lonely + chosen} frames have no neighbour on one side at these "
        "offsets, and are in no triplet"
        for source, (lonely, chosen) in found.lonely.items()
        if lonely
    ]
    free = "" if found.free_bytes is None else f". free disk: {size(found.free_bytes)}"
    parts.append(f"nothing written (--dry-run){free}")
    if found.free_bytes is not None and found.bytes > found.free_bytes:
        parts.append(Text("this does not fit on the disk", style="bold red"))
    return parts


def _to_build(one: SetEstimate) -> list[object]:
    plan = one.plan
    name, frames = f"{plan.source}/{plan.set_name}", plan.missing_frames
    if not frames:
        return [name, "done"]
    total = size(sum(one.bytes.values()))
    rows = _rows(frames, plan.artifacts)
    return [name, rows, len(plan.missing), total, duration(one.seconds)]


def _rows(count: int, artifacts: Collection[str]) -> str:
    """Return the number of frames, or of pairs of frames."""
    return f"{count} pairs" if list(artifacts) == [FLOW] else f"{count}"


USUAL_FARTHEST = 1.0, 100.0  # metres: what is nearer or farther is perhaps in another unit


def build_report(path: Path | str, report: BuildReport) -> list[RenderableType]:
    """Lay out what a build did."""
    if not report.shards:
        return [f"{place(path)}: all {report.wanted} shards are committed, nothing to do"]
    text = (
        f"{place(path)}: {report.shards} of {report.wanted} shards computed, {report.frames} rows, "
        f"{size(report.bytes)} in {duration(report.wall_seconds)}"
    )
    bad, frames = sum(report.bad.values()), report.bad_frames
    if bad:
        text += f"; {bad} bad row{'s' * (bad > 1)}"
        text += f" ({frames} frame{'s' * (frames > 1)})" if frames else ""
    labels = sum(report.bad_labels.values())
    if labels:
        text += f"; {labels} label{'s' * (labels > 1)} left out"
    if bad or labels:
        text += f": stillroom cache info {path} --bad"
    kept = ", ".join(
        f"{'/'.join(of)} {share:.1%}" for of, share in report.pseudo_labelled().items()
    )
    lines = [f"pixels with a pseudo label: {kept}"] if kept else []
    lines += [
        _range(source, name, one)
        for source, of in report.ranges.items()
        for name, one in of.items()
    ]
    return [text, *lines, *_pace(report.pace)]


def _range(source: str, target: str, found: Range) -> str:
    if not found.present:
        return f"{target} of {source}: no value anywhere"
    middle = found.quantile(0.5)
    text = (
        f"{target} of {source}: {found.least:.3g} to {found.greatest:.3g} m, half below "
        f"{middle:.3g} m, in {found.frames} frames"
    )
    odd = found.greatest < USUAL_FARTHEST[0] or middle > USUAL_FARTHEST[1]
    return text + (f"; is that so? Else mend sources.{source}.unit" if odd else "")


def _pace(pace: Pace) -> list[str]:
    """Lay out how busy the models were; nothing where none worked."""
    if pace.teacher_busy is None or pace.encoders_busy is None:
        return []
    change = pace.advice()
    text = f"teacher busy {pace.teacher_busy:.0%}, encoders {pace.encoders_busy:.0%}"
    return [text + (f"; {change}" if change else "")]


def cache_info(sets: list[SetInfo], *, bad: bool) -> list[RenderableType]:
    """Lay out what a cache holds.

    Args:
        bad: list the bad frames and labels, too
    """
    rows = (
        (
            f"{one.source}/{one.set_name}",
            _rows(one.frames, one.arrays),
            one.committed_frames,
            len(one.bad),
            len(one.bad_labels),
            f"{one.committed_shards}/{one.shards}",
            size(sum(one.bytes.values())),
            one.fingerprint[:12],
        )
        for one in sets
    )
    heads = "set", "frames", "committed", "bad", "bad labels", "shards", "bytes", "fingerprint"
    columns = "array", "shape", "codec", "bytes", "a frame", "largest error", "KL pixel", "spatial"
    arrays = grid(columns, (_array(one, name) for one in sets for name in one.arrays))
    parts: list[RenderableType] = [grid(heads, rows), "", arrays]
    if bad:
        parts += ["", _reasons("bad frame", sets, [one.bad for one in sets])]
    if bad and any(one.bad_labels for one in sets):
        parts += ["", _reasons("bad label", sets, [one.bad_labels for one in sets])]
    return parts


def _reasons(what: str, sets: list[SetInfo], found: list[dict[str, str]]) -> RenderableType:
    reasons = [
        (f"{one.source}/{one.set_name} {frame_id}", reason)
        for one, of_set in zip(sets, found, strict=True)
        for frame_id, reason in of_set.items()
    ]
    return grid((what, "reason"), reasons, left=(0, 1)) if reasons else f"no {what}s"


def _array(one: SetInfo, name: str) -> list[str]:
    used, lost = one.bytes.get(name, 0), one.fidelity.get(name, {})
    errors = (lost.get(key) for key in ("largest_error", "pixel_kl", "spatial_kl"))
    return [
        array_name(one.source, one.set_name, name),
        *one.arrays[name],
        size(used),
        size(used / one.committed_frames) if one.committed_frames else "-",
        *("" if error is None else f"{error:.2g}" for error in errors),
    ]


def verification(report: VerifyReport) -> list[RenderableType]:
    """Lay out what `cache verify` found: a line a set, then a line a fault."""
    path = report.cache
    rows = (
        (f"{one.source}/{one.set_name}", one.shards - len(one.missing), len(one.missing),
         one.bad_frames, len(one.faults))
        for one in report.sets
    )  # fmt: skip
    if report.repaired:
        end = "what was damaged is withdrawn or rewritten: run `stillroom cache build RUN.toml`"
    elif report.faults and not report.damage:
        end = (
            "nothing that is stored is damaged, and nothing is withdrawn: the store, the network "
            f"or this machine's memory gave other bytes once; look at them, then run `stillroom "
            f"cache verify {path}` again"
        )
    elif report.faults:
        end = (
            f"to heal: run `stillroom cache verify {path} --repair`, "
            "then `stillroom cache build RUN.toml`"
        )
    elif report.is_sound:
        end = f"{place(path)}: complete and sound"
    else:
        end = (
            f"{place(path)}: what is committed is sound; shards are missing: run "
            "`stillroom cache build RUN.toml`"
        )
    return [
        grid(("set", "shards", "missing", "bad frames", "faults"), rows),
        *(Text.assemble(("fault ", "red"), str(fault)) for fault in report.faults),
        *(Text.assemble(("repair ", "yellow"), line) for line in report.repaired),
        end,
    ]
