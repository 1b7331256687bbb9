"""Fixtures for training: tiny caches in the store's own format, and a tiny student.

make_cache   (path, **what) -> Cache: a source with frames, labels and one teacher, "fpn"
make_student (seed) -> Student of stride 4 with batch normalisation, dropout and an encoder
make_job     (run, terms, seed, **settings) -> TrainJob in tmp_path/run, on a cache of its own
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from stillroom.stages.models.students.families import build_student
from stillroom.stages.models.students.python import PythonStudentConfig
from stillroom.stages.train.job import TrainJob
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.open_dataset import is_labelled, open_dataset
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.shards.tiles import fitted_tile
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.stages.models.student import Student

TERMS = (
    {"name": "cross_entropy"},
    {"name": "probability_l2", "teacher": "fpn", "weight": 4.0},
    {"name": "auxiliary_cross_entropy", "layer": "penultimate"},  # has parameters of its own
)
CANVAS, CLASSES, STRIDE, FEATURES = (24, 32), 4, 4, 5


class TinyNetwork(nn.Module):
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
        self.dropout = nn.Dropout2d(0.2)
        self.classifier = nn.Conv2d(8, classes, 1)

    @property
    def classifier_weight(self):
        return self.classifier.weight.flatten(1)  # (C, A)

    def forward(self, images):
        features = self.encoder(images)
        logits = self.classifier(self.dropout(features))
        return {"logits": logits, "features": {"penultimate": features}}


def tiny_network(num_classes: int) -> TinyNetwork:
    return TinyNetwork(num_classes)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors only lose by being shared between threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_student():
    def make(seed: int = 0) -> Student:
        config = PythonStudentConfig(
            kind="python",
            target=f"{__name__}:tiny_network",
            mean=(127.0,) * 3,
            std=(64.0,) * 3,
            pad=4,
        )
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return build_student(config, CLASSES)

    return make


def frame_of(index: int, canvas=CANVAS) -> np.ndarray:
    """Blocks of four grey levels, so that a student has something to learn, plus noise."""
    rng = np.random.default_rng(index)
    return (label_of(index, canvas)[..., None] * 60 + rng.integers(0, 40, (*canvas, 3))).astype(
        np.uint8
    )


def label_of(index: int, canvas=CANVAS) -> np.ndarray:
    rng = np.random.default_rng(1000 + index)
    blocks = rng.integers(0, CLASSES, (canvas[0] // 8 + 1, canvas[1] // 8 + 1))
    return np.kron(blocks, np.ones((8, 8)))[: canvas[0], : canvas[1]].astype(np.uint8)


def logits_of(index: int, stride: int, canvas=CANVAS) -> np.ndarray:
    """Five times the one-hot label of each cell's first pixel."""
    cells = label_of(index, canvas)[::stride, ::stride]
    return 5 * np.moveaxis(np.eye(CLASSES, dtype=np.float32)[cells], -1, 0)


def features_of(index: int, cells) -> np.ndarray:
    return np.random.default_rng(index).normal(size=(FEATURES, *cells)).astype(np.float32)


@pytest.fixture
def make_cache():
    def make(
        path,
        source="camvid",
        count=10,
        canvas=CANVAS,
        labelled=True,
        bad=(),
        teacher_bad=(),
        stride=STRIDE,
        valid=None,
        shards=None,
        identity="v1",
        tile=None,
        features=False,
    ) -> Cache:
        cache = Cache.create(path)
        raw, exact, unit = (codec_from_dict({"name": name}) for name in ("raw", "exact", "unit"))
        labels = [ArraySpec("labels", canvas, raw, attributes={"stride": 1})] if labelled else []
        cells = (-(-canvas[0] // stride), -(-canvas[1] // stride))
        sets = {
            "frames": [ArraySpec("frames", (*canvas, 3), raw, attributes={"stride": 1}), *labels],
            "fpn": [
                ArraySpec("logits", (CLASSES, *cells), exact, attributes={"stride": stride}),
                ArraySpec("confidence", cells, unit, attributes={"stride": stride}),
                ArraySpec("pseudo_label", canvas, raw, attributes={"stride": 1}),
            ],
        }
        if features:
            shape = (FEATURES, *cells)
            spec = ArraySpec("features/deep", shape, exact, attributes={"stride": stride})
            sets["fpn"].append(spec)
        for name, arrays in sets.items():
            if tile is not None:
                axes = [one.kind.axes for one in arrays]
                tiles = [fitted_tile(tile, a.shape, b) for a, b in zip(arrays, axes, strict=True)]
                arrays = [replace(a, tile=b) for a, b in zip(arrays, tiles, strict=True)]
            made = cache.define(source, name, {"of": identity}, count, 4, arrays)
            for shard in range(made.shards) if shards is None else shards:
                writer = made.writer(shard)
                for index in made.shard_range(shard):
                    frame_id = f"{source}_{index:03d}"
                    if index in (bad if name == "frames" else teacher_bad):
                        writer.bad(FrameRow(index, frame_id, "bad", "truncated"))
                        continue
                    row = FrameRow(
                        index,
                        frame_id,
                        valid_height=(valid or canvas)[0],
                        valid_width=(valid or canvas)[1],
                    )
                    values = {
                        "frames": frame_of(index, canvas),
                        "labels": label_of(index, canvas),
                        "logits": logits_of(index, stride, canvas),
                        "confidence": np.full(cells, 0.8, np.float32),
                        "pseudo_label": label_of(index, canvas),
                        "features/deep": features_of(index, cells),
                    }
                    writer.put(row, {one.artifact: values[one.artifact] for one in arrays})
                writer.commit()
        return cache

    return make


def score(student):
    """A score that depends on every weight and on the statistics of batch normalisation."""
    assert not student.training
    torch.rand(3)  # validation may draw numbers without changing what follows
    images = torch.linspace(0, 255, 3 * 16 * 16).reshape(1, 3, 16, 16)
    return {"miou": float(student(images).logits.square().mean()), "absent": ["pole"]}


@pytest.fixture
def make_job(tmp_path, make_cache, make_student):
    path = tmp_path / "cache"
    make_cache(path)
    weights = iter(range(1_000))  # every job's student begins elsewhere, as after a new start

    def make(run, terms=TERMS, seed=None, teachers=None, **options) -> TrainJob:
        job = {name: options.pop(name) for name in ("on_step", "validate_with") if name in options}
        document = {"streams": {"camvid": {"batch": 4}}, "steps": 6, "log_every": 2, **options}
        settings = TrainConfig.model_validate({"path": tmp_path / run, **document})
        objective = Objective(
            TypeAdapter(tuple[TermConfig, ...]).validate_python(terms), settings.unlabelled_weight
        )
        cache = Cache.open(path)
        student = make_student(next(weights) if seed is None else seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            objective.prepare(Sizes(CLASSES, student.channels, student.strides, teachers or {}))
        return TrainJob(
            student=student,
            objective=objective,
            streams={
                name: open_dataset(
                    cache,
                    name,
                    settings,
                    objective.needs(is_labelled(cache, name, stream), student.strides),
                    4,
                )
                for name, stream in settings.streams.items()
            },
            settings=settings,
            config={"train": settings.model_dump(mode="json"), "terms": list(terms)},
            validate=job.get("validate_with", score if settings.validation else None),
            on_step=job.get("on_step"),
        )

    return make
