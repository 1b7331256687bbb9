from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from stillroom.stages.models.flow.flow_model import build_flow_model
from stillroom.stages.models.flow.raft_small.load import RaftSmallConfig
from stillroom.stages.models.flow.raft_small.network import RaftSmall, all_pairs, look_up
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

ENCODER = {
    "convnormrelu.0": "conv1",
    "convnormrelu1.0": "conv1",
    "convnormrelu2.0": "conv2",
    "convnormrelu3.0": "conv3",
    "conv": "conv2",
}
UPDATE = {
    "motion_encoder.convcorr1.0": "encoder.convc1",
    "motion_encoder.convflow1.0": "encoder.convf1",
    "motion_encoder.convflow2.0": "encoder.convf2",
    "motion_encoder.conv.0": "encoder.conv",
    "recurrent_block.convgru1.": "gru.",
}


def torchvisions_name(name: str) -> str:
    """The original code's name for a tensor that torchvision names otherwise."""
    part, _, rest = name.partition(".")
    layer, _, kind = rest.rpartition(".")
    if part == "update_block":
        for theirs, ours in UPDATE.items():
            layer = layer.replace(theirs, ours)
        return f"update_block.{layer}.{kind}"
    block, inner = (layer[:9], layer[9:]) if layer.startswith("layer") else ("", layer)
    net = {"feature_encoder": "fnet", "context_encoder": "cnet"}[part]
    return f"{net}.{block}{ENCODER.get(inner, inner)}.{kind}"


def random_raft(seed: int = 0) -> RaftSmall:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RaftSmall().eval()


@torch.inference_mode()
def test_it_is_torchvisions_raft_small_under_other_names() -> None:
    import_torchvision()
    from torchvision.models.optical_flow import raft_small

    ours, theirs = random_raft(), raft_small(weights=None, progress=False).eval()
    state = ours.state_dict()
    assert len(state) == 106
    assert sum(tensor.numel() for tensor in state.values()) == 990_162
    renamed = {name: torchvisions_name(name) for name in theirs.state_dict()}
    assert set(renamed.values()) == set(state)
    for name, tensor in state.items():  # random numbers that let correlations be heard
        tensor.mul_(2.0 if name.startswith("update_block") else 1.0)
    theirs.load_state_dict({name: state[old] for name, old in renamed.items()})
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 2, 3, 136, 160, generator=generator) * 2 - 1
    for iterations in (1, 6):
        found = ours(first, second, iterations)
        expected = theirs(first, second, num_flow_updates=iterations)[-1]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    reads = state["update_block.encoder.convc1.weight"]
    reads.copy_(reads.unflatten(1, (4, 7, 7)).transpose(2, 3).flatten(1, 3))
    other_order = ours(first, second, 6)  # of the window: the comparison would have seen it
    assert (other_order - expected).abs().mean() > 1e-2


def test_all_pairs_are_scaled_products_and_their_means() -> None:
    first, second = torch.randn(2, 1, 5, 8, 9, generator=torch.Generator().manual_seed(0))
    pyramid = all_pairs(first, second)
    assert [tuple(level.shape) for level in pyramid] == [
        (72, 1, 8, 9),
        (72, 1, 4, 4),
        (72, 1, 2, 2),
        (72, 1, 1, 1),
    ]
    for y, x in ((0, 0), (3, 7), (7, 8)):
        cell = y * 9 + x
        products = (first[0, :, y, x, None, None] * second[0]).sum(0) / math.sqrt(5)  # (8, 9)
        torch.testing.assert_close(pyramid[0][cell, 0], products)
        torch.testing.assert_close(pyramid[3][cell, 0, 0, 0], products[:, :8].mean())


def test_a_lookup_samples_every_scale_with_x_along_the_windows_first_axis() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 1, 3, 8, 10, generator=generator)
    pyramid = all_pairs(first, second)
    points = torch.rand(1, 2, 8, 10, generator=generator) * 14 - 2  # some far outside
    found = look_up(pyramid, points, radius=2)
    assert found.shape == (1, 4 * 25, 8, 10)
    for y, x in ((0, 0), (2, 9), (7, 4)):
        at_x, at_y = points[0, :, y, x].tolist()
        for level, maps in enumerate(pyramid):
            grid = maps[y * 10 + x, 0]
            for i in range(5):
                for j in range(5):
                    expected = bilinear_or_zero(
                        grid, at_x / 2**level + i - 2, at_y / 2**level + j - 2
                    )
                    value = found[0, level * 25 + i * 5 + j, y, x]
                    assert float(value) == pytest.approx(expected, abs=1e-4), (level, i, j)


def bilinear_or_zero(grid: torch.Tensor, x: float, y: float) -> float:
    height, width = grid.shape
    left, top = math.floor(x), math.floor(y)
    value = 0.0
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value += down * across * float(grid[row, column])
    return value


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "raft-small.pth"
    state = random_raft().state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("size", [(61, 93), (1, 1), (40, 200)])
def test_frames_of_any_size_get_a_flow_of_that_size(weights: Path, size: tuple[int, int]) -> None:
    model = build_flow_model(RaftSmallConfig(weights=weights, iterations=2, device="cpu"))
    frames = np.random.default_rng(1).integers(0, 256, (2, 2, *size, 3), np.uint8)
    flow = model.flow(*frames)
    assert flow.shape == (2, 2, *size)
    assert torch.isfinite(flow).all()


def test_frames_of_a_batch_do_not_see_each_other(weights: Path) -> None:
    model = build_flow_model(RaftSmallConfig(weights=weights, iterations=3, device="cpu"))
    frames_a, frames_b = np.random.default_rng(2).integers(0, 256, (2, 2, 64, 72, 3), np.uint8)
    together = model.flow(frames_a, frames_b)
    alone = torch.cat([model.flow(frames_a[i : i + 1], frames_b[i : i + 1]) for i in (0, 1)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_reduced_precision_keeps_the_flow_in_float32(weights: Path) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (2, 1, 64, 64, 3), np.uint8)
    flows = [
        build_flow_model(
            RaftSmallConfig(weights=weights, iterations=3, precision=precision, device="cpu")
        ).flow(*frames)
        for precision in ("float32", "bfloat16")
    ]
    assert flows[1].dtype == torch.float32
    assert not torch.equal(*flows)
    assert (flows[0] - flows[1]).abs().mean() < 0.1 * flows[0].abs().mean()


def test_another_networks_weights_are_refused_by_name(tmp_path: Path, weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    del state["module.update_block.gru.convq.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"1 missing: update_block\.gru\.convq\.bias"):
        build_flow_model(RaftSmallConfig(weights=tmp_path / "short.pth"))


def test_averaged_weights_beside_raw_ones_are_chosen_by_key(tmp_path: Path, weights: Path) -> None:
    averaged = torch.load(weights, weights_only=True)
    raw = {name.removeprefix("module."): tensor + 1 for name, tensor in averaged.items()}
    torch.save({"model": raw, "ema": averaged}, tmp_path / "both.pth")
    section = {"weights": tmp_path / "both.pth", "iterations": 2, "device": "cpu"}
    with pytest.raises(WeightsError, match='weights_key = "ema'):
        build_flow_model(RaftSmallConfig(**section))
    frames = np.random.default_rng(1).integers(0, 256, (2, 1, 64, 64, 3), np.uint8)
    chosen = build_flow_model(RaftSmallConfig(**section, weights_key="ema"))
    alone = build_flow_model(RaftSmallConfig(**{**section, "weights": weights}))
    assert torch.equal(chosen.flow(*frames), alone.flow(*frames))
    assert chosen.identity()["weights_key"] == "ema"
    assert "weights_key" not in alone.identity()


def read_flo(path: Path) -> NDArray[np.float32]:
    raw = np.fromfile(path, np.float32)
    width, height = raw[1:3].view(np.int32)
    assert raw[0] == np.float32(202021.25)
    return raw[3:].reshape(height, width, 2).transpose(2, 0, 1)


@pytest.mark.slow
def test_flying_chairs_are_followed_to_within_two_pixels(
    shared_data: Path, read_image: Callable[[Path], NDArray[np.uint8]]
) -> None:
    folder = shared_data / "flying_chairs"
    if not folder.is_dir():
        pytest.skip(f"no FlyingChairs pairs at {folder}")
    weights = shared_data / "weights" / "raft_small_chairs_things.pth"
    model = build_flow_model(RaftSmallConfig(weights=weights, iterations=12))
    errors, still = [], []
    for truth in sorted(folder.glob("*-gt.flo")):
        name = truth.name.partition("-")[0]
        pair = [read_image(folder / f"{name}-img{i}.png")[None] for i in (0, 1)]
        flow = read_flo(truth)
        errors.append(np.linalg.norm(model.flow(*pair)[0].cpu().numpy() - flow, axis=0).mean())
        still.append(np.linalg.norm(flow, axis=0).mean())
    assert len(errors) == 4
    assert np.mean(errors) < 2
    assert max(errors) < 3
    assert np.mean(still) > 5, "what no motion at all would score"
