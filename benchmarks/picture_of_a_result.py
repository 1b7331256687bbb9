"""Draw the picture of README.md: CamVid's test frames, labels, a teacher, and its small student.

    python benchmarks/picture_of_a_result.py docs/result.webp

Builds the cache and trains the student of examples/camvid_small.toml where they are not there yet
(600 steps: labels and the teacher's distribution), and scores both on all test frames: about ten
minutes on two quiet cores, from the repository's folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from stillroom.pipeline.build.run import build
from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_models
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run

WIDTH = 1400
CHANGES = (
    'cache.sources=["camvid"]',
    "cache.path=runs/student.cache",
    "train.path=runs/student",
    "train.threads=1",
    'terms=[{name="cross_entropy"}, {name="pixelwise_kl", teacher="fpn"}]',
    "evaluate.sheet_frames=3",
)


def main(out: Path) -> None:
    """Draw it."""
    run = load_run(Path("examples/camvid_small.toml"), CHANGES)
    build(run)
    train_run(run)
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.png"
        for one in evaluate_models(
            run, ["teacher:fpn", "runs/student"], EvaluationOptions(sheet=sheet)
        ):
            print(f"{one.model}: mIoU {one.result.scores.miou:.4f}, {one.cost.parameters} weights")
        with Image.open(sheet) as drawn:
            height = round(drawn.height * WIDTH / drawn.width)
            small = drawn.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.save(out, quality=82, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
