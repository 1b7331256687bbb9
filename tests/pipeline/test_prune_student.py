"""Pruning a trained student: what is left, how it is built again, and what cannot be pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from stillroom.cli import main
from stillroom.commands.prune import _text
from stillroom.pipeline.build.run import build
from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_model
from stillroom.pipeline.export_student import ExportOptions, export_student
from stillroom.pipeline.open_model import open_trained
from stillroom.pipeline.prune_student import prune_student
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.stages.models.widths import resize, widths_of
from stillroom.storage_specs.errors import ConfigError

NETWORKS = '''
import torch
from torch import nn
from tiny_networks import Tiny


class Slim(Tiny):
    """A residual sum, a depthwise convolution and a bare one; `how` is what goes wrong."""

    def __init__(self, classes, how):
        super().__init__(classes, seed=3)
        self.how, self.classifier = how, nn.Conv2d(10, classes, 1)
        self.body = nn.Sequential(nn.Conv2d(3, 10, 4, 4), nn.BatchNorm2d(10), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(10, 20, 1), nn.BatchNorm2d(20), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(20, 20, 3, padding=1, groups=20), nn.BatchNorm2d(20))
        self.back = nn.Sequential(nn.Conv2d(20, 10, 1, bias=False), nn.BatchNorm2d(10))
        self.last = nn.BatchNorm2d(classes) if how == "logits" else nn.Identity()
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight)

    def forward(self, images):
        inside = self.body(images)
        if self.how == "view":
            inside = inside.reshape(-1, 10, *inside.shape[2:]).flatten(1).view_as(inside)
        wide = self.wide(inside)
        features = inside + self.back(self.deep(wide))
        logits = self.last(self.classifier(features))
        return {"logits": logits, "features": {"wide": wide, "penultimate": features}}


def student(num_classes, how=""):
    return Slim(num_classes, how)
'''
SLIM = {"kind": "python", "target": "slim_networks:student"}


@pytest.fixture
def trained(run_document: dict[str, Any], run_file: Path, tmp_path: Path) -> dict[str, Any]:
    """A student with batch normalisation, trained for two steps in the folder "run"."""
    pytest.importorskip("torch_pruning", reason="the extra prune is not installed")
    (tmp_path / "slim_networks.py").write_text(NETWORKS)
    build(load_run(run_file))
    return run_document


def train(run_file: Path, *overrides: str) -> None:
    terms = 'terms=[{name="cross_entropy"},{name="network_slimming",weight=0.01}]'
    streams = "train.streams={street={batch=3}}"
    fixed = ["student.target=slim_networks:student", terms, streams, "train.steps=2"]
    train_run(load_run(run_file, [*fixed, *overrides]))


@pytest.mark.usefixtures("trained")
def test_half_of_the_channels_go_and_what_is_left_is_a_run(run_file: Path) -> None:
    train(run_file)
    done = CliRunner().invoke(main, ["prune", "run", "--ratio", "0.5", "--json"])
    found = json.loads(done.stdout)
    assert list(found) == ["path", "run_file", "ratio", "before", "after"]
    before, after = found["before"], found["after"]
    assert list(before) == list(after) == [
        "channels", "height", "width", "parameters", "flops", "speed",
    ]  # fmt: skip
    assert (before["channels"], after["channels"]) == (60, pytest.approx(30, abs=4))
    assert after["parameters"] < 0.6 * before["parameters"]
    assert after["flops"] < 0.7 * before["flops"]
    scored = evaluate_model(load_run(run_file), found["path"], EvaluationOptions(limit=2))
    assert scored.cost.parameters == after["parameters"]
    exported = export_student(Path(found["path"]), "safetensors", ExportOptions(frames=2))
    assert exported.comparison is not None
    assert exported.comparison.wrong_labels == 0


@pytest.mark.usefixtures("trained")
def test_its_run_file_trains_it_on_beside_a_module_that_is_left_behind(run_file: Path) -> None:
    train(run_file)
    found = prune_student(Path("run"), 0.5, Path("slim"))
    said = "\n".join(str(part) for part in _text(found))
    assert f"{Path.cwd() / 'slim'}: scored" in said
    assert said.endswith(f"stillroom train {Path.cwd() / 'slim' / 'run.toml'}")
    run = load_run(found.run_file)
    assert [term.name for term in run.terms] == ["cross_entropy"]
    cell = '{inputs=["wide","penultimate"],adaptors=["conv1x1","conv3x3"],aggregator="sum"}'
    module = f'{{name="overparameterisation",layers=["wide","penultimate"],cells=[{cell}]}}'
    slim = open_trained(found.path)
    begun = train_run(load_run(found.run_file, [f'terms=[{{name="cross_entropy"}},{module}]']))
    assert begun.paths["model"] == Path("slim/tuned/model.safetensors")
    assert "street/overparameterisation" in begun.losses
    tuned = open_trained(Path("slim/tuned"))
    shapes = {name: tensor.shape for name, tensor in slim.student.state_dict().items()}
    assert {name: one.shape for name, one in tuned.student.state_dict().items()} == shapes
    assert tuned.section.widths == slim.section.widths
    again = prune_student(Path("slim/tuned"), 0.3, Path("slimmer"))
    assert again.after.channels < found.after.channels
    assert open_trained(Path("slimmer")).student.channels["logits"] == 9


@pytest.mark.usefixtures("trained")
def test_what_is_left_computes_what_its_channels_computed(run_file: Path) -> None:
    """By hand: a channel that goes adds what its normalisation shifts it by, here nothing."""
    train(run_file, "train.steps=1")
    student = open_trained(Path("run")).student
    gone = torch.zeros(20, dtype=torch.bool)
    gone[[1, 4, 5, 7, 11, 12, 17]] = True
    with torch.no_grad():
        for place in ("body", "wide", "deep", "back"):
            getattr(student.network, place)[1].weight.fill_(1)
        for place in ("wide", "deep"):
            norm = getattr(student.network, place)[1]
            norm.weight[gone], norm.bias[gone] = 1e-9, 0
        student.network.deep[0].bias[gone] = 0
        student.network.deep[1].running_mean[gone] = 0
    checkpoint = torch.load("run/last.pt", weights_only=True)
    torch.save(
        {**checkpoint, "format": 2, "student": student.state_dict(), "ema": None}, "run/by_hand.pt"
    )
    before = open_trained(Path("run/by_hand.pt")).student.eval()
    prune_student(Path("run/by_hand.pt"), 14 / 60, Path("slim"))
    after = open_trained(Path("slim"))
    assert after.section.widths["wide.0"] == (13, 10)
    assert after.section.widths["deep.0"] == (13, 13)
    images = 255 * torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(after.student.eval()(images).logits, before(images).logits)


@pytest.mark.usefixtures("trained")
def test_what_cannot_be_pruned_is_refused(run_file: Path) -> None:
    train(run_file, 'student.options={how="logits"}')
    with pytest.raises(ConfigError, match=r"logits would have . channels, not 9"):
        prune_student(Path("run"), 0.9)
    train(run_file, 'student.options={how="view"}', "train.path=viewed")
    with pytest.raises(ConfigError, match=r"Slim: it cannot be pruned|cannot be built again"):
        prune_student(Path("viewed"), 0.5)
    train_run(load_run(run_file, ["train.path=bare", "train.steps=1"]))
    with pytest.raises(ConfigError, match="Tiny: it has no batch normalisation"):
        prune_student(Path("bare"), 0.5)
    with pytest.raises(ConfigError, match="--out run: it exists already"):
        prune_student(Path("bare"), 0.5, Path("run"))
    assert not Path("bare-pruned").exists()


def test_layers_are_resized_by_name() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LayerNorm(4), nn.Linear(4, 6, bias=False),
    )  # fmt: skip
    assert widths_of(network) == {"0": (8, 3), "1": (8,), "2": (8, 8), "3": (4, 8)} | {
        "6": (4,), "7": (6, 4),
    }  # fmt: skip
    resize(network, {"0": (5, 3), "1": (5,), "2": (5, 5), "3": (2, 5), "6": (2,), "7": (7, 2)})
    assert [tuple(one.shape) for one in network.parameters()] == [
        (5, 3, 3, 3), (5,), (5,), (5,), (5, 1, 3, 3), (5,), (5, 2, 2, 2), (2,), (2,), (2,), (7, 2),
    ]  # fmt: skip
    assert network(torch.rand(2, 3, 5, 5)).isfinite().all()
    for widths, why in (({"9": (1, 1)}, "no such layer"), ({"1": (5, 5)}, "expected 1 numbers")):
        with pytest.raises(ConfigError, match=why):
            resize(network, widths)
