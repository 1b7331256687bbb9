"""A model on a clip: each frame by itself, followed along the flow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate.clip_flow import FrameFlow
from stillroom.stages.evaluate.clip_meter import ClipMeter
from stillroom.stages.evaluate.warping_error import warping_error
from stillroom.storage_specs.errors import ArtifactError, ConfigError

SIZE = (6, 8)


@dataclass
class ByColour:
    """Logits are the colours of every second pixel; remembers how many frames came at once."""

    batches: list[int] = field(default_factory=list)
    spoil: float | None = None

    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, int]:
        self.batches.append(len(frames))
        logits = torch.from_numpy(frames[:, ::2, ::2].astype(np.float32) / 32).permute(0, 3, 1, 2)
        return logits if self.spoil is None else logits + self.spoil, 2


def clip(count: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, *SIZE, 3)).astype(np.uint8))


def still(seen: torch.Tensor | None = None) -> FrameFlow:
    return FrameFlow(torch.zeros(1, 2, *SIZE), seen)


def measured(
    predictor: ByColour, frames: list[np.ndarray], flow: FrameFlow
) -> tuple[ClipMeter, torch.Tensor]:
    meter = ClipMeter(predictor)
    classes = [meter.add(frame, flow if at else None) for at, frame in enumerate(frames)]
    return meter, torch.cat(classes)


def test_frames_come_one_at_a_time_and_their_classes_are_kept() -> None:
    predictor, frames = ByColour(), clip()
    meter, predictions = measured(predictor, frames, still())
    assert predictor.batches == [1, 1, 1, 1]
    assert (meter.frames, meter.pairs) == (4, 3)
    assert predictions.shape == (4, *SIZE)
    assert predictions.dtype == torch.uint8
    # at the centre of a cell's four pixels upsampling leaves the cell's own class in the corner
    assert predictions[2, 0, 0] == frames[2][0, 0].argmax()


def test_the_scores_are_those_of_the_pairs() -> None:
    frames = clip(3)
    seen = torch.ones(1, 1, *SIZE, dtype=torch.bool)
    seen[..., 0] = False
    meter, predictions = measured(ByColour(), frames, still(seen))
    consistency, stability, frame_error = meter.result()
    now, later = predictions[:2, :, 1:], predictions[1:, :, 1:]
    assert consistency.visible is not None
    assert consistency.visible.pixels == pytest.approx((now == later).float().mean().item())
    assert len(consistency.curve) == 2
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255
    flow, both = torch.zeros(2, 2, *SIZE), seen.expand(2, -1, -1, -1)
    expected = warping_error(images[:2], images[1:], flow, visible=both).mean()
    assert frame_error == pytest.approx(expected.item())
    assert 0 < stability < 1


def test_a_clip_that_stands_still_is_perfectly_steady() -> None:
    meter, _ = measured(ByColour(), [clip(1)[0]] * 3, still())
    consistency, stability, frame_error = meter.result()
    assert consistency.whole.miou == 1
    assert consistency.to_dict()["visible"] is None
    assert stability == pytest.approx(0, abs=1e-12)
    assert frame_error == pytest.approx(0, abs=1e-12)


def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(ArtifactError, match="no two of its frames"):
        measured(ByColour(), clip(1), still())[0].result()
    with pytest.raises(ConfigError, match="no flow that leads to it"):
        ClipMeter(ByColour()).add(clip(1)[0], still())
    with pytest.raises(ArtifactError, match="logits are not finite"):
        measured(ByColour(spoil=float("nan")), clip(), still())
    with pytest.raises(ArtifactError, match=r"flow \(B, 2, H, W\), got \(1, 6, 8\)"):
        measured(ByColour(), clip(2), FrameFlow(torch.zeros(1, 2, 3, 4)))
