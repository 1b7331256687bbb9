"""Fixtures that every test may ask for.

shared_data   the folder of real CamVid, COCO and weights; skips with a reason where it is absent
run_document  a run small enough for a second, as a dict: a labelled source "street", an unlabelled
              one "more", a teacher "tiny" and a student, networks of two layers
run_file      the same on disk, and the working folder set to where it lies
(object_stores.py has those of stores, and their servers)
artifact_bytes  what two builds of one cache must have in common
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable

# Before torch is imported: tests run side by side, and a thread each is fastest for all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Ray is: it reads this once in a process, and its daemons again, which must agree with it.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # every Ray of a test is on the loopback

settings.register_profile("short", max_examples=25, deadline=None)
settings.register_profile("long", max_examples=100, deadline=None)
settings.load_profile("short")  # --hypothesis-profile says otherwise: `make soak`

pytest_plugins = ["object_stores"]

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker("properties")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("STILLROOM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set STILLROOM_SHARED_DATA to its folder")
    return folder


NETWORKS = '''
import torch
from torch import nn


class Tiny(nn.Module):
    """Stride 4; what it computes follows from its seed."""

    def __init__(self, classes, seed, width=6):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Conv2d(3, width, 4, 4)
        self.classifier = nn.Conv2d(width, classes, 1)

    @property
    def classifier_weight(self):
        return self.classifier.weight[:, :, 0, 0]

    def forward(self, images):
        features = self.body(images).relu()
        return {"logits": 3 * self.classifier(features), "features": {"penultimate": features}}


def teacher(classes=9, seed=0):
    return Tiny(classes, seed)


def student(num_classes, seed=7):
    return Tiny(num_classes, seed)


def slow_student(num_classes, seed=7):
    """Leaves the number of its process, by rank, and takes its time."""
    import os, pathlib, time

    pathlib.Path("pid" + os.environ.get("RANK", "")).write_text(str(os.getpid()))
    network = Tiny(num_classes, seed)
    network.register_forward_pre_hook(lambda *_: time.sleep(0.3))
    return network


class NotFinite(Tiny):
    """Says NaN of every frame whose first pixel is brighter than `above`."""

    def forward(self, images):
        said = super().forward(images)
        bright = images[:, :, 0, 0].mean(1) > 0
        said["logits"][bright] = float("nan")
        return said


def sometimes_nan(classes=9, seed=0):
    return NotFinite(classes, seed)
'''


@pytest.fixture
def run_document() -> dict[str, Any]:
    return {
        "sources": {
            "street": {
                "kind": "demo", "clips": 5, "frames_per_clip": 2, "height": 32, "width": 48,
            },
            "more": {
                "kind": "demo", "clips": 3, "frames_per_clip": 2, "height": 32, "width": 48,
                "seed": 5, "labelled": False,
            },
        },
        "teachers": {
            "tiny": {"kind": "python", "target": "tiny_networks:teacher", "device": "cpu"},
        },
        "cache": {
            "path": "street.cache", "canvas": [32, 48],
            "shard_frames": 4, "batch": 2, "threads": 1,
            "artifacts": ["logits", "pseudo_label", "confidence", "features/penultimate"],
            "threshold": 0.24,
        },
        "student": {"kind": "python", "target": "tiny_networks:student"},
        "terms": [
            {"name": "cross_entropy"},
            {"name": "probability_l2", "teacher": "tiny", "weight": 4.0},
        ],
        "train": {
            "path": "run",
            "streams": {"street": {"batch": 3}, "more": {"batch": 2}},
            "steps": 6,
            "view": {"crop": [16, 24], "scale": [0.75, 1.5], "flip": True},
            "log_every": 2,
            "checkpoint_every": 2,
        },
        "evaluate": {"source": "street", "sheet_frames": 2},
    }  # fmt: skip


@pytest.fixture
def run_file(run_document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "tiny_networks", raising=False)
    path = tmp_path / "run.toml"
    path.write_text(as_toml(run_document))
    return path


def as_toml(document: dict[str, Any]) -> str:
    """TOML with inline tables throughout; JSON's scalars and lists are TOML's."""

    def inline(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {inline(each)}" for key, each in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    return "\n".join(f"{key} = {inline(value)}" for key, value in document.items()) + "\n"


@pytest.fixture
def artifact_bytes() -> Callable[[Path], dict[str, str]]:
    def digests(folder: Path) -> dict[str, str]:
        """sha256 of everything in a cache but its manifest, whose seconds differ between builds."""
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "manifest" not in path.relative_to(folder).parts
        }

    return digests
