"""The whole FlowNet2 once more, spelt out from its description, from the tensors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.flow.flownet2.cascade import FlowNet2


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
