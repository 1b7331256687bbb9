"""Parameters, FLOPs and time, against counts made by hand."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from stillroom.stages.evaluate.cost import (
    count_flops,
    count_parameters,
    measure_cost,
    measure_speed,
)
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from stillroom.stages.evaluate.predict import Predictor


def predicting(module: nn.Module) -> Predictor:
    def predict(frames: np.ndarray) -> tuple[torch.Tensor, int]:
        with torch.inference_mode():
            return module(torch.from_numpy(frames).permute(0, 3, 1, 2).float()), 1

    return predict


class Attention(nn.Module):
    """Every pixel attends to every pixel: 3 -> 8 channels, 2 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        tokens = self.embed(images.flatten(2).transpose(1, 2))  # (B, HW, 8)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return mixed.transpose(1, 2).unflatten(2, (height, width))


def test_a_multiply_accumulate_counts_as_two() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
    ).eval()
    by_hand = 2 * (16 * 20 * 8 * 3 * 9) + 2 * (8 * 10 * 8 * 1 * 9)
    assert count_flops(predicting(network), (16, 20)) == by_hand


def test_attention_is_counted_though_its_fused_kernel_hides_it() -> None:
    tokens = 4 * 5
    by_hand = 2 * tokens * 3 * 8  # embedding
    by_hand += 4 * 2 * tokens * 8 * 8  # queries, keys, values, output
    by_hand += 2 * 2 * tokens * tokens * 8  # scores, and the mixing by them
    before = torch.backends.mha.get_fastpath_enabled()
    assert count_flops(predicting(Attention().eval()), (4, 5)) == by_hand
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_parameters_count_once_and_buffers_never() -> None:
    shared = nn.Linear(4, 4, bias=False)
    network = nn.Sequential(shared, nn.BatchNorm1d(4), shared)
    assert count_parameters(network) == 16 + 8


def test_speed_times_only_the_calls_after_the_warm_up() -> None:
    calls: list[tuple[int, ...]] = []

    def slow_at_first(frames: np.ndarray) -> tuple[torch.Tensor, int]:
        calls.append(frames.shape)
        time.sleep(0.2 if len(calls) <= 2 else 0.002)
        return torch.zeros(1, 2, 4, 6), 1

    speed = measure_speed(slow_at_first, (4, 6), runs=5, warm_up=2)
    assert calls == [(1, 4, 6, 3)] * 7
    assert 2 <= speed.median_ms <= speed.p95_ms < 200
    assert speed.frames_per_second == pytest.approx(1000 / speed.median_ms)
    assert (speed.runs, speed.warm_up) == (5, 2)
    assert speed.device.startswith("cpu, ")


def test_the_cost_is_a_json_document_with_its_input_size() -> None:
    network = nn.Conv2d(3, 2, 1)
    document = json.loads(
        json.dumps(measure_cost(predicting(network), network, (4, 6), runs=2).to_dict())
    )
    assert (document["height"], document["width"]) == (4, 6)
    assert (document["parameters"], document["flops"]) == (8, 2 * 4 * 6 * 3 * 2)
    assert document["speed"]["runs"] == 2


@pytest.mark.parametrize("setting", [{"runs": 0}, {"warm_up": 0}])
def test_timing_nothing_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected runs >= 1 and warm_up >= 1"):
        measure_speed(predicting(nn.Identity()), (4, 6), **setting)


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        count_flops(predicting(nn.Identity()), (0, 6))
