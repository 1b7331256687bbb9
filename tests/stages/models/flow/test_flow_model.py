from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.flow.dis import DisConfig
from stillroom.stages.models.flow.flow_model import (
    FLOW_MODELS,
    FlowModel,
    FlowModelConfig,
    build_flow_model,
)
from stillroom.stages.models.flow.flow_network import FlowNetwork, Sides, resize_flow
from stillroom.stages.models.flow.flow_settings import FlowSettings
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.warp import warp
from stillroom.storage_specs.errors import ArtifactError, ConfigError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    Texture = Callable[[int, int], NDArray[np.uint8]]

PARSER: TypeAdapter[Any] = TypeAdapter(FlowModelConfig)
LEARNT = [kind for kind, (config, _) in FLOW_MODELS.items() if "weights" in config.model_fields]
MORE = {"torchvision": {"architecture": "raft_small"}}  # keys that a kind cannot do without


def parse(**section: Any) -> Any:
    return PARSER.validate_python(section)


def frames(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_sections_are_parsed_without_torch_or_opencv() -> None:
    code = (
        "import sys; import stillroom.stages.models.flow.flow_model\n"
        "from stillroom.stages.models.flow.dis import DisConfig\n"
        "DisConfig().identity()\n"
        "print(sorted({'torch', 'cv2', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("moved", [(5, -3), (-9, 4), (0, 0)])
@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_follows_a_known_translation(
    texture: Texture, preset: str, moved: tuple[int, int]
) -> None:
    u, v = moved
    # Cut at (-u, -v), what was at x in the first frame is at x + (u, v) in the second.
    first, second = texture(0, 0)[None], texture(-u, -v)[None]
    model = build_flow_model(parse(kind="dis", preset=preset))
    flow = model.flow(first, second)
    assert flow.shape == (1, 2, 128, 192)
    assert flow.dtype == torch.float32
    assert flow.is_contiguous()
    inner = flow[0, :, 16:-16, 16:-16]
    error = (inner - torch.tensor([u, v]).view(2, 1, 1)).norm(dim=0)
    assert error.mean() < 0.3
    image, other = (torch.from_numpy(x).permute(0, 3, 1, 2).float() for x in (first, second))
    brought = (warp(other, flow) - image).abs()[..., 16:-16, 16:-16].mean()
    assert brought < 4
    if moved != (0, 0):
        assert brought < 0.2 * (other - image).abs().mean()


@pytest.mark.parametrize("size", [(1, 1), (16, 128), (8, 320), (128, 11), (61, 93), (640, 20)])
def test_dis_takes_narrow_frames(size: tuple[int, int]) -> None:
    flow = build_flow_model(DisConfig()).flow(frames(2, *size, 3), frames(2, *size, 3))
    assert flow.shape == (2, 2, *size)
    assert torch.isfinite(flow).all()


@pytest.mark.parametrize("architecture", ["raft_small", "raft_large"])
def test_torchvisions_raft_is_called_as_torchvision_calls_it(
    tmp_path: Path, architecture: str
) -> None:
    import_torchvision()
    from torchvision.models import optical_flow

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = getattr(optical_flow, architecture)(weights=None, progress=False).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    config = parse(
        kind="torchvision",
        architecture=architecture,
        weights=tmp_path / "w.pth",
        iterations=2,
        device="cpu",
    )
    before = torch.get_rng_state()
    model = build_flow_model(config)
    assert torch.equal(torch.get_rng_state(), before), "a build leaves torch's generator alone"
    a, b = frames(2, 1, 128, 136, 3)
    images = [torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (a, b)]
    with torch.inference_mode():
        expected = network(*images, num_flow_updates=2)[-1]
    torch.testing.assert_close(model.flow(a, b), expected, atol=1e-4, rtol=1e-4)
    assert model.flow(*frames(2, 1, 61, 93, 3)).shape == (1, 2, 61, 93)


def test_torchvisions_raft_refuses_the_original_names(tmp_path: Path) -> None:
    torch.save({"module.fnet.conv1.weight": torch.zeros(32, 3, 7, 7)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 unexpected: module\.fnet\.conv1\.weight"):
        build_flow_model(
            parse(kind="torchvision", architecture="raft_small", weights=tmp_path / "w.pth")
        )


def constant(u: float, v: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: a.new_tensor([u, v]).view(1, 2, 1, 1).repeat(len(a), 1, *a.shape[-2:])


def test_a_resized_flow_is_in_the_frames_own_pixels() -> None:
    seen: list[tuple[int, ...]] = []

    def estimate(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        return constant(12.8, -6.4)(a, b)

    images = torch.rand(2, 3, 61, 93)
    flow = Sides(64, least=64, how="resize").around(estimate, images, images)
    assert seen == [(2, 3, 64, 128)]
    assert flow.shape == (2, 2, 61, 93)
    torch.testing.assert_close(flow[:, 0], torch.full((2, 61, 93), 12.8 * 93 / 128))
    torch.testing.assert_close(flow[:, 1], torch.full((2, 61, 93), -6.4 * 61 / 64))


def test_a_padded_flow_is_cut_and_its_vectors_are_kept() -> None:
    images = torch.arange(6.0).view(1, 1, 2, 3)

    def estimate(a: Tensor, b: Tensor) -> Tensor:
        assert a[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
        return constant(7, 3)(a, b)

    flow = Sides(4, least=4, how="pad").around(estimate, images, images)
    assert flow.shape == (1, 2, 2, 3)
    assert flow[0, :, 1, 2].tolist() == [7, 3]


def test_frames_of_fitting_sides_are_left_alone() -> None:
    images = torch.rand(1, 3, 64, 128)
    assert Sides(64, least=64, how="resize").around(lambda a, b: a, images, images) is images


def test_resizing_there_and_back_keeps_a_linear_flow() -> None:
    x = torch.linspace(0, 10, 40).expand(20, 40)
    flow = torch.stack([x, 2 * x])[None]
    back = resize_flow(resize_flow(flow, (60, 160)), (20, 40))
    torch.testing.assert_close(back[..., 2:-2, 2:-2], flow[..., 2:-2, 2:-2])


def test_the_identity_says_what_decides_the_flow_and_no_path(tmp_path: Path) -> None:
    for name, byte in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / f"{name}.pth").write_bytes(byte)
    base = {"kind": "raft_small", "weights": tmp_path / "a.pth"}
    described = parse(**base).identity()
    assert described == {
        "kind": "raft_small",
        "device": "auto",
        "precision": "float32",
        "iterations": 20,
        "weights_sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    }
    assert parse(**{**base, "weights": tmp_path / "b.pth"}).identity() == described
    for change in (
        {"weights": tmp_path / "c.pth"},
        {"precision": "bfloat16"},
        {"iterations": 12},
        {"device": "cpu"},
    ):
        assert parse(**{**base, **change}).identity() != described, change
    flownet2 = {"kind": "flownet2", "weights": tmp_path / "a.pth"}
    said = [
        parse(**flownet2, **change).identity()
        for change in ({}, {"input_mode": "etc_legacy"}, {"sides": "pad"})
    ]
    assert said[0]["input_mode"] == "rgb"
    assert said[0] != said[1] != said[2] != said[0]


def test_a_built_model_names_its_device() -> None:
    model = build_flow_model(DisConfig(preset="fast"))
    assert model.module is None
    assert model.identity() == {
        "kind": "dis",
        "preset": "fast",
        "device": "cpu",
        "precision": "float32",
    }
    model.identity()["preset"] = "changed"
    assert model.identity()["preset"] == "fast"


def test_frames_may_be_read_only_arrays_or_tensors() -> None:
    model = FlowModel(
        FlowSettings(),
        FlowNetwork(None, lambda a, b: (a - b).permute(0, 3, 1, 2)[:, :2]),
        "cpu",
        {},
    )
    a = frames(1, 4, 5, 3)
    a.flags.writeable = False
    assert not model.flow(a, torch.from_numpy(a.copy())).any()


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 64, 64, 3), (2, 64, 72, 3), r"one shape, got \(2, 64, 64, 3\) and \(2, 64, 72, 3\)"),
        ((2, 64, 64, 3), (1, 64, 64, 3), "bring both to one canvas"),
        ((64, 64, 3), (64, 64, 3), r"frames_a: expected uint8 \(B, H, W, 3\), got .*\(64, 64, 3\)"),
        ((1, 3, 64, 64), (1, 3, 64, 64), r"frames_a: .* \(1, 3, 64, 64\)"),
        ((1, 64, 64, 3), (1, 64, 64, 4), r"frames_b: .* \(1, 64, 64, 4\)"),
        ((0, 64, 64, 3), (0, 64, 64, 3), "expected some pixels"),
    ],
)
def test_frames_that_make_no_pair_are_refused(
    a: tuple[int, ...], b: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        build_flow_model(DisConfig()).flow(frames(*a), frames(*b))


def test_floating_frames_are_refused() -> None:
    good = frames(1, 64, 64, 3)
    with pytest.raises(ArtifactError, match=r"frames_b: expected uint8 .* torch\.float32"):
        build_flow_model(DisConfig()).flow(good, torch.from_numpy(good).float())


@pytest.mark.parametrize("kind", LEARNT)
def test_a_missing_weights_file_is_named(tmp_path: Path, kind: str) -> None:
    config = parse(kind=kind, weights=tmp_path / "nowhere.pth", **MORE.get(kind, {}))
    for use in (build_flow_model, type(config).identity):
        with pytest.raises(WeightsError, match=r"nowhere\.pth"):
            use(config)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", LEARNT)
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, kind: str, value: float
) -> None:
    torch.save({"good": torch.zeros(2), "bad": torch.tensor([value])}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="1 of 2 tensors hold values that are not finite: bad"):
        build_flow_model(parse(kind=kind, weights=tmp_path / "w.pth", **MORE.get(kind, {})))


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "flownet2"},
        {"kind": "raft_small"},
        {"kind": "raft_small", "weights": "w.pth", "iterations": 0},
        {"kind": "raft_small", "weights": "w.pth", "input_mode": "rgb"},
        {"kind": "flownet2", "weights": "w.pth", "input_mode": "bgr"},
        {"kind": "torchvision", "weights": "w.pth", "architecture": "raft_huge"},
        {"kind": "dis", "device": "cuda"},
        {"kind": "dis", "precision": "float16"},
        {"kind": "dis", "preset": "slow"},
        {"kind": "pwcnet"},
    ],
)
def test_sections_that_make_no_sense_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(**section)


def test_a_missing_gpu_is_said_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        build_flow_model(parse(kind="raft_small", weights=tmp_path / "absent.pth", device="cuda"))
