"""How busy models were, and what a build says of it."""

from __future__ import annotations

from typing import Any

import pytest

from stillroom.pipeline.build.pace import Pace
from stillroom.stages.cache.cache_shard import ShardReport, ShardWork


def paced(**seconds: Any) -> Pace:
    """Two equal shards of a teacher, and one of frames."""
    pace = Pace()
    for name in ("fpn", "fpn", "frames"):
        work = ShardWork("s", name, 0, ())
        pace.add(ShardReport(work, 4, 0, 1, wall_seconds=9.0, **seconds))
    return pace


def test_frames_have_no_model_to_keep_busy() -> None:
    pace = Pace()
    pace.add(ShardReport(ShardWork("s", "frames", 0, ()), 4, 0, 1, 9.0, 0.1, turn_seconds=8.0))
    assert pace == Pace()
    assert pace.teacher_busy is None
    assert pace.advice() is None
    assert set(pace.to_dict().values()) == {None, 0.0}


def test_shares_are_of_the_time_that_models_worked_or_waited() -> None:
    pace = paced(produce_seconds=3.0, turn_seconds=4.0, encode_seconds=6.0, encoders=3)
    assert pace.teacher_busy == 0.75
    assert pace.encoders_busy == 0.5


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({"produce_seconds": 3.7, "encode_wait_seconds": 0.3}, None),
        ({"produce_seconds": 1.0, "encode_wait_seconds": 2.0, "decode_wait_seconds": 0.5},
         "raise cache.encoders"),
        ({"produce_seconds": 1.0, "encode_wait_seconds": 0.5, "decode_wait_seconds": 2.0},
         "raise cache.decoders"),
        ({"produce_seconds": 1.0, "encode_wait_seconds": 0.5, "decode_wait_seconds": 0.5},
         "raise cache.shard_frames"),
    ],
)  # fmt: skip
def test_the_longest_wait_says_what_to_change(seconds: dict[str, float], said: str | None) -> None:
    advice = paced(turn_seconds=4.0, encoders=1, **seconds).advice()
    assert (advice is None) if said is None else (said in str(advice))
