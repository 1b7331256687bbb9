"""What each recipe takes: the table of recipes/README.md, by arithmetic, without data or weights.

    python benchmarks/recipe_sizes.py

Multiply-adds are counted on networks without memory ("meta"); how they become hours and bytes is
said beside the table.
"""

from __future__ import annotations

import re
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.students.families import build_student

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.models.teacher import Teacher

RECIPES = Path(__file__).parents[1] / "recipes"
# Of one GTX 1080 Ti in float32, 10^12 multiply-adds a second, from the papers' own timings.
RATE = {"dense": 3.6, "mobilenet": 0.55}
# Times smaller than float32 (frames: than uint8) with preset "fast": docs/results
SMALLER = {"logits": 6.36, "features": 4.34, "frames": 1.18}
BACKWARD = 2  # forward passes that a backward pass costs


def main() -> None:
    torch.set_num_threads(1)
    print("| recipe | frames | cache, GB | teacher, hours | student, hours |")
    print("|---|---|---|---|---|")
    for path in sorted(RECIPES.rglob("*.toml")):
        if not path.stem.endswith("_sweep"):
            print(row(path), flush=True)


def row(path: Path) -> str:
    """One recipe's line."""
    run, frames = load_run(path), frames_of(path)
    (name,) = run.teachers
    teacher = build_teacher(run.teacher(name).model_copy(update={"weights": None}))
    assert teacher.module is not None
    assert run.cache.canvas is not None
    size = frames * bytes_of(run, teacher) / 1e9
    seconds = frames * macs(teacher.module, run.cache.canvas) / RATE["dense"] / 1e12
    mark = f"[`{path.parent.name}/{path.name}`]({path.parent.name}/{path.name})"
    return f"| {mark} | {frames} | {size:.0f} | {seconds / 3600:.1f} | {student_hours(run):.0f} |"


def frames_of(path: Path) -> int:
    """Frames of the cached sources, as the recipe states them beside each."""
    run, text = load_run(path), path.read_text()
    stated = re.findall(r"^\[sources\.(\w+)\] .*?(\d+) frames", text, re.MULTILINE)
    return sum(int(count) for name, count in stated if name in run.cached_sources())


def bytes_of(run: RunConfig, teacher: Teacher) -> float:
    """Bytes of a frame: RGB and label, what each artifact takes, flow in both directions."""
    canvas = run.cache.canvas
    assert canvas is not None
    total = 4 * prod(canvas) / SMALLER["frames"]
    grids = teacher(np.zeros((1, 64, 64, 3), np.uint8))
    for artifact in run.cache.artifacts:
        kind = artifact.partition("/")[0]
        grid = artifact if artifact in grids else "logits"
        cells = prod(ceil(side / teacher.strides[grid]) for side in canvas)
        if kind in SMALLER:
            total += 4 * cells * grids[artifact].shape[1] / SMALLER[kind]
        else:  # pseudo labels and confidences: a byte a position
            total += cells
    return total


def student_hours(run: RunConfig) -> float:
    """Hours of forward and backward passes of all steps, by multiply-adds."""
    classes = run.classes_of("train")
    assert run.student is not None and run.train is not None and classes is not None  # noqa: PT018
    kept = {name: None for name in ("weights", "encoder_weights") if hasattr(run.student, name)}
    options = {k: v for k, v in run.student.options.items() if k != "encoder_weights"}
    student = build_student(
        run.student.model_copy(update={**kept, "options": options}), len(classes)
    )
    each = [3 if stream.triplets else 1 for stream in run.train.streams.values()]
    batches = [stream.batch for stream in run.train.streams.values()]
    seen = run.train.steps * sum(batch * k for batch, k in zip(batches, each, strict=True))
    total = (1 + BACKWARD) * seen * macs(student.network, run.train.view.crop)
    named = f"{getattr(run.student, 'target', '')} {options.get('encoder', '')}"
    bare = "mobilenet" in named  # no dense head around its encoder
    kind = "mobilenet" if bare else "dense"
    return total / RATE[kind] / 1e12 / 3600


def macs(network: torch.nn.Module, size: tuple[int, int]) -> float:
    """Multiply-adds of one frame."""
    shown = network.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shown(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() / 2


if __name__ == "__main__":
    main()
