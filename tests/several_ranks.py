"""Processes that train together over gloo on loopback, for tests.

start(script, folder, ranks, *arguments)  runs a script once a rank; it begins with `meet()`
steps_of(name, parts)  20 steps of a term on made-up frames: of this process's share, if it has met
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import distributed, nn

from stillroom.stages.across_ranks import Rows, rank, share, world_size
from stillroom.stages.models.students.families import build_student
from stillroom.stages.models.students.python import PythonStudentConfig
from stillroom.stages.models.task_heads import HeadsConfig
from stillroom.stages.train.batch import Batch
from stillroom.stages.train.batch_memory import empty_triplets, reused
from stillroom.stages.train.checkpoint import new_learner
from stillroom.stages.train.losses.table import LOSSES, TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.reads import TRIPLETS
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.step import take_step
from stillroom.stages.train.terms.term import Sizes
from stillroom.stages.train.terms.weight_term import WeightTerm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stillroom.stages.train.step import Step

CLASSES, TEACHERS, SIDE, STRIDE, STEPS = 5, 10, 32, 4, 20
SECTIONS: dict[str, dict[str, Any]] = {  # of terms that do not do with a teacher
    "auxiliary_cross_entropy": {"layer": "penultimate", "teacher": "fpn"},
    "cross_entropy": {"teacher": "fpn", "class_weights": {"c0": 3.0, "c3": 0.2}},
    "cross_image_memory": {  # rings that are soon full
        "teacher": "fpn",
        "pixels": 32,
        "pixel_memory": 40,
        "region_memory": 12,
        "remembered": 4,
    },
    "cross_image_pixel": {"teacher": "fpn", "pixels": 32},
    "depth_regression": {"teacher": "fpn", "kind": "scale_shift"},
    "multi_frame": {"teacher": "fpn", "weight": 0.1, "patch": 2},
    "holistic": {"teacher": "fpn", "width": 4},
    "network_slimming": {"weight": 0.01},
    "overparameterisation": {
        "teacher": "fpn",
        "layers": ["penultimate"],
        "cells": [
            {
                "inputs": ["penultimate", "penultimate"],
                "adaptors": ["conv1x1", "separable3x3"],
                "aggregator": "concatenation",
            }
        ],
    },
    "temporal": {},
}

OF_TASKS = {"depth_bins", "depth_regression", "normals_cosine"}
HEADS = HeadsConfig.model_validate({"segmentation": {}, "depth": {"bins": 6}, "normals": {}})


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    quiet = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return {**os.environ, **quiet}


def start(script: str, folder: Path, ranks: int, *arguments: str) -> list[int]:
    """Run a script once a rank, and return how each ended."""
    numbers = [[str(each), str(ranks)] for each in range(ranks)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder), *own, *arguments], env=environment()
        )
        for own in numbers
    ]
    try:
        return [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()


@contextmanager
def meet() -> Iterator[Path]:
    """Join the other processes of `start`; gives the folder."""
    folder, own, ranks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=own, world_size=ranks
    )
    yield folder
    distributed.destroy_process_group()


class Network(nn.Module):
    """Stride 4, with batch normalisation, and without dropout, whose units differ by rank."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(8, classes, 1)

    @property
    def classifier_weight(self) -> torch.Tensor:
        return self.classifier.weight.flatten(1)

    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        features = self.encoder(images)
        return {"logits": self.classifier(features), "features": {"penultimate": features}}


def network(num_classes: int) -> Network:
    return Network(num_classes)


@dataclass
class Job:
    """The part of a TrainJob that a step looks at."""

    settings: TrainConfig
    objective: Objective
    parts: int
    steps: int = STEPS
    live: None = None


def section_of(name: str) -> dict[str, Any]:
    weight = {"weight": 1e-3} if LOSSES[name].model_fields["weight"].is_required() else {}
    return {"name": name, **SECTIONS.get(name, {"teacher": "fpn"}), **weight}


def made_up(stream: str, frames: int, seed: int, *, labelled: bool, clips: bool) -> Batch:
    """A batch of all ranks; of some frames little is shown, of the last one nothing."""
    generator = torch.Generator().manual_seed(seed)
    cells = SIDE // STRIDE

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def chance(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    count = 3 * frames if clips else frames
    classes = (CLASSES * chance(count, SIDE, SIDE)).long()
    shown = chance(count, 1, cells, cells) < chance(count, 1, 1, 1)
    shown[-1] = False
    labels = classes.masked_fill(chance(count, SIDE, SIDE) < chance(count, 1, 1), 255)
    batch = Batch(
        stream=stream,
        labelled=labelled,
        images=classes[:, None] * 40 + 60 * chance(count, 3, SIDE, SIDE),
        labels=labels if labelled else None,
        mask=shown,
        artifacts={
            "fpn/logits": 2 * normal(count, CLASSES, cells, cells),
            "fpn/features/penultimate": normal(count, TEACHERS, cells, cells).relu(),
            "fpn/code/penultimate": normal(count, TEACHERS, cells, cells).relu(),
            "fpn/pseudo_label": labels,
        },
        masks={1: shown.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)},
        frame_ids=[f"{stream}{i}" for i in range(count)],
    )
    if clips:
        flow, visible = 2 * normal(2 * frames, 2, SIDE, SIDE), chance(2 * frames, 1, SIDE, SIDE)
        batch.triplets = empty_triplets(frames, (SIDE, SIDE), reused)
        batch.triplets.flow, batch.triplets.visible = flow, visible < 0.8
    depth = normal(count, 1, cells, cells).exp()
    batch.artifacts["fpn/depth"] = depth.masked_fill(depth < chance(count, 1, 1, 1), 0)
    batch.artifacts["fpn/normals"] = normal(count, 3, cells, cells)
    return batch


def own_share(batch: Batch, frames: int) -> Batch:
    """What this rank has of a batch of all."""
    own = share(frames, rank(), world_size())
    blocks = 3 if batch.clips else 1

    def cut(rows: torch.Tensor, blocks: int = blocks) -> torch.Tensor:
        return rows.unflatten(0, (blocks, frames))[:, own.start : own.stop].flatten(0, 1)

    triplets = None
    if batch.triplets is not None:
        triplets = empty_triplets(len(own), (SIDE, SIDE), reused)
        triplets.flow, triplets.visible = (
            cut(batch.triplets.flow, 2),
            cut(batch.triplets.visible, 2),
        )
    return replace(
        batch,
        images=cut(batch.images),
        labels=None if batch.labels is None else cut(batch.labels),
        mask=cut(batch.mask),
        artifacts={key: cut(value) for key, value in batch.artifacts.items()},
        masks={stride: cut(value) for stride, value in batch.masks.items()},
        triplets=triplets,
        rows=Rows(own.start, frames, blocks) if world_size() > 1 else batch.rows,
    )


def streams_of(objective: Objective) -> dict[str, tuple[int, dict[str, bool]]]:
    """Frames a step, as many on no two ranks, and of which kind, of the streams a term reads."""
    clips = TRIPLETS in objective.terms[0].reads(labelled=True)
    kinds = {
        "city": (3, {"labelled": False, "clips": True}),
        "camvid": (5, {"labelled": True, "clips": False}),
        "more": (3, {"labelled": False, "clips": False}),
    }
    return {k: v for k, v in kinds.items() if not clips or v[1]["clips"]}


def named(taken: Step) -> dict[str, float]:
    """Every number of a step."""
    gradients = {f"{name}, gradient": value for name, value in taken.gradients.items()}
    return {"loss": taken.loss, **taken.terms, **gradients, **taken.watched}


def steps_of(name: str, parts: int, **changes: Any) -> dict[str, Any]:
    """Take 20 steps with one term; the values of each, and what is there after them."""
    sections = [section_of(name)]
    if issubclass(LOSSES[name], WeightTerm):  # every stream must feed something
        sections.append(section_of("cross_entropy"))
    objective = Objective([TypeAdapter(TermConfig).validate_python(one) for one in sections])
    config = PythonStudentConfig(
        kind="python", target="several_ranks:network", mean=(127.0,) * 3, std=(64.0,) * 3, pad=4
    )
    if name in OF_TASKS:
        config = config.model_copy(update={"heads": HEADS})
    torch.manual_seed(0)
    student = build_student(config, CLASSES)
    teachers = {"fpn/logits": CLASSES, "fpn/features/penultimate": TEACHERS}
    teachers["fpn/code/penultimate"] = TEACHERS
    names = tuple(f"c{number}" for number in range(CLASSES))
    objective.prepare(Sizes(CLASSES, student.channels, student.strides, teachers, names=names))
    streams = streams_of(objective)
    settings = TrainConfig.model_validate(
        {
            "path": "unused",
            "streams": {key: {"batch": frames} for key, (frames, _) in streams.items()},
            "steps": STEPS,
            "optimiser": {"lr": 0.02, "clip": 1.0},
            **changes,
        }
    )
    job: Any = Job(settings, objective, parts)
    learner = new_learner(student, objective, settings, torch.device("cpu"))
    found = []
    for step in range(STEPS):
        whole = [
            [made_up(k, n, parts * step + part, **kind) for k, (n, kind) in streams.items()]
            for part in range(parts)
        ]
        own = [[own_share(each, streams[each.stream][0]) for each in part] for part in whole]
        taken = take_step(job, learner, own, 0.02, gradients=step % 5 == 0).values()
        learner.step += 1
        found.append(named(taken))
    state = {**student.state_dict(), **learner.terms.state_dict()}
    return {"steps": found, "state": {k: v for k, v in state.items() if torch.is_tensor(v)}}
