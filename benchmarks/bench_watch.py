"""What it costs to hold the objects of a set against the sha256 of their manifest while reading.

    python benchmarks/bench_watch.py --out runs/bench_watch

A set of random logits, larger than can be hashed in the rounds that are timed. GB/s: whole objects
read and hashed by one thread, in processor time. Then rounds of random frames, read with and
without a watch in turn: the first seconds that a watch may take at once are left out, so that what
is shown is the share that lasts. The page cache is warm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.presets import load_preset
from stillroom.storage_specs.shards.object_checks import AT_ONCE_SECONDS, SHARE, Watch
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.manifest import ObjectEntry

SHAPE = (19, 128, 256)
FRAMES, SHARD_FRAMES = 512, 64


def open_set(folder: Path) -> ArtifactSet:
    """The set of random logits, written if it is not there yet."""
    cache = Cache.create(folder)
    storage = load_preset("fast").storage("logits")
    logits = ArraySpec("logits", SHAPE, storage.codec, storage.compressor, {"stride": 8})
    made = cache.define("random", "teacher", {"benchmark": "watch"}, FRAMES, SHARD_FRAMES, [logits])
    rng = np.random.default_rng(0)
    for shard in sorted(set(range(made.shards)) - made.committed()):
        writer = made.writer(shard)
        for i in made.shard_range(shard):
            frame = rng.standard_normal(SHAPE, np.float32)
            writer.put(FrameRow(i, f"{i:05d}"), {"logits": frame})
        writer.commit()
    return cache.artifact_set("random", "teacher")


def hashed_gb_per_s(folder: Path) -> tuple[float, float]:
    """GB of the objects, and GB of them that are compared in a second of processor time."""
    open_set(folder).read("logits", 0)  # what is compiled at the first read is no cost of a watch
    opened = open_set(folder)
    opened._watch = Watch(at_once=float("inf"))  # all of them at once
    began = time.process_time()
    for shard in range(opened.shards):
        opened.read("logits", opened.shard_range(shard)[0])
    took = time.process_time() - began
    size = sum(entry.bytes for shard in range(opened.shards) for entry in objects(opened, shard))
    return size / 1e9, size / 1e9 / took


def objects(opened: ArtifactSet, shard: int) -> list[ObjectEntry]:
    """What the manifest says of the objects of a shard that was committed."""
    return list(opened.part(shard).objects.values())


def cpu_ms(folder: Path, seconds: float, seed: int, *, watched: bool) -> tuple[float, float]:
    """CPU ms of a frame, and the share of the time that a watch spent on comparing."""
    opened = open_set(folder)
    order = np.random.default_rng(seed).integers(0, FRAMES, 1 << 16).tolist()
    for shard in range(opened.shards):
        opened.read("logits", opened.shard_range(shard)[0])  # opened before the clock starts
    watch = Watch(at_once=0.0)
    if watched:
        opened = open_set(folder)
        opened._watch = watch
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        opened.read("logits", order[count])
        count += 1
    took = time.perf_counter() - began
    return 1e3 * (time.process_time() - cpu) / count, watch._spent / took


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a side in a round")
    given = parser.parse_args()
    folder = given.out / "watch.cache"
    size, speed = hashed_gb_per_s(folder)
    costs: dict[bool, list[float]] = {False: [], True: []}
    shares = []
    for seed in range(given.rounds):
        for watched in (False, True) if seed % 2 else (True, False):
            cost, share = cpu_ms(folder, given.seconds, seed, watched=watched)
            costs[watched].append(cost)
            if watched:
                shares.append(share)
    ratios = [with_ / without for with_, without in zip(costs[True], costs[False], strict=True)]
    found = {
        "objects_gb": round(size, 2),
        "hashed_gb_per_s": round(speed, 2),
        "hashed_at_once_gb": round(speed * AT_ONCE_SECONDS, 1),
        "allowed_share": SHARE,
        "spent_share": round(statistics.median(shares), 4),
        "cpu_ms_without": round(statistics.median(costs[False]), 3),
        "cpu_ratio": round(statistics.median(ratios), 3),
        "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
