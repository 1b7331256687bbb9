"""Depth of a source of all sorts of frames: which are scored, at which pixels, and what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate import task_evaluation
from stillroom.stages.evaluate.task_evaluation import evaluate_task
from stillroom.stages.sources.source import Frame
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CANVAS = (8, 12)


class Ramp:
    """Says 1 m in the first column of the canvas, 2 m in the second, whatever it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, frames: NDArray[np.uint8]) -> tuple[torch.Tensor, int]:
        count, height, width = frames.shape[:3]
        self.seen += count
        return (1 + torch.arange(width).float()).expand(count, 1, height, width), 1


class Frames:
    """Frames by name: (size, depth), or why there is no depth, or no frame."""

    classes = None

    def __init__(self, **frames: Any) -> None:
        self.frames, self.frame_ids = frames, list(frames)

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, index: int) -> Frame:
        name = self.frame_ids[index]
        size, depth, fault = self.frames[name]
        if size is None:
            raise FrameError(f"{name}: {fault}")
        targets = {} if depth is None else {"depth": np.full(size, depth, np.float32)}
        faults = {"depth": fault} if fault else {}
        return Frame(name, np.zeros((*size, 3), np.uint8), targets=targets, faults=faults)


SOURCE: Any = Frames(
    large=((16, 16), 4.0, ""),
    empty=((8, 12), 0.0, ""),
    wrong=((8, 12), 0.0, "another unit"),
    fitting=((8, 12), 2.0, ""),
    broken=(None, 0.0, "is truncated"),
)
RAMP: Any = Ramp()
CUT = np.arange(8) + 1.0  # of the large frame, whose canvas is padded from column 8 on


@pytest.mark.parametrize(
    ("own", "size", "of_large"),
    [
        (False, "canvas 8x12", np.tile(CUT, 8)),
        # halfway between centres, and at the edge no padding
        (True, "own, 2 sizes", np.tile(np.clip((np.arange(16) + 0.5) / 2 + 0.5, 1, 8), 16)),
    ],
)
def test_what_has_a_depth_is_scored_at_its_pixels_and_the_rest_is_named(
    own: bool, size: str, of_large: NDArray[np.float64]
) -> None:
    model: Any = Ramp()
    found = evaluate_task(model, SOURCE, "depth", CANVAS, own_size=own)
    fitting = np.tile(np.arange(12) + 1.0, 8)
    errors = np.concatenate([np.abs(of_large - 4) / 4, np.abs(fitting - 2) / 2])
    assert found.scores["rel"] == pytest.approx(errors.mean(), rel=1e-6)
    assert (found.size, found.frames, found.pixels) == (size, 2, len(errors))
    assert [(one.frame_id, one.reason) for one in found.skipped] == [
        ("broken", "broken: is truncated")
    ]
    assert [(one.frame_id, one.reason) for one in found.bad_targets] == [("wrong", "another unit")]
    assert found.without == 1
    assert model.seen == 2, "frames without depth are not predicted"


def test_two_processes_count_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_task(RAMP, SOURCE, "depth", CANVAS)
    counts: list[Any] = []

    def gathered(mine: Any) -> list[Any]:
        counts.append(mine)
        return list(counts)

    monkeypatch.setattr(task_evaluation, "everything", gathered)
    for indices in ([0, 2, 4], [1, 3]):
        monkeypatch.setattr(task_evaluation, "share", lambda *_, own=indices: own)
        found = evaluate_task(RAMP, SOURCE, "depth", CANVAS)
    assert found == whole


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ({"a": ((8, 12), 0.0, ""), "b": ((8, 12), 0.0, "a unit")}, "1 frames have no depth, and 1"),
        ({"a": ((8, 12), None, "")}, "a has no depth; evaluation needs a source"),
    ],
)
def test_nothing_to_score_is_said(frames: dict[str, Any], says: str) -> None:
    source: Any = Frames(**frames)
    with pytest.raises(ConfigError, match=says):
        evaluate_task(RAMP, source, "depth", CANVAS)
