from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillroom.stages.models.flow.flow_model import FlowModel, build_flow_model
from stillroom.stages.models.flow.flow_network import FlowNetwork, Sides, without_weights
from stillroom.stages.models.flow.flownet2.cascade import FlowNet2
from stillroom.stages.models.flow.flownet2.load import FlowNet2Config
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

TABLE = Path(__file__).with_name("flownet2_tensors.txt")


def table() -> dict[str, tuple[int, ...]]:
    """NVIDIA's tensors by name, from the table beside this file."""
    shapes = {}
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            layer, weight, bias = line.split()
            shapes[f"{layer}.weight"] = tuple(map(int, weight.split("x")))
            if bias != "-":
                shapes[f"{layer}.bias"] = (int(bias),)
    return shapes


def light_state(scale: float = 0.02) -> dict[str, Tensor]:
    """Random numbers in all of NVIDIA's tensors, that share one storage: 40 MB on disk, not 650."""
    noise = torch.randn(10_000_000, generator=torch.Generator().manual_seed(3)) * scale
    state = {}
    for index, (name, shape) in enumerate(table().items()):
        size = int(np.prod(shape))
        start = index * 997
        state[name] = noise[start : start + size].view(shape)
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random numbers in NVIDIA's layout and in the format that torch wrote in 2017."""
    path = tmp_path_factory.mktemp("flownet2") / "FlowNet2_checkpoint.pth.tar"
    document = {"epoch": 0, "state_dict": light_state(), "best_EPE": 1.23}
    torch.save(document, path, _use_new_zipfile_serialization=False)
    return path


def test_names_shapes_and_count_are_those_of_the_checkpoint() -> None:
    with torch.device("meta"):
        network = FlowNet2()
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == table()
    assert len(found) == 220
    assert not list(network.buffers())
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in network.named_children()
    }
    assert counts == {
        "flownetc": 39_175_298,
        "flownets_1": 38_695_322,
        "flownets_2": 38_695_322,
        "flownets_d": 45_371_666,
        "flownetfusion": 581_226,
    }
    assert sum(counts.values()) == 162_518_834


def test_a_checkpoint_in_nvidias_layout_is_loaded_tensor_by_tensor(checkpoint: Path) -> None:
    model = build_flow_model(FlowNet2Config(weights=checkpoint, device="cpu"))
    assert model.module is not None
    written = light_state()
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, written[name]), name
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 61, 93, 3), np.uint8)
    flow = model.flow(*frames)
    assert flow.shape == (1, 2, 61, 93)
    assert flow.dtype == torch.float32
    assert torch.isfinite(flow).all()


def spoil(fault: str, state: dict[str, Tensor]) -> None:
    if fault == "missing":
        del state["flownetfusion.inter_conv0.0.bias"]
    elif fault == "unexpected":
        state["flownetc.conv7.0.weight"] = torch.zeros(1)
    elif fault == "shaped":
        state["flownets_1.conv1.0.weight"] = torch.zeros(64, 6, 7, 7)
    elif fault == "nan":
        state["flownets_d.predict_flow2.bias"] = torch.tensor([0.0, torch.nan])
    elif fault == "c_alone":
        for name in list(state):
            if not name.startswith("flownetc."):
                del state[name]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"1 missing: flownetfusion\.inter_conv0\.0\.bias"),
        ("unexpected", r"1 unexpected: flownetc\.conv7\.0\.weight"),
        ("shaped", r"flownets_1\.conv1\.0\.weight \(wanted \(64, 12, 7, 7\), file \(64, 6, 7, 7\)"),
        ("nan", r"1 of 220 tensors .* not finite: flownets_d\.predict_flow2\.bias"),
        ("c_alone", r"220 tensors wanted, 48 in the file"),
    ],
)
def test_another_checkpoint_is_refused_by_the_names_of_its_tensors(
    tmp_path: Path, fault: str, message: str
) -> None:
    state = {name: torch.zeros(1).expand(shape) for name, shape in table().items()}  # tiny on disk
    spoil(fault, state)
    torch.save({"state_dict": state}, tmp_path / "w.pth.tar")
    with pytest.raises(WeightsError, match=message):
        build_flow_model(FlowNet2Config(weights=tmp_path / "w.pth.tar"))


# What follows is the network once more, spelt out from its description, from the tensors alone.


def conv(x: Tensor, state: dict[str, Tensor], name: str, stride: int = 1) -> Tensor:
    weight = state[f"{name}.0.weight"]
    x = F.conv2d(x, weight, state[f"{name}.0.bias"], stride, weight.shape[-1] // 2)
    return torch.where(x > 0, x, 0.1 * x)


def climb(state: dict[str, Tensor], net: str, x: Tensor, skips: dict[int, Tensor]) -> Tensor:
    top = max(skips) + 1
    flow = F.conv2d(
        x, state[f"{net}.predict_flow{top}.weight"], state[f"{net}.predict_flow{top}.bias"], 1, 1
    )
    for level in sorted(skips, reverse=True):
        name = f"{net}.upsampled_flow{level + 1}_to_{level}"
        up = F.conv_transpose2d(flow, state[f"{name}.weight"], state.get(f"{name}.bias"), 2, 1)
        name = f"{net}.deconv{level}.0"
        x = F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], 2, 1)
        x = torch.cat([skips[level], torch.where(x > 0, x, 0.1 * x), up], 1)
        seen, name = x, f"{net}.inter_conv{level}.0"
        if f"{name}.weight" in state:
            seen = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], 1, 1)
        name = f"{net}.predict_flow{level}"
        flow = F.conv2d(seen, state[f"{name}.weight"], state[f"{name}.bias"], 1, 1)
    return flow


def descend(state: dict[str, Tensor], net: str, eighth: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    skips = {3: eighth}
    x = eighth
    for level in (4, 5, 6):
        x = conv(conv(x, state, f"{net}.conv{level}", 2), state, f"{net}.conv{level}_1")
        skips[level] = x
    return skips.pop(6), skips


def flownet_c(state: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    net = "flownetc"
    a2, b2 = (conv(conv(x, state, f"{net}.conv1", 2), state, f"{net}.conv2", 2) for x in (a, b))
    a3, b3 = (conv(x, state, f"{net}.conv3", 2) for x in (a2, b2))
    height, width = a3.shape[-2:]
    padded = F.pad(b3, (20, 20, 20, 20))
    alike = torch.stack(
        [
            (a3 * padded[:, :, 20 + dy : 20 + dy + height, 20 + dx : 20 + dx + width]).mean(1)
            for dy in range(-20, 21, 2)
            for dx in range(-20, 21, 2)
        ],
        1,
    )
    alike = torch.where(alike > 0, alike, 0.1 * alike)
    joined = torch.cat([conv(a3, state, f"{net}.conv_redir"), alike], 1)
    x, skips = descend(state, net, conv(joined, state, f"{net}.conv3_1"))
    return climb(state, net, x, {**skips, 2: a2})


def flownet_s(state: dict[str, Tensor], net: str, x: Tensor) -> Tensor:
    x2 = conv(conv(x, state, f"{net}.conv1", 2), state, f"{net}.conv2", 2)
    x3 = conv(conv(x2, state, f"{net}.conv3", 2), state, f"{net}.conv3_1")
    x, skips = descend(state, net, x3)
    return climb(state, net, x, {**skips, 2: x2})


def flownet_sd(state: dict[str, Tensor], x: Tensor) -> Tensor:
    net = "flownets_d"
    x = conv(x, state, f"{net}.conv0")
    for level in (1, 2):
        x = conv(conv(x, state, f"{net}.conv{level}", 2), state, f"{net}.conv{level}_1")
    x3 = conv(conv(x, state, f"{net}.conv3", 2), state, f"{net}.conv3_1")
    deepest, skips = descend(state, net, x3)
    return climb(state, net, deepest, {**skips, 2: x})


def fusion(state: dict[str, Tensor], x: Tensor) -> Tensor:
    net = "flownetfusion"
    x0 = conv(x, state, f"{net}.conv0")
    x1 = conv(conv(x0, state, f"{net}.conv1", 2), state, f"{net}.conv1_1")
    x2 = conv(conv(x1, state, f"{net}.conv2", 2), state, f"{net}.conv2_1")
    return climb(state, net, x2, {1: x1, 0: x0})


def pull(image: Tensor, flow: Tensor) -> Tensor:
    """Bilinear, each of the four neighbours clamped to the frame."""
    batch, channels, height, width = image.shape
    x = torch.arange(width) + flow[:, 0]
    y = torch.arange(height)[:, None] + flow[:, 1]
    left, top = x.floor(), y.floor()
    out = torch.zeros_like(image)
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            place = place.flatten(1)[:, None].expand(-1, channels, -1)
            value = image.flatten(2).gather(2, place).view(batch, channels, height, width)
            out += (down * across)[:, None] * value
    return out


def length(x: Tensor) -> Tensor:
    return x.square().sum(1, keepdim=True).sqrt()


def four_times(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def spelt_out(state: dict[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
    mean = (first.mean((2, 3), keepdim=True) + second.mean((2, 3), keepdim=True)) / 2
    a, b = (first - mean) / 255, (second - mean) / 255
    flow = four_times(20 * flownet_c(state, a, b))
    for net in ("flownets_1", "flownets_2"):
        pulled = pull(b, flow)
        evidence = torch.cat([a, b, pulled, flow / 20, length(a - pulled)], 1)
        quarter = 20 * flownet_s(state, net, evidence)
        flow = four_times(quarter)
    css = quarter.repeat_interleave(4, 2).repeat_interleave(4, 3)
    sd = (flownet_sd(state, torch.cat([a, b], 1)) / 20).repeat_interleave(4, 2)
    sd = sd.repeat_interleave(4, 3)
    shown = [a, sd, css, length(sd), length(css), length(a - pull(b, sd)), length(a - pull(b, css))]
    return fusion(state, torch.cat(shown, 1))


@torch.inference_mode()
def test_the_cascade_is_its_description_spelt_out(flownet2: FlowNet2) -> None:
    state = dict(flownet2.state_dict())
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 1, 3, 64, 128, generator=generator) * 255
    found, expected = flownet2(first, second), spelt_out(state, first, second)
    assert found.shape == (1, 2, 64, 128)
    assert expected.std() > 0.1, "random numbers that say something"
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)
    # The comparison sees every part: each of them moves the result by far more than that.
    for part in ("flownetc", "flownets_1", "flownets_2", "flownets_d"):
        name = f"{part}.predict_flow2.weight"
        moved = spelt_out({**state, name: -state[name]}, first, second)
        assert (moved - expected).abs().max() > 5e-3, part


@torch.inference_mode()
def test_reduced_precision_changes_little(flownet2: FlowNet2) -> None:
    first, second = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
    exact = flownet2(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = flownet2(first, second)
    assert reduced.dtype == torch.float32
    assert (reduced - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert not torch.equal(reduced, exact)


@pytest.mark.parametrize("how", ["resize", "pad"])
@pytest.mark.parametrize("size", [(61, 93), (1, 1), (130, 65)])
@torch.inference_mode()
def test_frames_of_any_size_get_a_flow_of_that_size(
    flownet2: FlowNet2, how: str, size: tuple[int, int]
) -> None:
    sides = Sides(64, least=64, how="resize" if how == "resize" else "pad")
    model = FlowModel(
        FlowNet2Config(weights=Path("unread")),
        FlowNetwork(
            None,
            lambda a, b: sides.around(flownet2, *(x.permute(0, 3, 1, 2).float() for x in (a, b))),
        ),
        "cpu",
        {},
    )
    frames = np.random.default_rng(1).integers(0, 256, (2, 1, *size, 3), np.uint8)
    flow = model.flow(*frames)
    assert flow.shape == (1, 2, *size)
    assert torch.isfinite(flow).all()


@pytest.mark.slow
@torch.inference_mode()
def test_it_compiles_in_one_graph(flownet2: FlowNet2) -> None:
    first, second = torch.rand(2, 1, 3, 64, 64) * 255
    compiled = torch.compile(flownet2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(first, second), flownet2(first, second), atol=1e-3, rtol=1e-3
    )
    torch.compiler.reset()


@pytest.mark.slow
@torch.inference_mode()
def test_it_is_exported_with_any_batch(flownet2: FlowNet2) -> None:
    batch = torch.export.Dim("batch")
    sample = torch.rand(2, 2, 3, 64, 64)  # two tensors: one given twice would be taken for one
    exported = torch.export.export(
        flownet2, tuple(sample), dynamic_shapes={"first": {0: batch}, "second": {0: batch}}
    )
    first, second = torch.rand(2, 3, 3, 64, 64) * 255
    torch.testing.assert_close(
        exported.module()(first, second), flownet2(first, second), atol=1e-3, rtol=1e-3
    )


def test_building_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    without_weights(lambda: torch.nn.Conv2d(3, 3, 3))
    assert torch.equal(torch.get_rng_state(), before)
