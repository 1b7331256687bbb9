"""A batch's way off a GPU: its bytes in one piece, and when they may be looked at."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.stages.cache import device_copy
from stillroom.stages.cache.cache_shard import ShardJob, ShardWork, cache_shard
from stillroom.stages.cache.device_copy import Underway, packed, stacked, to_host, unpacked
from stillroom.stages.cache.shard_threads import ShardThreads, Turn
from stillroom.storage_specs.codecs.plain import Exact
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache


def batch(first: int = 0) -> list[dict[str, torch.Tensor]]:
    """Two frames with tensors of odd sizes and every kind of item."""
    generator = torch.Generator().manual_seed(first)
    return [
        {
            "pseudo_label": torch.randint(0, 255, (3, 5), generator=generator, dtype=torch.uint8),
            "logits": torch.randn(2, 3, 5, generator=generator),
            "half": torch.randn(7, generator=generator).half(),
            "strided": torch.randn(4, 6, generator=generator)[:, ::2],
        }
        for _ in range(2)
    ]


def test_every_tensor_comes_out_of_the_one_copy_as_it_was() -> None:
    frames = batch()
    content = packed([each for frame in frames for each in frame.values()])
    assert content.dtype == torch.uint8
    assert len(content) == 2 * (15 + 4 * 30 + 2 * 7 + 4 * 12)
    for frame, arrays in zip(frames, unpacked(content, frames), strict=True):
        assert list(arrays) == list(frame)
        for name, tensor in frame.items():
            assert arrays[name].dtype == tensor.numpy().dtype
            np.testing.assert_array_equal(arrays[name], tensor.numpy())


def test_on_a_cpu_nothing_is_underway() -> None:
    made = to_host(batch(), None)
    assert isinstance(made, list)
    np.testing.assert_array_equal(made[1]["logits"], batch()[1]["logits"].numpy())
    images = [np.full((2, 3, 3), k, np.uint8) for k in range(3)]
    np.testing.assert_array_equal(stacked(images, "cpu").numpy(), np.stack(images))


class Recorder:
    """A GPU that has done nothing yet: its copies happen when somebody waits for them."""

    def __init__(self) -> None:
        self.said: list[str] = []
        recorder = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.name = "timed" if enable_timing else "copied"

            def record(self) -> None:
                recorder.said.append(f"record {self.name}")

            def synchronize(self) -> None:
                recorder.said.append(f"wait {self.name}")

            def elapsed_time(self, _: Any) -> float:
                return 250.0  # ms

        class Stream:
            def __init__(self, _: torch.device) -> None:
                pass

            def wait_event(self, event: Event) -> None:
                recorder.said.append(f"copy after {event.name}")

        self.Event, self.Stream = Event, Stream


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder, empty = Recorder(), torch.empty
    monkeypatch.setattr(torch.cuda, "Event", recorder.Event)
    monkeypatch.setattr(torch.cuda, "Stream", recorder.Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    unpinned = {"pin_memory": False}
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **{**k, **unpinned}))
    device_copy._copying.cache_clear()
    yield recorder
    device_copy._copying.cache_clear()


def test_a_gpus_arrays_are_waited_for_when_they_are_looked_at(gpu: Recorder) -> None:
    made = to_host(batch(), device_copy.start_of("cuda"))
    assert isinstance(made, Underway)
    assert gpu.said == ["record timed", "record timed", "copy after timed", "record copied"]
    assert len(made) == 2
    assert "wait copied" not in gpu.said
    np.testing.assert_array_equal(made[1]["logits"], batch()[1]["logits"].numpy())
    assert next(iter(made)).keys() == batch()[0].keys()
    assert gpu.said.count("wait copied") == 1
    assert made.seconds == 0.25


def test_a_batch_on_a_gpu_is_waited_for_when_the_next_is_underway(
    gpu: Recorder, tmp_path: Any
) -> None:
    class Numbers:
        def __len__(self) -> int:
            return 7

        def load(self, index: int) -> int:
            return index

        def row(self, index: int) -> FrameRow:
            return FrameRow(index, str(index))

        def finished_row(self, index: int, loaded: int, arrays: Any) -> FrameRow:
            return FrameRow(index, str(loaded), valid_height=1, valid_width=1)

    def produce(numbers: list[int]) -> Any:
        gpu.said.append(f"launch {numbers[0]}")
        began = device_copy.start_of("cuda")
        return to_host([{"logits": torch.full((1, 2, 2), float(n))} for n in numbers], began)

    spec = ArraySpec("logits", (1, 2, 2), Exact(), {"name": "none"}, {"stride": 1})
    target = Cache.create(tmp_path / "my.cache").define("s", "t", {}, 7, 7, [spec])
    work = ShardWork("s", "t", 0, ("logits",))
    with ShardThreads(1, 2) as threads:
        report = cache_shard(ShardJob(work, Numbers(), produce, target, 2, Turn(), threads))
    assert [target.read("logits", k)[0, 0, 0] for k in range(7)] == list(range(7))
    steps = [one for one in gpu.said if one.startswith("launch") or one == "wait copied"]
    copied = "wait copied"
    assert steps == ["launch 0", "launch 2", copied, "launch 4", copied, "launch 6", copied, copied]
    assert report.produce_seconds == pytest.approx(4 * 0.25)
    row = target.rows().to_pylist()[0]
    assert row["seconds"] == pytest.approx(0.125)
