"""What a training step takes on a GPU: precisions, torch.compile, terms, and what it waits for.

    python benchmarks/bench_gpu.py --out runs/bench_gpu

An FPN on MobileNetV2 learns from a cache of drawn scenes (a teacher without weights: its output is
noise, its arithmetic is not). Every side takes the same batches again and again, without the
loader, packed or as the host decodes them; sides go round in turn, and the median of the rounds is
printed with the least and the greatest, as a Markdown table. `--device cpu` tries the script
without a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

TEACHER = {"kind": "smp", "architecture": "FPN", "encoder": "resnet34"}
LOGITS = [{"name": "cross_entropy"}, {"name": "pixelwise_kl", "teacher": "fpn"}]
MANY = [
    *LOGITS,
    {"name": "dist", "teacher": "fpn"},
    {"name": "augmented_pixelwise", "teacher": "fpn"},
    {"name": "cross_image_memory", "teacher": "fpn"},
    {"name": "holistic", "teacher": "fpn", "weight": 1e-3},
]
SIDES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {  # settings of [train], terms
    "float32, labels": ({"amp": "off"}, LOGITS[:1]),
    "float32": ({"amp": "off"}, LOGITS),
    "float16": ({"amp": "auto"}, LOGITS),
    "bfloat16": ({"amp": "bfloat16"}, LOGITS),
    "bfloat16, decoded by the host": ({"amp": "bfloat16", "decode": "host"}, LOGITS),
    "bfloat16, compiled": ({"amp": "bfloat16", "compile": True}, LOGITS),
    "bfloat16, two parts": ({"amp": "bfloat16", "accumulate": 2}, LOGITS),
    "bfloat16, six terms": ({"amp": "bfloat16"}, MANY),
}


def stepper(given: argparse.Namespace, name: str) -> Callable[[], float]:
    """Return what takes some steps of one side, and says how many seconds a frame took."""
    from stillroom.pipeline.build.run import build
    from stillroom.pipeline.run_file.loading import parse_run
    from stillroom.pipeline.training import prepare_job
    from stillroom.stages.train.checkpoint import new_learner
    from stillroom.stages.train.profile import synchronise
    from stillroom.stages.train.step import lr_at, take_step
    from stillroom.stages.train.stream import open_loader

    settings, terms = SIDES[name]
    height, width = given.canvas
    source = {"kind": "demo", "clips": 8, "frames_per_clip": 8, "height": height, "width": width}
    parts = settings.get("accumulate", 1)
    document = {
        "sources": {"street": source},
        "teachers": {"fpn": {**TEACHER, "classes": 9, "device": given.device}},
        "cache": {
            "path": str(given.out / "gpu.cache"), "canvas": [height, width],
            "artifacts": ["logits", "pseudo_label", "confidence", "features/penultimate"],
        },
        "student": {"kind": "smp", "architecture": "FPN", "encoder": "mobilenet_v2"},
        "terms": terms,
        "train": {
            "path": str(given.out / "none"), "streams": {"street": {"batch": given.batch // parts}},
            "steps": 10_000, "device": given.device, **settings,
        },
    }  # fmt: skip
    run = parse_run(document, "bench_gpu")
    build(run)
    job, device = prepare_job(run), torch.device(given.device)
    learner = new_learner(job.student, job.objective, job.settings, device)
    with open_loader(job, steps=1) as loader:
        batches = list(loader)

    def steps() -> float:
        synchronise(device)
        began = time.perf_counter()
        for _ in range(given.steps):
            take_step(job, learner, batches, lr_at(job, learner.updates))
            learner.step += 1
        synchronise(device)
        return (time.perf_counter() - began) / given.steps

    return steps


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--canvas", type=int, nargs=2, default=(512, 1024))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    given = parser.parse_args()
    sides = {name: stepper(given, name) for name in given.sides}
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(given.rounds + 1):
        for name, steps in sides.items():
            seconds = steps()
            if number:  # the first round chooses and compiles kernels
                took[name].append(seconds)
    where = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, {given.batch} frames a step of {given.canvas}\n")
    print("| side | ms a step | least, greatest | frames/s |\n|---|---|---|---|")
    for name, each in took.items():
        ms = [1e3 * seconds for seconds in (statistics.median(each), min(each), max(each))]
        frames = 1e3 * given.batch / ms[0]
        print(f"| {name} | {ms[0]:.1f} | {ms[1]:.1f}, {ms[2]:.1f} | {frames:.0f} |")
    if given.device == "cuda":
        print(json.dumps({"most_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)}))


if __name__ == "__main__":
    main()
