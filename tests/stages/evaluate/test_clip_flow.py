"""Flow that is computed once and kept, and flow that a source knows."""

from __future__ import annotations

import gzip
import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate import clip_flow
from stillroom.stages.evaluate.clip_flow import ClipFrame, ExactFlow, KeptFlow
from stillroom.stages.models.flow.dis import DisConfig
from stillroom.stages.models.flow.flow_model import build_flow_model
from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.warp import visible
from stillroom.storage_specs.errors import CacheUnwritable, ConfigError, FrameError
from stillroom.storage_specs.fingerprint import Digest

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = DemoSource(DemoConfig(clips=1, frames_per_clip=4, height=64, width=80))


def frame(index: int, canvas: tuple[int, int] = (64, 80)) -> ClipFrame:
    return ClipFrame(index, to_canvas(SOURCE.load(index), canvas))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pairs for which a flow model was asked."""
    asked: list[Any] = []

    def build(config: Any) -> Any:
        model = build_flow_model(config)

        def flow(first: np.ndarray, second: np.ndarray) -> torch.Tensor:
            asked.append((first, second))
            return model.flow(first, second)

        return SimpleNamespace(flow=flow)

    monkeypatch.setattr(clip_flow, "build_flow_model", build)
    return asked


def kept(folder: Path, *, preset: str = "fast", both_ways: bool = True) -> KeptFlow:
    config = DisConfig.model_validate({"preset": preset})
    return KeptFlow(config, folder, both_ways=both_ways)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_step_is_the_models_flow_to_half_a_step_of_the_codec(tmp_path: Path) -> None:
    step = kept(tmp_path).between(frame(0), frame(1))
    model, (now, later) = build_flow_model(DisConfig(preset="fast")), (frame(0), frame(1))
    there = model.flow(now.image[None], later.image[None])
    back = model.flow(later.image[None], now.image[None])
    assert there.abs().max() > 1
    assert (step.flow - there).abs().max() <= 1 / 128
    assert step.visible is not None
    assert step.visible.shape == (1, 1, 64, 80)
    assert (step.visible == visible(there, back)).float().mean() > 0.99


def test_a_pair_is_computed_once_for_all_who_ask(tmp_path: Path, computed: list[Any]) -> None:
    first = kept(tmp_path).between(frame(0), frame(1))
    assert len(computed) == 2  # there and back
    again = kept(tmp_path).between(frame(0), frame(1))
    alone = kept(tmp_path, both_ways=False).between(frame(0), frame(1))
    assert len(computed) == 2
    assert torch.equal(first.flow, again.flow)
    assert torch.equal(first.flow, alone.flow)
    assert alone.visible is None
    # padding is no part of a frame, and neither is its number
    padded = kept(tmp_path).between(ClipFrame(7, frame(0, (80, 80)).frame), frame(1, (80, 80)))
    assert torch.equal(padded.flow, first.flow)
    assert len(computed) == 2
    kept(tmp_path).between(frame(1), frame(2))
    assert len(computed) == 4
    kept(tmp_path, preset="ultrafast").between(frame(0), frame(1))
    assert len(computed) == 6
    assert len(files(tmp_path)) == 6


def test_flow_that_was_kept_by_an_older_digest_of_the_weights_is_found(
    tmp_path: Path, computed: list[Any]
) -> None:
    class Weighted(DisConfig):
        def identity(self) -> dict[str, Any]:
            return {**super().identity(), "weights": weights[0]}

    weights = ["the old form"]
    config = Weighted.model_validate({})
    before = KeptFlow(config, tmp_path, both_ways=False).between(frame(0), frame(1))
    weights[0] = Digest("the new form", older="the old form")
    after = KeptFlow(config, tmp_path, both_ways=False).between(frame(0), frame(1))
    assert torch.equal(before.flow, after.flow)
    assert len(computed) == 1


def test_a_file_is_an_array_that_anyone_can_read(tmp_path: Path) -> None:
    step = kept(tmp_path, both_ways=False).between(frame(0), frame(1))
    (path,) = files(tmp_path)
    with gzip.open(path) as file:
        steps = np.load(file, allow_pickle=False)
    assert steps.dtype == np.int16
    np.testing.assert_array_equal(steps[None] / np.float32(64), step.flow.numpy())


def gzipped(array: Any, **more: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return gzip.compress(buffer.getvalue())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + bytes([content[200] ^ 4]) + content[201:],
        lambda content: gzip.compress(b"no array"),
        lambda content: gzipped(np.zeros((2, 3, 4), np.int16)),
        lambda content: gzipped(np.zeros((2, 64, 80), np.float32)),
        lambda content: gzipped(np.array([{}], object), allow_pickle=True),
    ],
    ids=["empty", "cut", "a bit", "no array", "another shape", "another type", "a pickle"],
)
def test_what_is_damaged_is_computed_again(tmp_path: Path, computed: list[Any], spoil: Any) -> None:
    whole = kept(tmp_path, both_ways=False).between(frame(0), frame(1))
    (path,) = files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(spoil(content))
    again = kept(tmp_path, both_ways=False).between(frame(0), frame(1))
    assert len(computed) == 2
    assert torch.equal(whole.flow, again.flow)
    assert path.read_bytes() == content
    assert files(tmp_path) == [path]


def test_a_flow_beyond_the_codec_ends_at_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = SimpleNamespace(flow=lambda *_: torch.full((1, 2, 64, 80), -3000.0))
    monkeypatch.setattr(clip_flow, "build_flow_model", lambda _: wild)
    step = kept(tmp_path).between(frame(0), frame(1))
    assert step.flow.min() == pytest.approx(-32767 / 64)
    assert step.visible is not None
    assert not step.visible.any()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CacheUnwritable, match=r"taken.*give evaluate.video.path another folder"):
        kept(tmp_path / "taken").between(frame(0), frame(1))


def test_the_exact_flow_is_the_sources_own() -> None:
    flow, seen = SOURCE.flow(1)
    step = ExactFlow(SOURCE, "street", both_ways=True).between(frame(1), frame(2))
    np.testing.assert_array_equal(step.flow[0].numpy(), flow)
    assert step.visible is not None
    np.testing.assert_array_equal(step.visible[0, 0].numpy(), seen)
    assert ExactFlow(SOURCE, "street", both_ways=False).between(frame(1), frame(2)).visible is None


def test_the_exact_flow_is_refused_where_it_is_not_known(film: Any) -> None:
    with pytest.raises(ConfigError, match=r"is for sources that know.* and 'film' does"):
        ExactFlow(film([]), "film", both_ways=True)
    exact = ExactFlow(SOURCE, "street", both_ways=True)
    with pytest.raises(ConfigError, match=r"'street' is of 64x80 pixels, and the canvas .* 32x40"):
        exact.between(frame(0, (32, 40)), frame(1, (32, 40)))
    with pytest.raises(FrameError, match="leads to the next frame only"):
        exact.between(frame(0), frame(2))
