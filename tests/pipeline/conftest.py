"""Runs that are finished: `run` of networks of two layers, `camvid_run` on real frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run

CAMVID = """
[sources.val]
kind = "camvid"
root = "{data}/camvid"
split = "val"

[cache]
path = "val.cache"
canvas = [360, 480]

[student]
kind = "smp"
architecture = "FPN"
encoder = "tu-tf_efficientnet_lite0"
weights = "{data}/weights/camvid_fpn_lite0.safetensors"
mean = [127, 127, 127]
std = [128, 128, 128]

[[terms]]
name = "cross_entropy"

[train]
path = "run"
streams = {{ val = {{ batch = 2 }} }}
steps = 2
view = {{ crop = [96, 96] }}
optimiser = {{ name = "adamw", lr = 1e-5 }}
"""


@pytest.fixture
def run(run_file: Path) -> Path:
    """The folder of a run of a few steps."""
    run = load_run(run_file)
    build(run)
    train_run(run)
    return Path("run")


@pytest.fixture
def camvid_run(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two steps on real frames, from weights that know them."""
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(CAMVID.format(data=shared_data))
    run = load_run(Path("run.toml"))
    build(run)
    train_run(run)
    return Path("run")
