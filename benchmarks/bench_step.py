"""What a step of real training costs with cached logits, against labels only.

    python benchmarks/bench_step.py --out runs/bench_step

The student, view and batch of examples/camvid.toml, on CamVid's labelled frames: cross-entropy
alone, and with the pixel-wise KL divergence to cached logits of the teacher. Both train in turn,
each in a process of its own, through `stillroom train`'s own loop with its loader, terms, backward
pass and update; the first ten steps of each are left out. The cache is built first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "examples" / "camvid.toml"
SIDES = {
    "labels": [{"name": "cross_entropy"}],
    "logits": [{"name": "cross_entropy"}, {"name": "pixelwise_kl", "teacher": "fpn"}],
}
FIRST = 10


def run_of(out: Path, side: str, steps: int) -> RunConfig:
    """The run of one side: the example's, on one stream."""
    from stillroom.pipeline.run_file.loading import parse_run

    document = tomllib.loads(RUN.read_text())
    document["cache"] |= {
        "path": str(out / "camvid.cache"), "sources": ["camvid"], "artifacts": ["logits"],
    }  # fmt: skip
    document["train"] |= {
        "path": str(out / side), "streams": {"camvid": {"batch": 12}}, "steps": steps,
        "gradients_every": 0,
    }  # fmt: skip
    document["terms"] = SIDES[side]
    return parse_run(document, str(RUN))


def step_seconds(out: Path, side: str, steps: int) -> float:
    """Median seconds of a step, waiting for data included."""
    from stillroom.pipeline.training import train_run

    shutil.rmtree(out / side, ignore_errors=True)
    times: list[float] = []
    train_run(run_of(out, side, steps), lambda _: times.append(time.perf_counter()))
    each = [after - before for before, after in itertools.pairwise(times)]
    return statistics.median(each[FIRST:])


def main() -> None:
    """Measure, and print one line of JSON; or, as a child, one side's seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    out = given.out.resolve()
    if given.child:
        print(step_seconds(out, given.child, given.steps))
        return
    from stillroom.pipeline.build.run import build

    out.mkdir(parents=True, exist_ok=True)
    build(run_of(out, "logits", given.steps))
    took: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(given.rounds):
        for side in list(SIDES)[:: -1 if number % 2 else 1]:
            took[side].append(child(out, side, given.steps))
    ratios = [b / a for a, b in zip(took["labels"], took["logits"], strict=True)]
    found = {
        "step_s": {side: round(statistics.median(each), 4) for side, each in took.items()},
        "ratio": round(statistics.median(ratios), 3),
        "lowest_and_highest": [round(min(ratios), 3), round(max(ratios), 3)],
        "rounds": given.rounds,
    }
    print(json.dumps(found))


def child(out: Path, side: str, steps: int) -> float:
    """One side's seconds, from a process of its own."""
    asked = ["--out", str(out), "--steps", str(steps), "--child", side]
    made = subprocess.run(
        [sys.executable, __file__, *asked], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return float(made.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
