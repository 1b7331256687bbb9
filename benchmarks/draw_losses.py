"""What teacher and student have of two CamVid frames, and where each loss is: pictures, one a loss.

    python benchmarks/draw_losses.py --data ../shared/data --student runs/camvid_xie/ce-seed0

Teacher and student are those of examples/camvid.toml; the student's weights are a finished run's,
best one on labels alone, which has all distillation before it. By the losses' own functions; those
that train something beside the student do so for some steps, on ten frames. Draws into docs/losses;
about four minutes on one quiet core.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pictures_of_features
import pictures_of_logits
import pictures_with_training
import torch
from loss_maps import Shown, Views
from map_page import draw

from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.students.families import build_student
from stillroom.stages.sources.camvid import CamVidConfig
from stillroom.stages.sources.open import open_source

RUN_FILE = Path(__file__).resolve().parent.parent / "examples" / "camvid.toml"
FRAMES = ("Seq05VD_f02820", "Seq05VD_f03540")
OTHERS = 8
MARKS = ((57, 104, "a car"), (50, 104, "a pedestrian"))  # on the two frames' grids
PICTURES = {
    **pictures_of_logits.PICTURES,
    **pictures_of_features.PICTURES,
    **pictures_with_training.PICTURES,
}


def see(data: Path, weights: Path) -> Shown:
    """Run both networks on the two frames and on eight others of CamVid's test split."""
    found = data / "weights"
    run = load_run(
        RUN_FILE,
        (
            f"teachers.fpn.weights={found / 'camvid_fpn_lite0.safetensors'}",
            f"student.weights={weights}",
        ),
    )
    source = open_source(CamVidConfig(root=data / "camvid", split="test"))
    names = [str(name) for name in source.frame_ids]
    shown = [names.index(name) for name in FRAMES]
    step = len(names) // OTHERS
    frames = [source.load(index) for index in [*shown, *range(5, len(names), step)][: 2 + OTHERS]]
    images = np.stack([frame.image for frame in frames])
    teacher = build_teacher(run.teachers["fpn"].model_copy(update={"classes": source.classes}))
    student = build_student(
        run.student.model_copy(update={"encoder_weights": None}), len(source.classes)
    ).eval()
    parts = [teacher(image[None]) for image in images]
    with torch.no_grad():
        own = [student(torch.from_numpy(image).permute(2, 0, 1)[None].float()) for image in images]
    views = Views(
        tuple(frame.frame_id for frame in frames),
        images,
        torch.from_numpy(np.stack([frame.label for frame in frames])).long(),
        torch.cat([one.logits for one in own]),
        torch.cat([one["logits"] for one in parts]).clone(),
        torch.cat([one.features["penultimate"] for one in own]),
        torch.cat([one["features/penultimate"] for one in parts]).clone(),
        student.classifier_weight.detach(),
    )
    return Shown(views.part(slice(0, 2)), views.part(slice(2, None)), MARKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--student", type=Path, required=True, help="a run folder, or its weights")
    parser.add_argument("--out", type=Path, default=RUN_FILE.parent.parent / "docs" / "losses")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES))
    options = parser.parse_args()
    weights = options.student
    weights = weights / "model.safetensors" if weights.is_dir() else weights
    shown = see(options.data, weights)
    for name in options.only:
        path = draw(PICTURES[name](shown), options.out / f"{name}.png")
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
