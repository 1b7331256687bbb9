"""Scale: how long a large manifest takes to open and to plan, and what memory a build takes.

    python benchmarks/bench_scale.py --frames 1000000 --build-frames 1000 100000

A million tiny images (hard links) and a manifest that says all of them are committed: seconds and
memory to open it with and without its catalogue, and seconds to plan a build of it. Then real
builds with a null teacher of a thousand and of a hundred thousand frames: the memory of each.
Every figure is from a process of its own. Needs 2 GB of disk and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
[sources.photos]
kind = "images"
root = "{root}"

[teachers.null]
kind = "python"
target = "bench_scale:null_teacher"
classes = 2

[cache]
path = "{root}.cache"
canvas = [8, 8]
frames = {frames}
artifacts = ["confidence"]
shard_frames = 64
batch = 64
"""
PER_FOLDER = 10_000


def null_teacher(**_: object) -> object:
    """A teacher that says hardly anything, quickly: two channels of the image."""
    import torch

    class Null(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :2].contiguous()

    return Null()


def measured(code: str, *arguments: object) -> dict:
    """Run code in a process of its own; what it prints as JSON, and its peak memory in MB."""
    tail = (
        "\nimport resource, json\n"
        "found['peak_mb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(json.dumps(found))"
    )
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def make_images(root: Path, frames: int) -> Path:
    """Hard links to a few tiny images, with folders of ten thousand; the run file beside them."""
    import cv2
    import numpy as np

    root.mkdir(parents=True)
    for first in range(0, frames, PER_FOLDER):
        folder = root / f"{first // PER_FOLDER:04d}"
        folder.mkdir()
        original = folder / f"{first:08d}.png"
        cv2.imwrite(str(original), np.full((8, 8, 3), first // PER_FOLDER % 256, np.uint8))
        for i in range(first + 1, min(first + PER_FOLDER, frames)):
            (folder / f"{i:08d}.png").hardlink_to(original)
    run = root.with_suffix(".toml")
    run.write_text(RUN.format(root=root, frames="false"))
    return run


COMMIT_ALL = """
import sys
from pathlib import Path
from stillroom.pipeline.build.sets import RunSet, define_set
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.storage_specs.layout import part_path
from stillroom.storage_specs.manifest import FrameRow, ObjectEntry, ShardPart, encode_part
from stillroom.storage_specs.store import Cache
run = load_run(Path(sys.argv[1]))
opened = open_run(run)
teacher = build_teacher(opened.teachers["null"])
cache = Cache.create(run.cache.path)
target = define_set(opened, cache, RunSet("photos", "null", run.cache.artifacts), teacher)
ids = opened.sources["photos"].frame_ids
objects = {s.path: ObjectEntry(1 << 20, "0" * 64) for a in target.definition.arrays
           for s in target.definition.stored(a)}
folder = Path(target.place) / part_path("photos", "null", 0)
folder.parent.mkdir(parents=True, exist_ok=True)
for shard in range(target.shards):
    span = target.shard_range(shard)
    rows = tuple(FrameRow(i, ids[i], valid_height=8, valid_width=8, bytes=500, crc32c=i,
                          seconds=0.1, confidence=0.5) for i in span)
    part = ShardPart("photos", "null", shard, span[0], span[-1] + 1, target.fingerprint, objects,
                     rows)
    (Path(target.place) / part_path("photos", "null", shard)).write_bytes(encode_part(part))
found = {"shards": target.shards}
"""
OPEN = """
import sys, time
import resource
began = time.perf_counter()
from stillroom.storage_specs.store import Cache
imported = time.perf_counter()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
target = Cache.open(sys.argv[1]).artifact_set("photos", "null")
rows = target.rows()
usable = target.usable()
found = {"import_s": imported - began, "open_s": time.perf_counter() - imported,
         "rows": rows.num_rows, "usable": len(usable), "import_mb": before}
"""
SAVE = """
import sys, time
from stillroom.storage_specs.store import Cache
target = Cache.open(sys.argv[1]).artifact_set("photos", "null")
began = time.perf_counter()
saved = target.save_catalogue()
found = {"saved": saved, "save_s": time.perf_counter() - began}
"""
PLAN = """
import sys, time
from pathlib import Path
from stillroom.pipeline.build.plan import plan_build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
run = load_run(Path(sys.argv[1]))
began = time.perf_counter()
opened = open_run(run)
listed = time.perf_counter()
plans = plan_build(opened)
found = {"list_source_s": listed - began, "plan_s": time.perf_counter() - listed,
         "works": sum(len(list(plan.works())) for plan in plans)}
"""
BUILD = """
import sys, time
from pathlib import Path
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
began = time.perf_counter()
report = build(load_run(Path(sys.argv[1])))
found = {"frames": report.frames, "seconds": time.perf_counter() - began}
"""


def shown(what: str, found: dict) -> None:
    """One line of the report."""
    numbers = (f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
    print(f"{what}: {', '.join(numbers)}", flush=True)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--build-frames", type=int, nargs="*", default=[1000, 100_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = make_images(Path(folder) / "many", options.frames)
        shown("images", {"frames": options.frames, "seconds": time.perf_counter() - began})
        cache = f"{run.with_suffix('')}.cache"
        shown("manifest written", measured(COMMIT_ALL, run))
        shown("open, parts one by one", measured(OPEN, cache))
        shown("catalogue", measured(SAVE, cache))
        shown("open, with catalogue", measured(OPEN, cache))
        shown("plan", measured(PLAN, run))
        for frames in options.build_frames:
            run = make_images(Path(folder) / f"some{frames}", frames)
            shown(f"build of {frames}", measured(BUILD, run))


if __name__ == "__main__":
    main()
