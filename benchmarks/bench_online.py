"""What a cache saves: a step that reads what teachers said, against one that asks them.

    python benchmarks/bench_online.py --data ../shared/data --plot paid.png

A student on crops of CamVid, from a cache and with `train.teacher = "online"`, in turn and in one
process. Seconds are of CPU, of one thread, with the loader's: medians over rounds of some steps.
"teacher" and "student" are those parts of a step alone, on batches that are there: a cache saves
the former at best, so that online / cached is held against (teacher + student) / student. What a
cache costs is that of `--frames` frames, times as many as there are. Prints Markdown tables, and
draws the hours of so many students. Only the shipped teacher has weights; what the others say is
noise, which takes as long.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import torch

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import parse_run
from stillroom.pipeline.training import prepare_job
from stillroom.stages.pictures.curve_chart import Panel, curve_chart
from stillroom.stages.train.checkpoint import new_learner
from stillroom.stages.train.packed.arrival import on_device
from stillroom.stages.train.step import take_step
from stillroom.stages.train.stream import open_loader
from stillroom.storage_specs.store import Cache

CPU = torch.device("cpu")
FRAMES = 367  # of CamVid train
STUDENTS = (1, 2, 5, 30)
LITE2 = {"architecture": "FPN", "encoder": "tu-tf_efficientnet_lite2"}
TEACHERS = {
    "lite0": {},
    "lite2": LITE2,
    "lite2 of ten looks": {**LITE2, "flip": True, "scales": [0.5, 0.75, 1.0, 1.25, 1.5]},
    "PSPNet-R101": {
        "architecture": "PSPNet",
        "encoder": "resnet101",
        "options": {"encoder_depth": 5, "output_stride": 8},
    },
}


def run_of(folder, name, asked, **train):
    """The example's student and the teacher, on the first frames of CamVid."""
    data = asked.data
    document = copy.deepcopy(tomllib.loads(Path("examples/camvid.toml").read_text()))
    document["sources"] = {
        "camvid": {
            "kind": "camvid",
            "root": f"{data}/camvid",
            "split": "train",
            "take": asked.frames,
        }
    }
    weights = f"{data}/weights/camvid_fpn_lite0.safetensors"
    del document["teachers"]["fpn"]["weights"]
    document["teachers"]["fpn"] |= {"device": "cpu"} | (TEACHERS[name] or {"weights": weights})
    document["cache"] |= {"path": str(folder / "cache"), "sources": ["camvid"], "threads": 1}
    document["cache"]["artifacts"] = ["logits"]
    document["student"]["encoder_weights"] = (
        f"{data}/weights/tf_efficientnet_lite0_imagenet.safetensors"
    )
    document["terms"] = [{"name": "cross_entropy"}, {"name": "pixelwise_kl", "teacher": "fpn"}]
    document["train"] |= {
        "path": str(folder / "run"), "streams": {"camvid": {"batch": asked.batch}},
        "view": {"crop": [256, 320], "flip": True}, "threads": 1, "device": "cpu", **train,
    }  # fmt: skip
    del document["evaluate"]
    return parse_run(document, "bench_online")


class Found(NamedTuple):
    """CPU seconds of a step and of its parts; of the whole cache CPU hours and bytes."""

    cached: float
    online: float
    teacher: float
    student: float
    hours: float
    bytes: float

    def hours_of(self, students, steps):
        """CPU hours of so many students: from a cache, with its build, and online."""
        of_cache, online = (students * each * steps / 3600 for each in (self.cached, self.online))
        return self.hours + of_cache, online


class Side:
    """A run that takes steps when it is told to."""

    def __init__(self, run, asked):
        self.job = prepare_job(run)
        self.learner = new_learner(self.job.student, self.job.objective, self.job.settings, CPU)
        self.steps = asked.steps
        self.loader = open_loader(self.job, steps=(asked.rounds + 1) * asked.steps)
        self.batches = iter(self.loader)

    def round(self):
        """CPU seconds of a step."""
        began = time.process_time()
        for _ in range(self.steps):
            self.held = next(self.batches)
            self.take(self.held)
        return (time.process_time() - began) / self.steps

    def take(self, batches):
        """Take a step on batches that are there."""
        take_step(self.job, self.learner, [batches], 1e-4).values()
        self.learner.step += 1


def of_parts(cached, online, batches, steps):
    """CPU seconds of the teacher, and of the student on batches that are there."""
    began = time.process_time()
    for _ in range(steps):
        on_device(batches, CPU, online.job.live)
    between = time.process_time()
    for _ in range(steps):
        cached.take(cached.held)
    return (between - began) / steps, (time.process_time() - between) / steps


def measure(folder, teacher, asked):
    began = time.process_time()
    build(run_of(folder, teacher, asked))
    building = (time.process_time() - began) / asked.frames
    size = sum(Cache.open(folder / "cache").artifact_set("camvid", "fpn").sizes().values())
    sides = [
        Side(run_of(folder, teacher, asked, **how), asked) for how in ({}, {"teacher": "online"})
    ]
    cached, online = sides
    with cached.loader, online.loader:
        for side in sides:
            side.round()
        times = [[side.round() for side in sides] for _ in range(asked.rounds)]
        parts = [of_parts(cached, online, online.held, asked.steps) for _ in range(asked.rounds)]
    medians = [statistics.median(of) for of in (*zip(*times), *zip(*parts))]  # noqa: B905
    return Found(*medians, building * FRAMES / 3600, size / asked.frames * FRAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--teacher", choices=TEACHERS, action="append")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--student-steps", type=int, default=2000)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for teacher in asked.teacher or TEACHERS:
        with tempfile.TemporaryDirectory() as folder:
            found[teacher] = measure(Path(folder), teacher, asked)
    tell(found, asked.student_steps)
    if asked.plot is not None:
        draw(asked.plot, found, asked.student_steps)


def tell(found, steps):
    print("| teacher | cached | online | of it teacher | student | online / cached | of the most |")
    print("|---|---|---|---|---|---|---|")
    for name, one in found.items():
        gain, most = one.online / one.cached, (one.teacher + one.student) / one.student
        times = " | ".join(f"{each:.2f} s" for each in one[:4])
        print(f"| {name} | {times} | {gain:.2f} | {gain / most:.2f} |")
    heads = " | ".join(f"of {n}" for n in STUDENTS)
    print(f"\n| teacher | bytes | hours to build | hours saved: {heads} | students to pay for it |")
    print("|---|---|---" + "|---" * len(STUDENTS) + "|---|")
    for name, one in found.items():
        hours = [one.hours_of(n, steps) for n in STUDENTS]
        saved = " | ".join(f"{online - cached:+.2f}" for cached, online in hours)
        paid = one.hours / ((one.online - one.cached) * steps / 3600)
        size = f"{one.bytes / 1e6:.0f} MB"
        print(f"| {name} | {size} | {one.hours:.2f} | {saved} | {paid:.2f} |")


def draw(path, found, steps):
    panels = []
    for name, one in found.items():
        cached, online = zip(*(one.hours_of(n, steps) for n in STUDENTS), strict=True)
        curves = {"from a cache, with its build": cached, "online": online}
        series = {label: (STUDENTS, hours) for label, hours in curves.items()}
        panels.append(Panel(f"CPU hours: {name}", series, along="students"))
    curve_chart(path, panels, title="When a cache has paid for itself")


if __name__ == "__main__":
    main()
