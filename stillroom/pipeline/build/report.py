"""What a build tells while it runs, and what it comes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillroom.pipeline.build.plan import SetPlan
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork


@dataclass(frozen=True)
class BuildEvent:
    """Something happened to a shard: frames were done, it was committed, or an attempt failed."""

    work: ShardWork
    frames: int = 0
    report: ShardReport | None = None
    problem: str | None = None


@dataclass
class BuildReport:
    """What a build did, for the person who started it.

    bad: unusable rows of each set, those of earlier builds of the same cache included
    bad_frames: how many frames those are rows of: a file that is torn costs a row in every set
    """

    plans: list[SetPlan]
    shards: int = 0
    frames: int = 0
    bytes: int = 0
    produce_seconds: float = 0.0
    wall_seconds: float = 0.0
    bad: Counter[tuple[str, str]] = field(default_factory=Counter)
    bad_frames: int = 0
    quarantined: dict[ShardWork, str] = field(default_factory=dict)

    def add(self, report: ShardReport) -> None:
        """Count a committed shard."""
        self.shards += 1
        self.frames += report.frames
        self.bytes += report.bytes
        self.produce_seconds += report.produce_seconds
        self.bad[report.work.source, report.work.set_name] += report.bad
