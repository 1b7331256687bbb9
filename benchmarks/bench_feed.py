"""How much of an accelerator's rate two loaders reach: stillroom's, and one of JPEG and PNG files.

    python benchmarks/bench_feed.py --out runs/bench_feed

An accelerator of so many images a second is a step that only sleeps. It stands in the real loop of
`stillroom train`, which streams frames, labels and logits of CamVid from a cache, and behind
torch's DataLoader with PIL, which reads the same crops of frames and labels from their files. Both
run in turn, rate by rate, each in a process of its own with as many loading threads (stillroom) or
processes (DataLoader) as `--workers`. The share is of the steps after the first second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "camvid"
BATCH, CROP, SCALE = 8, (256, 320), (0.5, 2.0)
RUN = """
[sources.camvid]
kind = "camvid"
root = "{data}"
split = "train"

[teachers.random]
kind = "python"
target = "bench_feed:random_teacher"
classes = 11

[cache]
path = "{out}/camvid.cache"
canvas = [360, 480]
artifacts = ["logits"]
preset = "fast"

[student]
kind = "python"
target = "bench_feed:small_student"

[[terms]]
name = "cross_entropy"

[[terms]]
name = "pixelwise_kl"
teacher = "random"

[train]
path = "{out}/{run}"
streams = {{ camvid = {{ batch = {batch} }} }}
steps = {steps}
threads = {workers}
view = {{ crop = [{crop[0]}, {crop[1]}], scale = [{scale[0]}, {scale[1]}], flip = true }}
checkpoint_every = 1000000
gradients_every = 0
"""


def random_teacher(**_: object) -> Any:
    """A teacher of smooth logits at stride 4, quick to run: the codecs see what is usual."""
    import torch
    from torch import nn

    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.Conv2d(3, 11, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 3 * self.classes(nn.functional.avg_pool2d(images, 4))

    torch.manual_seed(0)
    return Random()


def small_student(num_classes: int, **_: object) -> Any:
    """A student at stride 4, which is never run: the step sleeps."""
    from torch import nn

    return nn.Conv2d(3, num_classes, 4, stride=4)


def run_file(out: Path, workers: int, steps: int, name: str) -> RunConfig:
    """The run of one measurement."""
    from stillroom.pipeline.run_file.loading import load_run

    path = out / f"{name}.toml"
    path.write_text(
        RUN.format(
            data=DATA, out=out, batch=BATCH, steps=steps, workers=workers, crop=CROP, scale=SCALE,
            run=name,
        )
    )  # fmt: skip
    return load_run(path)


def stillroom_share(out: Path, workers: int, rate: float, seconds: float) -> float:
    """Share of the rate that the loop of `stillroom train` reaches."""
    import shutil

    from stillroom.pipeline.training import train_run
    from stillroom.stages.train import session
    from stillroom.stages.train.step import Step, Taken

    class Slept(Taken):
        def values(self) -> Step:
            return Step(1.0, {"camvid/cross_entropy": 0.5, "camvid/pixelwise_kl": 0.5})

    def sleep(job: Any, learner: Any, parts: Any, lr: float, **_: object) -> Taken:
        time.sleep(BATCH / rate)
        return Slept(learner.step + 1, lr, [])

    session.take_step = sleep
    times: list[float] = []
    name = f"feed-{rate:g}"
    shutil.rmtree(out / name, ignore_errors=True)
    steps = round((seconds + 1) * rate / BATCH)
    train_run(run_file(out, workers, steps, name), lambda _: times.append(time.perf_counter()))
    return share_of(times, rate)


class Files:
    """The same crops of frames and labels, from JPEG and PNG files: a dataset of torch's."""

    def __init__(self) -> None:
        self.images = sorted((DATA / "train").iterdir())
        self.labels = sorted((DATA / "trainannot").iterdir())

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        import torch
        from PIL import Image

        from stillroom.stages.view import ViewConfig, sample_view

        rng = np.random.default_rng(place)
        view = sample_view(ViewConfig(crop=CROP, scale=SCALE, flip=True), (360, 480), rng)
        index = place * 7 % len(self.images)
        made = []
        for path, method in (
            (self.images[index], Image.Resampling.BILINEAR),
            (self.labels[index], Image.Resampling.NEAREST),
        ):
            image = Image.open(path)
            corners = view.left, view.top, view.left + view.width, view.top + view.height
            box = tuple(
                min(max(corner, 0), side)
                for corner, side in zip(corners, image.size * 2, strict=True)
            )
            image = image.resize((view.out_width, view.out_height), method, box=box)
            if view.flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            made.append(torch.from_numpy(np.array(image)))
        return made[0].permute(2, 0, 1).float().div(255), made[1].long()


def files_share(workers: int, rate: float, seconds: float) -> float:
    """Share of the rate that torch's DataLoader reaches."""
    from torch.utils.data import DataLoader

    times = []
    batches = iter(DataLoader(Files(), BATCH, num_workers=workers))
    for _ in range(round((seconds + 1) * rate / BATCH)):
        next(batches)
        time.sleep(BATCH / rate)
        times.append(time.perf_counter())
    return share_of(times, rate)


def share_of(times: list[float], rate: float) -> float:
    """Images a second after the first second of steps, over the rate."""
    late = [one for one in times if one >= times[0] + 1]
    return (len(late) - 1) * BATCH / (late[-1] - late[0]) / rate


def main() -> None:
    """Measure, and print one line of JSON a rate; or, as a child, one share."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--child", choices=("stillroom", "files"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    out, rates = given.out.resolve(), given.rates
    if given.child == "stillroom":
        print(stillroom_share(out, given.workers, rates[0], given.seconds))
        return
    if given.child == "files":
        print(files_share(given.workers, rates[0], given.seconds))
        return
    build(out)
    for rate in rates:
        shares: dict[str, list[float]] = {"stillroom": [], "files": []}
        for _ in range(given.rounds):
            for side, found in shares.items():
                found.append(child(side, out, given.workers, rate, given.seconds))
        line = {name: spread(found) for name, found in shares.items()}
        print(json.dumps({"images_per_s": rate, "workers": given.workers, **line}), flush=True)


def spread(found: list[float]) -> list[float]:
    """Median, lowest and highest."""
    return [round(one, 3) for one in (statistics.median(found), min(found), max(found))]


def build(out: Path) -> None:
    """Build the cache that is read, if it is not there yet."""
    from stillroom.pipeline.build.run import build as build_cache

    out.mkdir(parents=True, exist_ok=True)
    build_cache(run_file(out, 1, 1, "feed"))


def child(side: str, out: Path, workers: int, rate: float, seconds: float) -> float:
    """One share, from a process of its own."""
    asked = [
        "--out", out, "--workers", workers, "--rates", rate, "--seconds", seconds, "--child", side,
    ]  # fmt: skip
    made = subprocess.run(
        [sys.executable, __file__, *map(str, asked)], check=True, capture_output=True, text=True
    )
    return float(made.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
