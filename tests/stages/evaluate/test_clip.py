"""A model on a clip: each frame by itself, followed along the flow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate.clip import Step, measure_clip
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


def still(count: int, **masks: torch.Tensor) -> list[Step]:
    return [Step(torch.zeros(1, 2, *SIZE), **masks) for _ in range(count)]


def test_frames_come_one_at_a_time_and_their_classes_are_kept() -> None:
    predictor, frames = ByColour(), clip()
    found = measure_clip(predictor, frames, still(3))
    assert predictor.batches == [1, 1, 1, 1]
    assert found.predictions.shape == (4, *SIZE)
    assert found.predictions.dtype == torch.uint8
    # at the centre of a cell's four pixels upsampling leaves the cell's own class in the corner
    assert found.predictions[2, 0, 0] == frames[2][0, 0].argmax()


def test_the_scores_are_those_of_the_pairs() -> None:
    frames = clip(3)
    seen = torch.ones(1, 1, *SIZE, dtype=torch.bool)
    seen[..., 0] = False
    found = measure_clip(ByColour(), frames, iter(still(2, visible=seen)))
    now, later = found.predictions[:2, :, 1:], found.predictions[1:, :, 1:]
    assert found.consistency.visible is not None
    assert found.consistency.visible.pixels == pytest.approx((now == later).float().mean().item())
    assert len(found.consistency.curve) == 2
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255
    flow, both = torch.zeros(2, 2, *SIZE), seen.expand(2, -1, -1, -1)
    expected = warping_error(images[:2], images[1:], flow, visible=both).mean()
    assert found.frame_error == pytest.approx(expected.item())
    assert 0 < found.stability < 1


def test_a_clip_that_stands_still_is_perfectly_steady() -> None:
    found = measure_clip(ByColour(), [clip(1)[0]] * 3, still(2))
    assert found.consistency.whole.miou == 1
    assert found.stability == pytest.approx(0, abs=1e-12)
    assert found.frame_error == pytest.approx(0, abs=1e-12)
    assert json.loads(json.dumps(found.to_dict()))["consistency"]["visible"] is None


def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 or more frames, got 1"):
        measure_clip(ByColour(), clip(1), [])
    with pytest.raises(ConfigError, match="4 frames have 3 steps between them, got 2"):
        measure_clip(ByColour(), clip(), still(2))
    with pytest.raises(ConfigError, match="4 frames have 3 steps between them, got more"):
        measure_clip(ByColour(), clip(), still(4))
    with pytest.raises(ArtifactError, match="logits are not finite"):
        measure_clip(ByColour(spoil=float("nan")), clip(), still(3))
    with pytest.raises(ArtifactError, match=r"flow \(B, 2, H, W\), got \(1, 6, 8\)"):
        measure_clip(ByColour(), clip(2), [Step(torch.zeros(1, 2, 3, 4))])
