"""Heads of students: what they give, how their grids lie, and what they begin from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.stages.models.task_heads import DepthHead, HeadsConfig, NormalsHead
from stillroom.stages.models.teachers.families import TEACHERS
from stillroom.stages.train.checkpoint import export
from stillroom.storage_specs.errors import ConfigError, WeightsError

PSPNET = {
    "kind": "smp",
    "architecture": "PSPNet",
    "encoder": "mobilenet_v2",
    "encoder_depth": 3,
    "options": {"psp_out_channels": 16, "psp_dropout": 0.0},
}
IMAGES = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(0)) * 255


def student(heads=None, classes=3, **changes):
    torch.manual_seed(0)
    section = {**PSPNET, **changes, **({} if heads is None else {"heads": heads})}
    return build_student(TypeAdapter(StudentConfig).validate_python(section), classes).eval()


def test_expected_depth_is_the_mean_of_log_depth_over_the_bins():
    head = DepthHead(bins=4, low=1.0, high=16.0)
    centres = [2**0.5, 2**1.5, 2**2.5, 2**3.5]  # of 1..2, 2..4, 4..8 and 8..16 m
    assert np.exp(head.log_centres()) == pytest.approx(centres)
    grid = torch.tensor([0.1, -0.4, 1.3, 0.6]).view(1, 4, 1, 1)
    share = np.exp(grid.flatten().double().numpy())
    expected = math.exp((share / share.sum() * np.log(centres)).sum())
    found = head.outputs(grid)
    assert found["depth"].shape == (1, 1, 1, 1)
    assert found["depth"].item() == pytest.approx(expected, rel=1e-6)
    assert found["depth_logits"] is grid


def test_a_regressed_depth_is_the_exponential_and_finite_in_half_precision():
    found = DepthHead(bins=0).outputs(torch.tensor([[[[-2.0, 0.5, 60000.0]]]]).half())
    assert set(found) == {"depth"}
    expected = torch.tensor([-2.0, 0.5, 12.0]).exp()
    assert torch.allclose(found["depth"].flatten(), expected)


def test_normals_are_unit_vectors():
    found = NormalsHead().outputs(torch.tensor([3.0, 0.0, -4.0]).view(1, 3, 1, 1))["normals"]
    assert found.flatten().tolist() == pytest.approx([0.6, 0.0, -0.8])


def test_sections_of_before_are_written_as_before():
    depth = {"bins": 0, "low": 0.5, "high": 10.0}
    written = HeadsConfig(depth={"bins": 0}).model_dump(mode="json")
    assert written == {"segmentation": None, "depth": depth, "normals": None}
    teacher = TEACHERS["smp"][0](
        kind="smp", architecture="FPN", encoder="resnet18", heads={"depth": {"bins": 0}}
    )
    assert teacher.identity()["heads"] == written
    assert HeadsConfig(features={}).model_dump()["features"] == {}


def test_left_out_heads_change_nothing_of_a_student_of_segmentation():
    plain, named = student(), student({"segmentation": {}})
    assert list(plain.state_dict()) == list(named.state_dict())
    assert plain.strides == named.strides
    assert next(iter(plain.strides)) == "logits"
    with torch.no_grad():
        one, other = plain(IMAGES), named(IMAGES)
    assert one.logits.equal(other.logits)
    assert one.grids.keys() == other.grids.keys()


def test_several_heads_share_one_network_and_each_gives_its_own_grid():
    joint, alone = student({"segmentation": {}, "depth": {"bins": 5}, "normals": {}}), student()
    with torch.no_grad():
        found, plain = joint(IMAGES), alone(IMAGES)
    size = (5, 8)  # of 40 x 60 at a stride of 8
    shapes = {name: tuple(grid.shape) for name, grid in found.grids.items()}
    assert shapes["logits"] == (2, 3, *size)
    assert shapes["depth"] == (2, 1, *size)
    assert shapes["depth_logits"] == (2, 5, *size)
    assert shapes["normals"] == (2, 3, *size)
    assert joint.strides["depth"] == joint.stride == 8
    assert joint.channels["depth_logits"] == 5
    assert found.logits.equal(plain.logits)  # drawn from the seed before the other heads are
    loss = sum(joint(IMAGES).grids[name].square().mean() for name in ("depth", "normals"))
    loss.backward()
    assert joint.network.task_heads["depth"].weight.grad.abs().sum() > 0
    assert joint.network.segmentation_head[0].weight.grad is None


def test_a_single_head_is_the_networks_own():
    made = student({"depth": {"bins": 6}}, classes=0)
    assert made.num_classes == 0
    assert made.network.segmentation_head[0].out_channels == 6
    assert not any("task_heads" in name for name in made.state_dict())
    with torch.no_grad():
        found = made(IMAGES)
    assert "logits" not in found.grids
    assert ((found.grids["depth"] > 0.5) & (found.grids["depth"] < 10)).all()


@pytest.mark.parametrize(
    ("heads", "fault"),
    [
        ({}, "at least one task: segmentation, depth, normals"),
        ({"depth": {"bins": 1}}, "bins = 1 knows one depth"),
        ({"depth": {"bins": 0, "low": 1.0}}, "low are of bins, and bins = 0"),
        ({"depth": {"low": 3.0, "high": 2.0}}, r"low = 3.0 m must be below high = 2.0 m"),
        ({"depth": {"low": 0.0}}, "greater than 0"),
        ({"depht": {}}, "depht"),
    ],
)
def test_faults_of_the_section_are_found_when_it_is_read(heads, fault):
    with pytest.raises(ValidationError, match=fault):
        HeadsConfig.model_validate(heads)


def test_a_network_that_hides_its_features_has_one_head(tmp_path, monkeypatch):
    (tmp_path / "bare_net.py").write_text(
        "import torch\n"
        "def bare(num_classes):\n"
        "    return torch.nn.Conv2d(3, num_classes, 8, stride=8)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    section = {"kind": "python", "target": "bare_net:bare"}
    read = TypeAdapter(StudentConfig).validate_python
    alone = build_student(read({**section, "heads": {"depth": {"bins": 0}}}), 3)
    assert alone.channels == {"depth": 1}
    with pytest.raises(ConfigError, match="depth would read its penultimate features"):
        build_student(read({**section, "heads": {"segmentation": {}, "depth": {}}}), 3)


def test_heads_begin_from_a_file_that_has_them(tmp_path):
    both = student({"segmentation": {}, "depth": {"bins": 8}})
    with torch.no_grad():
        for parameter in both.network.parameters():
            parameter.add_(0.5)
    export(tmp_path / "both.safetensors", both, {})
    begin = {"weights": tmp_path / "both.safetensors"}
    again = student({"segmentation": {}, "depth": {"bins": 8}}, **begin).network.state_dict()
    assert all(again[name].equal(x) for name, x in both.network.state_dict().items())
    alone = student(**begin).network.state_dict()
    assert all(both.network.state_dict()[name].equal(x) for name, x in alone.items())
    further = student({"segmentation": {}, "depth": {"bins": 8}, "normals": {}}, **begin)
    assert further.network.task_heads["depth"].bias.equal(both.network.task_heads["depth"].bias)
    assert "normals" in further.network.task_heads
    with pytest.raises(WeightsError, match=r"differently shaped: task_heads\.depth\.weight"):
        student({"segmentation": {}, "depth": {"bins": 9}}, **begin)
