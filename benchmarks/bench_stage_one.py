"""How busy stage one keeps a teacher that takes 10 ms a frame, and what arithmetic allows.

    python benchmarks/bench_stage_one.py

The teacher only sleeps, as one that runs on a GPU does as far as the CPU is concerned. First costs
are sleeps too, so that this machine's cores do not matter: reading 2 ms a frame, encoding as the
row says, a commit 50 ms. Arithmetic: encoders * seconds of the teacher / seconds of encoders, at
most 100 %, both as they were measured, for a sleep takes longer than it is told to. Then the real
thing: JPEGs are decoded, logits, confidence and pseudo labels of preset "fast" are encoded, and
shards are written. Arithmetic there: cores * ms of the teacher / CPU ms a frame, at most 100 %, of
the cores that the machine has, and of those that this process was given (its CPU time by wall time)
on a machine that others use. Prints Markdown tables; a minute or two.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from bench_encode import SIZES, drawn_logits
from PIL import Image

from stillroom.pipeline.build.cores import SHARDS_IN_FLIGHT, cores_here
from stillroom.pipeline.build.pace import Pace
from stillroom.stages.cache.cache_shard import ShardJob, ShardWork, cache_shard
from stillroom.stages.cache.shard_threads import ShardThreads, Turn
from stillroom.stages.sources.canvas import CanvasFrame
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.presets import load_preset
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stillroom.stages.cache.cache_shard import ShardReport

TEACHER, READING, COMMIT = 0.010, 0.002, 0.050  # seconds, the first two a frame
BATCH = 8


def worked(
    target: Any, inputs: Any, produce: Callable[[Any], Any], decoders: int, encoders: int
) -> Pace:
    """Fill all shards of a set as a worker does: a few at a time around one teacher."""
    pace, turn = Pace(), Turn()

    def work(shard: int) -> ShardReport:
        one = ShardWork("s", "t", shard, ())
        return cache_shard(ShardJob(one, inputs, produce, target, BATCH, turn, beside))

    with (
        ShardThreads(decoders, encoders) as beside,
        ThreadPoolExecutor(SHARDS_IN_FLIGHT) as pool,
    ):
        for report in pool.map(work, range(target.shards)):
            pace.add(report)
    return pace


class SleepingSet:
    """A set that costs time and no CPU."""

    shards, shard_frames = 6, 64

    def __init__(self, cost: float) -> None:
        self.cost = cost

    def shard_range(self, shard: int) -> range:
        """Return the indices of a shard's frames."""
        return range(shard * self.shard_frames, (shard + 1) * self.shard_frames)

    def writer(self, _: int) -> Any:
        """Return what takes its time for each frame and for the end."""

        def commit() -> Any:
            time.sleep(COMMIT)
            return types.SimpleNamespace(rows=(), objects={})

        return types.SimpleNamespace(put=lambda *_: time.sleep(self.cost), commit=commit)


class Frames:
    """Frames 0, 1, ...: each a sleep, or a JPEG that is decoded."""

    def __init__(self, images: Sequence[bytes] = ()) -> None:
        self.images = images

    def load(self, index: int) -> Any:
        """Read a frame."""
        if not self.images:
            time.sleep(READING)
            return index
        image = np.array(Image.open(io.BytesIO(self.images[index % len(self.images)])))
        return CanvasFrame(str(index), image, None, image.shape[:2])

    def row(self, index: int) -> FrameRow:
        """Return a frame's row."""
        return FrameRow(index, str(index), valid_height=1, valid_width=1)

    def finished_row(self, index: int, _: Any, __: Any) -> FrameRow:
        """Return a frame's row."""
        return self.row(index)


def asleep(frames: Sequence[Any]) -> list[dict[str, Any]]:
    time.sleep(TEACHER * len(frames))
    return [{} for _ in frames]


def with_sleeps() -> None:
    print("| encoding, ms a frame | encoders | teacher busy | arithmetic | encoders busy |")
    print("|---|---|---|---|---|")
    for cost in (0.005, 0.010, 0.020, 0.040):
        for encoders in (1, 2, 3, 5):
            pace = worked(SleepingSet(cost), Frames(), asleep, 2, encoders)
            allowed = min(1.0, encoders * pace.produce / pace.encode)
            print(
                f"| {1e3 * cost:.0f} | {encoders} | {pace.teacher_busy:.0%} | {allowed:.0%} "
                f"| {pace.encoders_busy:.0%} |",
                flush=True,
            )


def real_set(folder: Path, classes: int, canvas: tuple[int, int], stride: int) -> tuple[Any, Any]:
    """Return a set for logits, confidence and pseudo labels, and some arrays for it."""
    grid = (canvas[0] // stride, canvas[1] // stride)
    shapes = {"logits": (classes, *grid), "confidence": grid, "pseudo_label": canvas}
    preset, specs, arrays = load_preset("fast", {}), [], []
    for name, shape in shapes.items():
        storage, attributes = preset.storage(name), {"stride": canvas[0] // shape[-2]}
        specs.append(ArraySpec(name, shape, storage.codec, storage.compressor, attributes))
    for number in range(4):
        logits = drawn_logits(number, classes, grid)
        raised = np.exp(logits - logits.max(axis=0))
        label = cv2.resize(logits.argmax(axis=0).astype(np.uint8), canvas[::-1], interpolation=0)
        confidence = (raised / raised.sum(axis=0)).max(axis=0)
        arrays.append({"logits": logits, "confidence": confidence, "pseudo_label": label})
    return Cache.create(folder).define("s", "t", {}, 3 * 64, 64, specs), arrays


def with_codecs(teacher: float) -> None:
    cores = cores_here()
    print(
        f"| size | teacher busy | encoders busy | CPU ms a frame | cores for all of it | {cores} "
        "allow | cores given | they allow |\n|---|---|---|---|---|---|---|---|"
    )
    for name, (classes, canvas, stride) in SIZES.items():
        noise = np.random.default_rng(0).integers(0, 256, (canvas[0] // 8, canvas[1] // 8, 3))
        image = cv2.resize(noise.astype(np.uint8), canvas[::-1], interpolation=cv2.INTER_CUBIC)
        content = io.BytesIO()
        Image.fromarray(image).save(content, "jpeg", quality=90)
        with tempfile.TemporaryDirectory() as folder:
            target, arrays = real_set(Path(folder) / "a.cache", classes, canvas, stride)

            def produce(frames: Sequence[Any], arrays: Any = arrays) -> list[dict[str, Any]]:
                time.sleep(teacher * len(frames))
                return [arrays[k % len(arrays)] for k in range(len(frames))]

            writer = target.writer(0)  # what is compiled is compiled
            writer.put(FrameRow(0, "0"), arrays[0])
            wall, cpu = time.perf_counter(), time.process_time()
            pace = worked(target, Frames([content.getvalue()]), produce, cores, cores)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        needed = cpu / (target.count * teacher)  # cores that keep up with the teacher
        print(
            f"| {name} | {pace.teacher_busy:.0%} | {pace.encoders_busy:.0%} "
            f"| {1e3 * cpu / target.count:.1f} | {needed:.1f} | {min(1.0, cores / needed):.0%} "
            f"| {cpu / wall:.2f} | {min(1.0, cpu / wall / needed):.0%} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher-ms", type=float, default=1e3 * TEACHER, help="with real codecs")
    teacher = parser.parse_args().teacher_ms / 1e3
    with_sleeps()
    print()
    with_codecs(teacher)


if __name__ == "__main__":
    main()
