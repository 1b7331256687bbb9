"""How busy a build kept its models, and what kept them waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.artifacts import FRAMES

if TYPE_CHECKING:
    from stillroom.stages.cache.cache_shard import ShardReport

BUSY = 0.9
"""Share of the time above which there is nothing to gain."""


@dataclass
class Pace:
    """Seconds of the shards that a model made, all workers together.

    Attributes:
        produce: the models worked
        turns: they worked or waited
        decode_wait, encode_wait: they waited for frames, or for room behind them
        encode, encoders: encoders worked, and they worked or waited
    """

    produce: float = 0.0
    turns: float = 0.0
    decode_wait: float = 0.0
    encode_wait: float = 0.0
    encode: float = 0.0
    encoders: float = 0.0

    def add(self, report: ShardReport) -> None:
        """Count a shard; frames and labels are made by no model."""
        if report.work.set_name == FRAMES:
            return
        self.produce += report.produce_seconds
        self.turns += report.turn_seconds
        self.decode_wait += report.decode_wait_seconds
        self.encode_wait += report.encode_wait_seconds
        self.encode += report.encode_seconds
        self.encoders += report.turn_seconds * report.encoders

    @property
    def teacher_busy(self) -> float | None:
        """Share of their time that models worked; None where none did."""
        return min(1.0, self.produce / self.turns) if self.turns else None

    @property
    def encoders_busy(self) -> float | None:
        """Share of the models' time that encoders worked, all of them; None as above."""
        return min(1.0, self.encode / self.encoders) if self.encoders else None

    def advice(self) -> str | None:
        """Say what to change so that models wait less; None where they hardly do."""
        if self.teacher_busy is None or self.teacher_busy >= BUSY:
            return None
        commits = self.turns - self.produce - self.decode_wait - self.encode_wait
        longest = max(self.decode_wait, self.encode_wait, commits)
        if longest == self.encode_wait:
            return (
                "it waits for encoders: give each worker more CPUs and raise cache.encoders, or "
                "take a codec that costs less"
            )
        if longest == self.decode_wait:
            return (
                "it waits for frames: raise cache.decoders, give each worker more CPUs, or bring "
                "the frames to a faster disk"
            )
        return "it waits between shards: raise cache.shard_frames, or write to a faster disk"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "teacher_busy": self.teacher_busy,
            "encoders_busy": self.encoders_busy,
            "decode_wait_seconds": self.decode_wait,
            "encode_wait_seconds": self.encode_wait,
            "change": self.advice(),
        }
