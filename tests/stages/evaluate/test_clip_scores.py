"""Models along the clips of a source."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate.clip_dataset import Clip, ClipDataset
from stillroom.stages.evaluate.clip_flow import ClipFrame, ExactFlow, FrameFlow
from stillroom.stages.evaluate.clip_meter import ClipMeter
from stillroom.stages.evaluate.clip_scores import measure_clips
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.storage_specs.errors import ArtifactError, ConfigError

SIZE = (24, 32)
CLASSES = 9


@dataclass
class Still:
    """Nothing moves; remembers which frames it was asked about. `seen` is what is visible."""

    seen: torch.Tensor | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)

    def between(self, now: ClipFrame, later: ClipFrame) -> FrameFlow:
        self.asked.append((now.index, later.index))
        return FrameFlow(torch.zeros(1, 2, *now.image.shape[:2]), self.seen)


@dataclass
class ByColour:
    """The class of a pixel is its strongest channel."""

    spoil: float = 0.0

    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, int]:
        logits = torch.from_numpy(frames.astype(np.float32) / 32).permute(0, 3, 1, 2)
        return logits + self.spoil, 1


@dataclass
class Knows:
    """Says the labels of frames that it knows by their bytes."""

    labels: dict[bytes, np.ndarray]

    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, int]:
        label = torch.from_numpy(self.labels[frames.tobytes()].astype(np.int64))
        hot = torch.nn.functional.one_hot(label, CLASSES).permute(2, 0, 1)
        return 20.0 * hot[None].float(), 1


def clip(name: str, *indices: int, breaks: tuple[int, ...] = ()) -> Clip:
    return Clip(name, indices, frozenset(breaks))


def filmed(source: Any, flow: Any, *clips: Clip, canvas: tuple[int, int] = SIZE) -> ClipDataset:
    return ClipDataset(source, canvas, clips, flow)


def by_hand(source: Any, pairs: list[tuple[int, int]]) -> tuple[float, float]:
    """mIoU and share of equal pixels, with nothing moving, pixel by pixel."""
    counts: dict[tuple[int, int], int] = {}
    for pair in pairs:
        now, later = (source.load(index).image.argmax(2).ravel().tolist() for index in pair)
        for one, other in zip(now, later, strict=True):
            counts[one, other] = counts.get((one, other), 0) + 1
    ious = []
    for each in range(3):
        row = sum(n for (one, _), n in counts.items() if one == each)
        column = sum(n for (_, other), n in counts.items() if other == each)
        same = counts.get((each, each), 0)
        ious.append(same / (row + column - same))
    same = sum(n for (one, other), n in counts.items() if one == other)
    return sum(ious) / 3, same / sum(counts.values())


def test_counts_of_clips_are_added_before_iou_is_taken(film: Any) -> None:
    source, still = film([(None, None)] * 7, size=SIZE), Still()
    dataset = filmed(source, still, clip("a", 0, 1), clip("b", 2, 3, 4, 5, 6, breaks=(3,)))
    progress: list[int] = []
    found = measure_clips(ByColour(), dataset, on_frames=progress.append)
    pairs = [(0, 1), (2, 3), (3, 4), (5, 6)]
    assert still.asked == pairs
    assert found.pairs == 4
    assert progress == [1, 2, 3, 4, 5, 6, 7]
    miou, pixels = by_hand(source, pairs)
    assert found.consistency.whole.miou == pytest.approx(miou)
    assert found.consistency.whole.pixels == pytest.approx(pixels)
    assert found.consistency.visible is None
    for one, own in zip(found.clips, (pairs[:1], pairs[1:]), strict=True):
        assert one.consistency.whole.miou == pytest.approx(by_hand(source, own)[0])
        assert len(one.consistency.curve) == len(own)
    assert miou != pytest.approx(np.mean([each.consistency.whole.miou for each in found.clips]))
    # of warping errors the mean is over the clips
    assert found.stability == pytest.approx(np.mean([each.stability for each in found.clips]))
    assert found.frame_error == pytest.approx(np.mean([each.frame_error for each in found.clips]))
    assert [each.missing_pairs for each in found.clips] == [0, 1]


def test_one_unbroken_clip_is_what_a_meter_finds(film: Any) -> None:
    source = film([(None, None)] * 4, size=SIZE)
    seen = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
    seen[..., :20] = True
    found = measure_clips(ByColour(), filmed(source, Still(seen), clip("a", 2, 0, 3)), keep=True)
    meter, flow = ClipMeter(ByColour()), FrameFlow(torch.zeros(1, 2, *SIZE), seen)
    frames = [source.load(index).image for index in (2, 0, 3)]
    predictions = [meter.add(frame, flow if at else None)[0] for at, frame in enumerate(frames)]
    consistency, stability, frame_error = meter.result()
    assert found.clips[0].consistency == consistency == found.consistency
    assert found.stability == stability
    assert found.frame_error == frame_error
    np.testing.assert_array_equal(np.stack(found.predictions), torch.stack(predictions).numpy())
    document = json.loads(json.dumps(found.to_dict()))
    assert document["consistency"]["visible"]["miou"] == consistency.visible.miou
    assert len(document["clips"][0]["consistency"]["curve"]) == 2


def test_a_bad_frame_breaks_the_clip_and_is_named(film: Any) -> None:
    source, still = film([(None, None)] * 6, size=SIZE, bad={2}), Still()
    found = measure_clips(ByColour(), filmed(source, still, clip("a", 0, 1, 2, 3, 4, 5)))
    assert still.asked == [(0, 1), (3, 4), (4, 5)]
    assert [(each.frame_id, each.reason) for each in found.skipped] == [("frame2", "frame2: torn")]
    assert (found.clips[0].frames, found.clips[0].pairs, found.clips[0].missing_pairs) == (5, 3, 2)


def test_frames_of_two_sizes_are_no_pair(film: Any) -> None:
    source, still = film([(None, None)] * 4, size=SIZE, sizes={2: (12, 32), 3: (12, 32)}), Still()
    found = measure_clips(ByColour(), filmed(source, still, clip("a", 0, 1, 2, 3)))
    assert still.asked == [(0, 1), (2, 3)]
    assert found.clips[0].missing_pairs == 1


def test_a_clip_without_a_pair_is_left_out_and_all_of_them_are_an_error(film: Any) -> None:
    source = film([(None, None)] * 6, size=SIZE, bad={1, 2})
    useless, good = clip("torn", 0, 1, 2), clip("good", 3, 4)
    found = measure_clips(ByColour(), filmed(source, Still(), useless, good), keep=True)
    assert [each.clip for each in found.left_out] == ["torn"]
    assert [each.name for each in found.clips] == ["good"]
    assert len(found.predictions) == 2  # of the first clip that was measured
    with pytest.raises(ConfigError, match=r"no two frames of any clip.*\n  clip torn: no two") as e:
        measure_clips(ByColour(), filmed(source, Still(), useless))
    assert "frame frame1: frame1: torn" in str(e.value)
    hidden = Still(torch.zeros(1, 1, *SIZE, dtype=torch.bool))
    with pytest.raises(ConfigError, match="clip good: "):
        measure_clips(ByColour(), filmed(source, hidden, good))
    with pytest.raises(ArtifactError, match="not finite"):
        measure_clips(ByColour(float("nan")), filmed(source, Still(), good))


def labels_along(canvas: tuple[int, int]) -> Any:
    source = DemoSource(DemoConfig(clips=2, frames_per_clip=4, height=48, width=64))
    known = {}
    for index in range(len(source)):
        frame = source.load(index)
        padding = [(0, have - want) for have, want in zip(canvas, (48, 64), strict=True)]
        image = np.pad(frame.image, [*padding, (0, 0)])
        # what is said of the padding must not matter
        known[image.tobytes()] = np.pad(frame.label, padding, constant_values=index % CLASSES)
    flow = ExactFlow(source, "street", both_ways=True)
    dataset = filmed(source, flow, clip("a", *range(4)), clip("b", *range(4, 8)), canvas=canvas)
    return measure_clips(Knows(known), dataset)


def test_labels_are_steady_along_the_exact_flow_where_it_can_be_seen() -> None:
    found = labels_along((48, 64))
    assert found.pairs == 6
    assert found.consistency.visible.miou == 1
    assert found.consistency.visible.pixels == 1
    assert 0.5 < found.consistency.visible.counted < 1
    assert 0.5 < found.consistency.whole.miou < 1
    assert found.stability == pytest.approx(0, abs=1e-9)
    assert 0 < found.frame_error < 0.01


def test_padding_does_not_count() -> None:
    assert labels_along((56, 64)) == labels_along((48, 64))


def test_following_alone_asks_for_the_same_pairs(film: Any) -> None:
    source, still, progress = film([(None, None)] * 5, size=SIZE), Still(), []
    dataset = filmed(source, still, clip("a", 0, 1, 2, breaks=(1,)), clip("b", 4, 3))
    dataset.compute_flow(progress.append)
    assert still.asked == [(1, 2), (4, 3)]
    assert progress == list(range(1, len(dataset) + 1))
