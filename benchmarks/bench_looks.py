"""What more looks at each frame are worth to a teacher, and what is left of it in a cache.

    python benchmarks/bench_looks.py --data ../shared/data

The CamVid teacher on every fourth frame of CamVid test: by `stillroom eval`, whose means are of
pixels, and by a section of teachers, whose means are logits of its own grid, before any codec.
One thread; seconds are of CPU, of the first. Prints a Markdown table, a row as soon as it is there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.evaluate.evaluation import evaluate
from stillroom.stages.evaluate.predict import TeacherPredictor, read_frames
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.looks import Looks
from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.stages.sources.open import open_source

LOOKS = {
    "one": {},
    "`flip`": {"flip": True},
    "`scales = [0.75, 1, 1.25]`": {"scales": (0.75, 1.0, 1.25)},
    "both": {"flip": True, "scales": (0.75, 1.0, 1.25)},
    "`scales = [0.5, 0.75, 1, 1.25, 1.5]` and `flip`": {
        "flip": True,
        "scales": (0.5, 0.75, 1.0, 1.25, 1.5),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--every", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    roots = [
        f"sources.camvid_test.root={asked.data}/camvid",
        f"teachers.fpn.weights={asked.data}/weights/camvid_fpn_lite0.safetensors",
    ]
    run = load_run(Path("examples/camvid.toml"), roots)
    source, section = open_source(run.sources["camvid_test"]), run.teacher("fpn")
    frames = range(0, len(source), asked.every)

    def score(predict):
        began = time.process_time()
        seen = read_frames(source, run.cache.canvas, frames)
        found = evaluate(predict, seen, source.classes, batch=1)
        seconds = (time.process_time() - began) / found.frames
        return found.scores.miou, found.boundary.miou, seconds

    print("| looks | mIoU | boundary mIoU | on the teacher's grid: mIoU | CPU s a frame |")
    print("|---|---|---|---|---|", flush=True)
    plain = TeacherPredictor(build_teacher(section, run.cache.canvas))
    for name, looks in LOOKS.items():
        settings = LooksSettings(**looks)
        miou, boundary, seconds = score(Looks(plain, settings) if looks else plain)
        several = build_teacher(section.model_copy(update=looks), run.cache.canvas)
        kept, _, _ = score(TeacherPredictor(several))
        print(f"| {name} | {miou:.4f} | {boundary:.3f} | {kept:.4f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
