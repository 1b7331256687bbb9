"""Every SMP architecture, tiny, with random weights, against what its own forward does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stillroom.stages.models.dense_network import measure_grids
from stillroom.stages.models.smp_network import (
    ARCHITECTURES,
    SmpDesign,
    build_smp,
    classifier_of,
    forward_smp,
    freeze_idle_layers,
    pad_multiple,
)
from stillroom.stages.models.students.smp import SmpStudentConfig, build_smp_student
from stillroom.storage_specs.errors import ConfigError

SMALL: dict[str, dict[str, Any]] = {
    "DeepLabV3": {"decoder_channels": 8},
    "DeepLabV3Plus": {"decoder_channels": 8},
    "FPN": {"decoder_pyramid_channels": 8, "decoder_segmentation_channels": 32},
    "MAnet": {"decoder_channels": (16, 8, 8, 8, 8), "decoder_pab_channels": 8},
    "PAN": {"decoder_channels": 8},
    "PSPNet": {"psp_out_channels": 8},
    "Segformer": {"decoder_segmentation_channels": 8},
    "UPerNet": {"decoder_channels": 8},
    "Unet": {"decoder_channels": (16, 8, 8, 8, 8)},
    "UnetPlusPlus": {"decoder_channels": (16, 8, 8, 8, 8)},
}
STRIDES = {"DeepLabV3": 8, "PSPNet": 8, "Unet": 1, "UnetPlusPlus": 1, "MAnet": 1, "Linknet": 1}


def build(architecture: str, encoder: str = "mobilenet_v2", **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    chosen = {**SMALL.get(architecture, {}), **options}
    return build_smp(SmpDesign(architecture, encoder, 5, chosen)).eval()


def strides_of(network, pad: int) -> dict[str, int]:
    grids = measure_grids(lambda x: forward_smp(network, x), pad, 5)
    return {name: grid.stride for name, grid in grids.items()}


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_are_those_inside_the_networks_own_forward(architecture: str, encoder: str) -> None:
    network = build(architecture, encoder)
    multiple = pad_multiple(network)
    images = torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)  # as teachers and students do
    with torch.no_grad():
        output = forward_smp(network, images)
        whole = network(images)
        upsampled = network.segmentation_head[1](output["logits"])
        again = classifier_of(network)(output["features/penultimate"])
        stages = network.encoder(images)
    assert torch.equal(upsampled, whole)
    assert torch.equal(again, output["logits"])
    assert whole.shape == (1, 5, 128, 160)
    for i, stage in enumerate(stages[1:], start=1):
        assert torch.equal(output[f"features/stage{i}"], stage), "the decoder wrote into its input"
    strides = strides_of(network, multiple)
    assert strides["logits"] == strides["features/penultimate"] == STRIDES.get(architecture, 4)
    for name, grid in output.items():
        assert grid.shape[2:] == (128 // strides[name], 160 // strides[name])


def test_pspnet_of_depth_3_and_upsampling_8_has_stride_8() -> None:
    network = build("PSPNet", encoder_depth=3, upsampling=8)
    strides = strides_of(network, pad_multiple(network))
    assert pad_multiple(network) == 8
    assert strides == {
        "logits": 8,
        "features/penultimate": 8,
        "features/stage1": 2,
        "features/stage2": 4,
        "features/stage3": 8,
    }


def test_dilated_deeplab_has_the_stride_it_was_asked_for() -> None:
    network = build("DeepLabV3", "resnet18", encoder_output_stride=16)
    strides = strides_of(network, 16)
    assert strides["logits"] == 16


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_the_papers_pspnet_is_dilated_to_stride_8_and_runs_whole(encoder: str) -> None:
    """12.05 M parameters without auxiliary heads; of depth 3 it runs 0.7 M."""
    network = build_smp(
        SmpDesign("PSPNet", encoder, 19, {"encoder_depth": 5, "output_stride": 8})
    ).eval()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 12.05
    assert pad_multiple(network) == 8
    assert forward_smp(network, torch.zeros(1, 3, 128, 136))["logits"].shape == (1, 19, 16, 17)
    assert freeze_idle_layers(network) == 0


def test_parameters_that_never_run_are_said(caplog: pytest.LogCaptureFixture) -> None:
    network = build("PSPNet", "resnet18")
    assert freeze_idle_layers(network) > 8e6
    assert "PSPNet: 10.5 M of its 11.2 M parameters never run" in caplog.text
    assert "encoder_depth = 5" in caplog.text


def test_a_shallow_encoder_that_was_asked_for_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    student = SmpStudentConfig(
        kind="smp", architecture="Unet", encoder="resnet18", encoder_depth=3,
        options={"decoder_channels": (64, 32, 16)},
    )  # fmt: skip
    assert build_smp_student(student, 3).idle_parameters > 8e6
    assert "never run" not in caplog.text


def test_stage_without_channels_is_left_out() -> None:
    network = build("FPN", "tu-convnext_atto")
    with torch.no_grad():
        output = forward_smp(network, torch.zeros(1, 3, 128, 128))
    assert "features/stage1" not in output
    assert "features/stage2" in output


@pytest.mark.parametrize(
    ("architecture", "encoder", "options", "message"),
    [
        ("UNet", "resnet18", {}, "no SMP architecture 'UNet'; known: DeepLabV3"),
        ("Unet", "resnet81", {}, "no SMP encoder 'resnet81'; did you mean resnet18"),
        ("Unet", "tu-resnet81", {}, "no SMP encoder 'tu-resnet81'; did you mean tu-resnet"),
        ("FPN", "resnet18", {"decoder_channels": 8}, "FPN has no such option"),
        ("FPN", "resnet18", {"activation": "softmax"}, "options.activation: not an option"),
        ("FPN", "resnet18", {"encoder_weights": "imagenet"}, "weights are local files"),
        ("FPN", "resnet18", {"encoder_depth": 1}, "cannot be built"),
        ("DeepLabV3", "resnet18", {"encoder_output_stride": 7}, "cannot be built"),
        ("PSPNet", "resnet18", {"output_stride": 4}, "cannot be built"),
        ("DeepLabV3", "resnet18", {"output_stride": 8}, "did you mean encoder_output_stride"),
        ("FPN", "resnet18", {"output_stride": 8}, "joins stages of halving size"),
    ],
)
def test_what_cannot_be_built_is_a_config_error(
    architecture: str, encoder: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_smp(SmpDesign(architecture, encoder, 5, options))


def test_a_pad_that_the_network_does_not_divide_is_a_config_error() -> None:
    network = build("FPN")
    with pytest.raises(ConfigError, match="pad=24"):
        measure_grids(lambda x: forward_smp(network, x), 24, 5)
