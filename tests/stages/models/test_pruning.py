"""Pruning real networks: each is built again by its widths, to the same outputs."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from stillroom.stages.models.pruning import apart, channels_of, prune
from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.storage_specs.errors import ConfigError

SIZE = (128, 128)  # PAN halves a grid of stride 32 twice more
CONFIG = TypeAdapter(StudentConfig)
LITE = {"architecture": "PSPNet", "encoder": "tu-tf_efficientnet_lite0", "encoder_depth": 3}
TASKS = {"heads": {"segmentation": {}, "depth": {"bins": 8}}}


def untrained(section):
    """A student whose scales differ, as after training."""
    pytest.importorskip("torch_pruning", reason="the extra prune is not installed")
    torch.manual_seed(0)
    student = build_student(section, 5)
    for layer in student.network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight)
            nn.init.uniform_(layer.bias, -1)
    return student


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [
        {"kind": "smp", "architecture": "FPN", "encoder": "mobilenet_v2", **TASKS},
        {"kind": "smp", **LITE},
        {"kind": "smp", "architecture": "Unet", "encoder": "resnet18"},
        {"kind": "smp", "architecture": "PAN", "encoder": "tu-tf_efficientnet_lite0"},
        {"kind": "torchvision", "architecture": "lraspp_mobilenet_v3_large"},
    ],
    ids=lambda section: section["architecture"],
)
def test_a_pruned_network_is_built_again_by_its_widths(section):
    config = CONFIG.validate_python(section)
    student = untrained(config)
    before, idle = channels_of(student.network), student.idle_parameters
    widths = prune(student, 0.4, SIZE)
    again = build_student(config.model_copy(update={"widths": widths}), 5)
    again.load_state_dict(student.state_dict())
    assert apart(again, student, SIZE) == 0
    assert channels_of(again.network) == pytest.approx(0.6 * before, rel=0.04)
    assert (again.idle_parameters > 0) == (idle > 0)  # what never runs for an output stays as wide
    assert again.strides == student.strides


@pytest.mark.slow
def test_a_network_that_cannot_be_followed_is_refused():
    config = CONFIG.validate_python(
        {"kind": "smp", "architecture": "DeepLabV3Plus", "encoder": "mobilenet_v2"}
    )
    with pytest.raises(ConfigError, match="DeepLabV3Plus: it cannot be pruned, since its channels"):
        prune(untrained(config), 0.5, SIZE)
