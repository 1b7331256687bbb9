"""Which pixels a raised threshold of pseudo labels keeps, and what the confidence for it takes.

    python benchmarks/bench_threshold.py --data ../shared/data

The CamVid teacher on CamVid test and COCO frames. A cache that was built at 0.7 is read with a
higher threshold, and compared with the pseudo labels of a build at that threshold: the share of
their pixels that is lost, and how many others are kept, over them. From the teacher's grid by way
of the student's, as it was read before `pixel_confidence`; from the teacher's grid to pixels; from
the cached logits, upsampled; from `pixel_confidence`. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.geometry import apply_field
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.makers import MAKERS, Output
from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.images import ImagesConfig, open_images
from stillroom.stages.upsample import upsample_logits
from stillroom.stages.view import identity_view
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.compressors import compress
from stillroom.storage_specs.presets import PRESETS, load_preset

CANVAS, BUILT = (360, 480), 0.7
THRESHOLDS, STRIDES = (0.8, 0.9, 0.95), (4, 8, 16, 32)
ARTIFACTS = ("logits", "confidence", "pixel_confidence", "pseudo_label")


def frames_of(folder, count):
    source = open_images(ImagesConfig(kind="images", root=folder))
    for place in np.linspace(0, len(source) - 1, count).astype(int):
        yield to_canvas(source.load(int(place)), CANVAS)


def stored(name, array, preset="fast"):
    """What a cache gives back of an artifact, and its bytes, compressed."""
    storage = load_preset(preset, {}, None).storage(name)
    encoded = storage.codec.encode(array)
    size = sum(side.nbytes for side in encoded.side.values())
    size += len(compress(storage.compressor, encoded.values))
    return torch.from_numpy(np.array(storage.codec.decode(encoded.values, encoded.side))), size


def readings(cached, stride):
    """The confidence of each pixel by each way of reading it: (H, W)."""
    coarse = cached["confidence"][None]
    for student in STRIDES:
        moved = apply_field(identity_view(CANVAS), coarse, stride, student)[None]
        yield f"by a student's grid of {student}", upsample_logits(moved, student, CANVAS)[0, 0]
    yield "teacher's grid, one step", upsample_logits(coarse[None], stride, CANVAS)[0, 0]
    full = upsample_logits(cached["logits"][None], stride, CANVAS)[0]
    yield "cached logits, upsampled", full.softmax(0).amax(0)
    yield "pixel_confidence", cached["pixel_confidence"]


def compare(teacher, frames):
    """Counts by reading and threshold: of a build, lost, wrongly kept; bytes by artifact."""
    counts, sizes = {}, {}
    stride = teacher.strides["logits"]
    for frame in frames:
        shown = torch.zeros(frame.image.shape[:2], dtype=torch.bool)
        shown[: frame.valid[0], : frame.valid[1]] = True
        output = Output(teacher(frame.image[None])["logits"][0], stride, shown, BUILT)
        made = {name: MAKERS[name](output).cpu().numpy() for name in ARTIFACTS}
        for name, array in made.items():
            for preset in PRESETS:
                sizes.setdefault((name, preset), []).append(stored(name, array, preset)[1])
        cached = {name: stored(name, array)[0] for name, array in made.items()}
        there = torch.from_numpy(made["pseudo_label"]) != IGNORE
        for threshold in THRESHOLDS:
            built = MAKERS["pseudo_label"](Output(output.grid, stride, shown, threshold)) != IGNORE
            for name, sure in readings(cached, stride):
                kept = there & (sure >= threshold)
                found = np.array([built.sum(), (built & ~kept).sum(), (kept & ~built).sum()])
                counts[name, threshold] = counts.get((name, threshold), 0) + found
    return counts, sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = given.data.resolve()
    run = load_run(
        Path(__file__).resolve().parent.parent / "examples" / "camvid.toml",
        [f'teachers.fpn.weights="{data / "weights/camvid_fpn_lite0.safetensors"}"'],
    )
    teacher = build_teacher(run.teacher("fpn"), CANVAS)
    for folder in ("camvid/test", "coco/val2017"):
        counts, sizes = compare(teacher, frames_of(data / folder, given.frames))
        print(f"\n{folder}: lost / wrongly kept, of the pixels of a build at the threshold\n")
        print(f"| confidence from | {' | '.join(map(str, THRESHOLDS))} |")
        print("|---|" + "---|" * len(THRESHOLDS))
        for name in dict.fromkeys(name for name, _ in counts):
            shares = (counts[name, each] / counts[name, each][0] for each in THRESHOLDS)
            print(f"| {name} | {' | '.join(f'{m:.2%} / {x:.2%}' for _, m, x in shares)} |")
        print(f"\n| kB a frame of 360x480 | {' | '.join(PRESETS)} |\n|---|" + "---|" * len(PRESETS))
        for name in ARTIFACTS:
            means = (f"{np.mean(sizes[name, preset]) / 1000:.1f}" for preset in PRESETS)
            print(f"| `{name}` | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
