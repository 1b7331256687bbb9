"""What holds for every term of a run file, on one synthetic batch of each size."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.models.student import StudentOutput
from stillroom.stages.models.task_heads import DepthHead
from stillroom.stages.train.batch import Batch, Triplets
from stillroom.stages.train.live_memory import LiveMemory
from stillroom.stages.train.losses.table import LOSSES, TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.reads import TRIPLETS
from stillroom.stages.train.terms.term import Sizes
from stillroom.stages.train.terms.weight_term import WeightTerm

CLASSES, CHANNELS, TEACHERS = 5, 12, 10
TERM = TypeAdapter(TermConfig)
ONE_CELL = {
    "layers": ["penultimate"],
    "cells": [
        {
            "inputs": ["penultimate", "penultimate"],
            "adaptors": ["conv1x1", "separable3x3"],
            "aggregator": "sum",
        }
    ],
}
SECTIONS = {  # of terms that do not do with a teacher, and a weight if they have no default
    "auxiliary_cross_entropy": {"layer": "penultimate"},
    "cross_entropy": {},
    "depth_bins": {},
    "depth_regression": {},
    "multi_frame": {
        "teacher": "fpn",
        "weight": 0.1,
        "patch": 4,
    },  # the default, 16, is more than 32 pixels have
    "normals_cosine": {},
    "overparameterisation": ONE_CELL,
    "temporal": {},
}
GRIDS = ("logits", "depth", "depth_logits", "normals", "features/penultimate")
# All pairs of positions are compared: memory grows with their square, and docs/losses.md says so.
PAIRWISE = {"multi_frame", "pairwise_affinity"}
every = pytest.mark.parametrize(  # of weights alone: test_network_slimming.py
    "name", [name for name, term in LOSSES.items() if not issubclass(term, WeightTerm)]
)


def section_of(name):
    weight = {"weight": 1e-3} if LOSSES[name].model_fields["weight"].is_required() else {}
    return {"name": name, **SECTIONS.get(name, {"teacher": "fpn"}), **weight}


@dataclass
class Network:
    classifier_weight: torch.Tensor
    stride: int = 4
    strides: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GRIDS, 4))
    heads: dict[str, DepthHead] = field(default_factory=lambda: {"depth": DepthHead(bins=6)})


class Stage:
    """A term, and all it needs, for images of `side` pixels."""

    def __init__(self, name, side, classes=CLASSES):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        self.objective = Objective([TERM.validate_python(section_of(name))])
        clips = TRIPLETS in self.objective.terms[0].reads(labelled=True)
        frames, cells = 3 if clips else 2, (side // 4, side // 4)
        self.grids = {
            "logits": normal(frames, classes, *cells),
            "features/penultimate": normal(frames, CHANNELS, *cells).relu(),
            "depth": normal(frames, 1, *cells).exp(),
            "depth_logits": normal(frames, 6, *cells),
            "normals": normal(frames, 3, *cells),
        }
        for grid in self.grids.values():
            grid.requires_grad_()
        self.network = Network(normal(classes, CHANNELS))
        channels = {"logits": classes, "features/penultimate": CHANNELS}
        held = {
            "fpn/logits": 2 * normal(frames, classes, *cells),
            "fpn/features/penultimate": normal(frames, TEACHERS, *cells).relu(),
            "fpn/code/penultimate": normal(frames, TEACHERS, *cells).relu(),
            "fpn/confidence": torch.rand(frames, 1, *cells, generator=generator),
            "fpn/pseudo_label": torch.randint(
                0, classes, (frames, side, side), generator=generator
            ),
        }
        teachers = {k: v.shape[1] for k, v in held.items() if v.ndim == 4}
        torch.manual_seed(0)
        self.objective.prepare(Sizes(classes, channels, self.network.strides, teachers))
        reads = self.objective.needs(True, self.network.strides, clips=clips)
        self.batch = Batch(
            stream="camvid",
            labelled=True,
            images=255 * torch.rand(frames, 3, side, side, generator=generator),
            labels=torch.randint(0, classes, (frames, side, side), generator=generator),
            mask=torch.rand(frames, 1, *cells, generator=generator) < 0.8,
            artifacts={key: held[key] for key in reads & held.keys()},
            targets={
                "depth": normal(frames, 1, side, side).exp(),
                "normals": normal(frames, 3, side, side),
            },
        )
        if clips:
            self.batch.triplets = Triplets(
                frames=torch.tensor([[1, 0, 2]]),
                pairs=torch.tensor([[0, 1], [0, 2]]),
                flow=2 * normal(2, 2, side, side),
                visible=torch.rand(2, 1, side, side, generator=generator) < 0.8,
            )

    def value(self, progress=0.5):
        torch.manual_seed(1)
        output = StudentOutput(self.grids)
        values = self.objective.values(output, self.batch, self.network, progress)
        return next(iter(values.values()))


@every
def test_a_value_is_one_finite_number_that_moves_the_student(name):
    stage = Stage(name, 32)
    for _ in range(2):  # what is remembered must have been filled
        stage.value()
        stage.objective.after_step()
    value = stage.value()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite()
    value.backward()
    reached = [one.grad for one in stage.grids.values() if one.grad is not None]
    assert sum(gradient.abs().sum() for gradient in reached) > 0
    assert all(gradient.isfinite().all() for gradient in reached)


@every
def test_what_it_keeps_survives_a_checkpoint(name, tmp_path):
    """And what is trained is reached: by this term's gradient, or by its own optimiser."""
    stage, other = Stage(name, 32), Stage(name, 32)
    for _ in range(2):  # a memory must have been filled before it is told apart
        stage.value().backward()
        stage.objective.after_step()
    assert all(p.grad is not None for p in stage.objective.trained())
    torch.save(stage.objective.states.state_dict(), tmp_path / "states.pt")
    other.objective.states.load_state_dict(torch.load(tmp_path / "states.pt", weights_only=True))
    stage.objective.states.eval()
    other.objective.states.eval()
    assert other.value().item() == stage.value().item()


@every
def test_a_batch_with_nothing_that_counts_costs_nothing(name):
    stage = Stage(name, 32)
    stage.batch.mask = torch.zeros_like(stage.batch.mask)
    stage.batch.labels = torch.full_like(stage.batch.labels, 255)
    stage.batch.targets = {k: torch.zeros_like(v) for k, v in stage.batch.targets.items()}
    value = stage.value()
    value.backward()
    assert value.item() == 0


@every
def test_a_student_in_half_precision_is_compared_in_float32(name):
    """As on a GPU, where the student runs under autocast and its terms do not."""
    stage = Stage(name, 32)
    whole = Stage(name, 32)
    halved = {name: grid.detach().bfloat16() for name, grid in stage.grids.items()}
    stage.grids = {name: grid.requires_grad_() for name, grid in halved.items()}
    whole.grids = {name: grid.float().requires_grad_() for name, grid in halved.items()}
    value = stage.value()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(whole.value().item(), rel=1e-5, abs=1e-6)
    value.backward()


def peak_bytes(name, side):
    stage = Stage(name, side, classes=19)
    with LiveMemory() as memory:
        stage.value().backward()
    return memory.peak


@every
def test_memory_grows_with_the_pixels_and_not_with_their_square(name):
    small, large = peak_bytes(name, 96), peak_bytes(name, 192)  # 4 times the pixels
    if name in PAIRWISE:
        assert large > 8 * small
    else:
        assert large < 5 * small
