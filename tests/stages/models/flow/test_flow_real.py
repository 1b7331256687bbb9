"""Flow on the CamVid clip whose every second frame is labelled: it must bring labels together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.models.flow.flow_model import FlowModelConfig, build_flow_model
from stillroom.stages.warp import visible, warp_labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

VOID = 11
PAIRS = (20, 50, 80)  # of the clip's 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [
        {"kind": "dis"},
        {"kind": "raft_small", "weights": "raft_small_chairs_things.pth", "iterations": 12},
    ],
    ids=lambda section: section["kind"],
)
def test_flow_brings_the_next_frames_labels_to_this_frames(
    shared_data: Path,
    read_image: Callable[[Path], NDArray[np.uint8]],
    section: dict[str, Any],
) -> None:
    if "weights" in section:
        section = {**section, "weights": shared_data / "weights" / section["weights"]}
    model = build_flow_model(TypeAdapter(FlowModelConfig).validate_python(section))
    images = sorted((shared_data / "camvid" / "val").glob("*.jpg"))
    assert len(images) == 101
    still, moved, seen = [], [], []
    for index in PAIRS:
        now, then = (read_image(path)[None] for path in images[index : index + 2])
        labels, others = (
            torch.from_numpy(read_image(shared_data / "camvid" / "valannot" / f"{path.stem}.png"))
            for path in images[index : index + 2]
        )
        flow, back = model.flow(now, then).cpu(), model.flow(then, now).cpu()
        warped = warp_labels(others[None], flow)[0]
        counted = (labels < VOID) & (warped < VOID)
        same = warped == labels
        still.append((others == labels)[counted].float().mean())
        moved.append(same[counted].float().mean())
        seen.append(same[counted & visible(flow, back)[0, 0]].float().mean())
    still_mean, moved_mean, seen_mean = (float(np.mean(each)) for each in (still, moved, seen))
    assert moved_mean > still_mean + 0.01, (still_mean, moved_mean)
    if section["kind"] == "raft_small":  # DIS disagrees with itself also where it is right
        assert seen_mean > moved_mean, (moved_mean, seen_mean)
