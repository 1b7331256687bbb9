"""Temporal consistency: hand-made 2x2 frames, loops over pixels, labels along their own flow."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate.temporal_consistency import TemporalConsistency
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.storage_specs.errors import ArtifactError, ConfigError

STILL = torch.zeros(1, 2, 2, 2)


def frame(*rows: list[int]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.uint8)


def moving(u: float, v: float, size: tuple[int, int] = (2, 2)) -> torch.Tensor:
    return torch.tensor([float(u), float(v)]).view(1, 2, 1, 1).repeat(1, 1, *size)


def of(num_classes: int, *pairs, **masks):
    found = TemporalConsistency(num_classes)
    for now, later, flow in pairs:
        found.add(now, later, flow, **masks)
    return found.scores()


def test_one_pixel_of_four_changes() -> None:
    found = of(2, (frame([0, 0], [1, 1]), frame([0, 1], [1, 1]), STILL))
    # class 0: {a, b} and {a}; class 1: {c, d} and {b, c, d}
    assert found.whole.iou == pytest.approx((1 / 2, 2 / 3))
    assert found.whole.miou == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.whole.pixels == pytest.approx(3 / 4)
    assert found.whole.counted == 1
    assert found.visible is None


def test_what_moves_with_its_class_is_steady_and_what_leaves_does_not_count() -> None:
    now, later = frame([0, 1], [2, 3]), frame([9, 0], [9, 2])  # everything moves to the right by 1
    found = of(10, (now, later, moving(1, 0)))
    assert found.whole.miou == 1
    assert found.whole.counted == 1 / 2
    assert found.whole.iou[1] is None  # class 1 left the frame
    assert of(10, (now, later, STILL)).whole.pixels == 0


def test_the_flow_is_from_t_to_t_plus_1_with_v_downwards() -> None:
    now, later = frame([0, 1], [2, 3]), frame([4, 4], [0, 1])
    assert of(5, (now, later, moving(0, 1))).whole.miou == 1
    assert of(5, (now, later, moving(0, -1))).whole.pixels == 0


def test_labels_are_looked_up_and_no_class_is_invented() -> None:
    now = frame([0, 2], [0, 2])
    found = of(3, (now, now, moving(0.4, 0)))
    assert found.whole.iou == (1, None, 1)
    found = of(3, (now, now, moving(0.6, 0)))  # the left column looks at the right one
    assert found.whole.iou == (0, None, 0)


def test_hidden_pixels_count_in_the_whole_score_alone() -> None:
    pair = frame([0, 0], [1, 1]), frame([1, 0], [1, 1]), STILL
    visible = torch.tensor([[[[False, True], [True, True]]]])
    found = of(2, pair, visible=visible)
    assert found.whole.pixels == 3 / 4
    assert found.visible is not None
    assert found.visible.miou == 1
    assert found.visible.counted == 3 / 4
    assert found.curve[0].pixels == 3 / 4
    assert found.curve[0].visible_pixels == 1


def test_a_class_counts_wherever_it_is_predicted_and_t_weighs_as_t_plus_1() -> None:
    one, other = frame([0, 0], [0, 0]), frame([0, 0], [0, 2])
    forth, back = of(3, (one, other, STILL)), of(3, (other, one, STILL))
    assert forth.whole.iou == back.whole.iou == (3 / 4, None, 0)
    assert forth.whole.miou == (3 / 4 + 0) / 2


def test_void_and_padding_do_not_count_on_either_side() -> None:
    found = of(2, (frame([255, 0], [1, 1]), frame([0, 255], [1, 0]), STILL))
    assert found.whole.counted == 1 / 2
    assert found.whole.pixels == 1 / 2


def test_a_clip_is_scored_by_its_pixels_together_and_its_curve_pair_by_pair() -> None:
    steady = frame([0, 0], [0, 1]), frame([0, 0], [0, 1]), STILL
    turning = frame([0, 0], [0, 1]), frame([1, 1], [1, 0]), STILL
    found = of(2, steady, turning)
    assert [pair.miou for pair in found.curve] == [1, 0]
    assert found.whole.iou == pytest.approx((3 / 7, 1 / 5))  # 3+3 and 3+1 pixels; 1+1 and 1+3
    batch = [torch.cat(part) for part in zip(steady, turning, strict=True)]
    assert of(2, batch) == found
    assert json.loads(json.dumps(found.to_dict()))["curve"][1]["pixels"] == 0


def by_loops(num_classes: int, pairs, masked: bool) -> list[float | None]:
    counts = np.zeros((num_classes, num_classes))
    for now, later, flow, visible in pairs:
        _, height, width = now.shape
        for y in range(height):
            for x in range(width):
                column = math.floor(x + float(flow[0, 0, y, x]) + 0.5)
                row = math.floor(y + float(flow[0, 1, y, x]) + 0.5)
                if not (0 <= column < width and 0 <= row < height):
                    continue
                if now[0, y, x] == 255 or later[0, row, column] == 255:
                    continue
                if masked and not visible[0, 0, y, x]:
                    continue
                counts[now[0, y, x], later[0, row, column]] += 1
    found: list[float | None] = []
    for k in range(num_classes):
        union = counts[k].sum() + counts[:, k].sum() - counts[k, k]
        found.append(counts[k, k] / union if union else None)
    return found


def test_it_is_the_definition_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    pairs = []
    for _ in range(3):
        now, later = torch.randint(0, 5, (2, 1, 6, 7)).to(torch.uint8)
        now[0, 0, :2], later[0, 3, 4] = 255, 255
        pairs.append((now, later, 3 * torch.randn(1, 2, 6, 7), torch.rand(1, 1, 6, 7) < 0.7))
    counted = TemporalConsistency(6)  # class 5 is never predicted
    for now, later, flow, visible in pairs:
        counted.add(now, later, flow, visible=visible)
    found = counted.scores()
    assert found.visible is not None
    for score, masked in ((found.whole, False), (found.visible, True)):
        expected = by_loops(6, pairs, masked)
        assert expected[5] is None
        assert score.iou == pytest.approx(expected)
        assert score.miou == pytest.approx(np.mean([each for each in expected if each is not None]))


def test_labels_along_their_own_exact_flow_are_perfectly_steady_where_they_are_visible() -> None:
    source = DemoSource(DemoConfig(clips=1, frames_per_clip=4))
    assert source.classes is not None
    found = TemporalConsistency(len(source.classes))
    for index in range(3):
        now, later = (torch.from_numpy(source.load(index + k).label.copy())[None] for k in (0, 1))
        flow, seen = (torch.from_numpy(part)[None] for part in source.flow(index))
        found.add(now, later, flow, visible=seen[:, None])
    scores = found.scores()
    assert scores.visible is not None
    assert scores.visible.miou == 1
    assert scores.visible.pixels == 1
    assert scores.visible.counted > 0.5
    assert sum(each is not None for each in scores.visible.iou) >= 5
    assert 0.7 < scores.whole.miou < 1  # outlines and what is hidden cost the score without mask


def test_a_pair_without_a_counted_pixel_leaves_a_gap_in_the_curve() -> None:
    same = frame([0, 1], [0, 1])
    found = of(2, (same, same, moving(5, 0)), (same, same, STILL))
    assert found.curve[0].miou is None
    assert found.curve[0].pixels is None
    assert found.whole.miou == 1
    assert found.whole.counted == 1 / 2


def test_what_cannot_be_scored_is_refused() -> None:
    same = frame([0, 1], [0, 1])
    with pytest.raises(ArtifactError, match="nothing to score"):
        of(2, (same, same, moving(5, 0)))
    with pytest.raises(ArtifactError, match=r"\(1, 2, 2\) and \(1, 2, 4, 4\)"):
        of(2, (same, same, torch.zeros(1, 2, 4, 4)))
    with pytest.raises(ArtifactError, match=r"label map is \(B, H, W\).*\(1, 1, 2\)"):
        of(2, (same, same[:, :1], STILL))
    with pytest.raises(ArtifactError, match=r"visible must be \(1, 1, 2, 2\) torch.bool"):
        of(2, (same, same, STILL), visible=torch.ones(1, 1, 2, 2))
    with pytest.raises(ArtifactError, match=r"expected 0\.\.1"):
        of(2, (same, frame([0, 1], [0, 7]), STILL))
    found = TemporalConsistency(2)
    found.add(same, same, STILL, visible=torch.ones(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ConfigError, match="with a mask of what is visible, or none"):
        found.add(same, same, STILL)


def released_by_loops(num_classes: int, pairs) -> float:
    """The released code, addend by addend in its types: edges repeated, absent classes 0."""
    counts = np.zeros((num_classes, num_classes))
    one = np.float64(1)
    for now, later, flow in pairs:
        height, width = now.shape[1:]
        for y in range(height):
            for x in range(width):
                u = np.float32(x) + flow[0, 0, y, x].numpy()
                v = np.float32(y) + flow[0, 1, y, x].numpy()
                a, b = u - np.floor(u), v - np.floor(v)
                value = np.float32(0)
                for row, part in ((int(np.floor(v)), one - b), (int(np.floor(v)) + 1, b)):
                    for column, share in ((int(np.floor(u)), one - a), (int(np.floor(u)) + 1, a)):
                        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                        number = np.float64(later[0, row, column])
                        value += np.float32(np.float64(share) * np.float64(part) * number)
                counts[now[0, y, x], int(value)] += 1
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return float((np.diag(counts) / (union + 1e-10)).mean())


def test_the_released_metric_stands_beside_it() -> None:
    torch.manual_seed(0)
    pairs = []
    for _ in range(3):
        now, later = torch.randint(0, 4, (2, 1, 8, 9)).to(torch.uint8)
        now[:, :5], later[:, :5] = 3, 3  # where rounding alone decides
        pairs.append((now, later, 3 * torch.randn(1, 2, 8, 9)))
    expected = released_by_loops(6, pairs)
    assert of(6, *pairs).released == pytest.approx(expected)
    one, others = TemporalConsistency(6), TemporalConsistency(6)
    one.add(*pairs[0])
    others.add(*pairs[1])
    others.add(*pairs[2])
    one.join(others)
    assert one.scores().released == pytest.approx(expected)
    assert one.scores().whole.miou != pytest.approx(expected, abs=0.01)
