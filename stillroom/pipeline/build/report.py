"""What a build reports while it runs, what it comes to, and when too many frames are bad."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.pace import Pace
from stillroom.pipeline.build.sets import stored_set
from stillroom.stages.evaluate.value_range import merged
from stillroom.storage_specs.errors import TooManyBadFrames
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.manifest import SCHEMA, bad_labels, bad_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from stillroom.pipeline.build.plan import SetPlan
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork
    from stillroom.stages.evaluate.value_range import Range
    from stillroom.storage_specs.manifest import FrameRow

    Listener = Callable[["BuildEvent"], None]

SHOWN_REASONS = 3
NOT_FINITE = "not finite"  # of a model's output, whatever found it so
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class BuildEvent:
    """Something happened to a shard: frames were done, it was committed, or an attempt failed."""

    work: ShardWork
    frames: int = 0
    report: ShardReport | None = None
    problem: str | None = None


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        bad: unusable rows by (source, set), those of earlier builds of the same cache included
        bad_frames: how many frames those are rows of: a file that is torn costs a row in every set
        bad_labels: rows of which only the label is unusable, likewise
        label_pixels: by source, the pixels of each class in the labels that were computed
        photo_pixels: by (source, set), those that a teacher had to say a class of
        sure_pixels: those of them that it is sure enough of for a pseudo label
        ranges: by source and name, of the targets that were computed and have one
        computed: the shards that were
    """

    plans: list[SetPlan]
    shards: int = 0
    frames: int = 0
    bytes: int = 0
    produce_seconds: float = 0.0
    wall_seconds: float = 0.0
    pace: Pace = field(default_factory=Pace)
    bad: Counter[tuple[str, str]] = field(default_factory=Counter)
    bad_frames: int = 0
    bad_labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    label_pixels: defaultdict[str, Counter[int]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    photo_pixels: Counter[tuple[str, str]] = field(default_factory=Counter)
    sure_pixels: Counter[tuple[str, str]] = field(default_factory=Counter)
    ranges: dict[str, dict[str, Range]] = field(default_factory=dict)
    computed: set[ShardWork] = field(default_factory=set)

    def add(self, report: ShardReport) -> None:
        """Count a committed shard."""
        self.shards += 1
        self.frames += report.frames
        self.bytes += report.bytes
        self.produce_seconds += report.produce_seconds
        self.pace.add(report)
        self.bad[report.work.source, report.work.set_name] += report.bad
        self.bad_labels[report.work.source, report.work.set_name] += report.bad_labels
        self.label_pixels[report.work.source] += report.label_pixels
        self.photo_pixels[report.work.source, report.work.set_name] += report.photo_pixels
        self.sure_pixels[report.work.source, report.work.set_name] += report.sure_pixels
        if report.ranges:
            known = self.ranges.get(report.work.source, {})
            self.ranges[report.work.source] = merged(known, report.ranges)
        self.computed.add(report.work)

    @property
    def wanted(self) -> int:
        """Shards of all sets."""
        return sum(plan.shards for plan in self.plans)

    def pseudo_labelled(self) -> dict[tuple[str, str], float]:
        """Return the share of the computed pixels with a pseudo label, by source and teacher."""
        return {
            (source, teacher_of(name)): self.sure_pixels[source, name] / pixels
            for (source, name), pixels in self.photo_pixels.items()
            if pixels
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        ranges = {
            source: {name: one.to_dict() for name, one in found.items()}
            for source, found in self.ranges.items()
        }
        return {
            "shards": self.wanted,
            "shards_computed": self.shards,
            "frames_computed": self.frames,
            "bytes_written": self.bytes,
            "rows_retried": sum(len(plan.retried) for plan in self.plans),
            "bad_frames": {f"{source}/{name}": n for (source, name), n in self.bad.items() if n},
            "bad_labels": {source: n for (source, _), n in self.bad_labels.items() if n},
            "label_pixels": {
                plan.source: {
                    name: self.label_pixels[plan.source][index]
                    for index, name in enumerate(plan.classes)
                }
                for plan in self.plans
                if plan.classes and plan.missing
            },
            "pseudo_labelled": {
                f"{source}/{name}": share
                for (source, name), share in self.pseudo_labelled().items()
            },
            **({"ranges": ranges} if ranges else {}),
            "seconds": self.wall_seconds,
            "produce_seconds": self.produce_seconds,
            "pace": self.pace.to_dict(),
        }


def report_so_far(run: RunConfig, plans: list[SetPlan]) -> BuildReport:
    """Begin a report with the frames and labels that earlier builds found unusable.

    Raises:
        TooManyBadFrames: those are too many already.
    """
    report = BuildReport(plans)
    for plan in plans:
        table, missing = _rows(run, plan), frozenset(plan.missing)
        for counter, find in ((report.bad, bad_rows), (report.bad_labels, bad_labels)):
            shards = (row.index // plan.shard_frames for row in find(table))
            counter[plan.source, plan.set_name] = sum(one not in missing for one in shards)
        stop_if_too_bad(run, report, plan)
    return report


def _rows(run: RunConfig, plan: SetPlan) -> pa.Table:
    stored = stored_set(run, plan.source, plan.set_name)
    return SCHEMA.empty_table() if stored is None else stored.rows()


def count_bad_frames(run: RunConfig, plans: list[SetPlan]) -> int:
    """Count frames with an unusable row in any set; a bad pair does not tell which frame it is."""
    rows = ((plan, row) for plan in plans for row in bad_rows(_rows(run, plan)))
    return len({(p.source, row.frame_id) for p, row in rows if p.set_name not in run.flows})


def stop_if_too_bad(run: RunConfig, report: BuildReport, plan: SetPlan) -> None:
    """Raise TooManyBadFrames where a set has more bad frames, or labels, than the run allows."""
    share, place = run.cache.max_bad_fraction, (plan.source, plan.set_name)
    for what, total, counter, find in (
        ("frames", plan.frames, report.bad, bad_rows),
        ("labels" if plan.classes else "targets", plan.labels, report.bad_labels, bad_labels),
    ):
        # Another shard may be committed by now that the report has not heard of: the rows have all.
        rows = find(_rows(run, plan)) if counter[place] > share * total else []
        if len(rows) > share * total:
            raise TooManyBadFrames(
                f"{plan.source}/{plan.set_name}: {len(rows)} of {total} {what} are unusable so "
                f"far, more than cache.max_bad_fraction = {share:g} allows\n"
                + reasons_of(rows)
                + "  see all of them with `stillroom cache info RUN.toml --bad`; "
                + _remedies(rows, plan)
                + " and build into another cache.path, or raise the limit; `stillroom cache build "
                "RUN.toml --retry-bad` tries them again if the cause has passed; committed shards "
                "stay"
            )


def _remedies(rows: list[FrameRow], plan: SetPlan) -> str:
    """What mends the causes of such rows, as far as their reasons differ."""
    if rows[0].bad_label:
        return (
            "mend the label files, or the source's classes, mapping and `ignore`,"
            if plan.classes
            else "mend the files of its targets, or what the source's section says of them,"
        )
    output = [NOT_FINITE in row.reason for row in rows]
    remedies = [] if all(output) else ["mend the source"]
    if any(output):
        remedies.append(f"check the weights and the precision of {teacher_of(plan.set_name)!r}")
    return ", ".join(remedies)


def reasons_of(rows: Sequence[FrameRow]) -> str:
    """List the most frequent reasons; those that differ in names and numbers are one."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        kind = NUMBER.sub("#", row.reason.replace(row.frame_id, "#"))
        kinds[kind].append(row.reason)
    most = sorted(kinds.values(), key=len, reverse=True)[:SHOWN_REASONS]
    return "".join(f"  {len(reasons)} x {reasons[0]}\n" for reasons in most)
