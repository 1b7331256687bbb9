"""The driver of a build on Ray: its memory and time by frames, by shards and by workers.

    python benchmarks/bench_driver.py --out driver.json

Builds of ten thousand to a million frames on a real Ray whose one worker only commits: planning,
scheduling, progress, manifest and catalogue are the program's own. Then the same driver over
twenty thousand shards on a Ray that is played by this process in a time of its own, with up to 800
workers: calls to Ray are counted, and cost what they cost on the real one. Then sweeps whose trials
end at once, on a real Ray Tune. A process of its own for every figure. Needs 3 GB of disk and half
an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench_scale import make_images, measured, shown
from driver_chart import draw_driver, ray_seconds
from played_ray import SHARD_FRAMES, play_ray

from stillroom.pipeline.build.actor_pool import RayWorker
from stillroom.stages.cache.cache_shard import ShardReport, ShardWork

STAGES = (
    "open_run", "plan_build", "report_so_far", "check_before_build", "run_on_ray", "_demand_there",
    "_save_catalogues",
)  # fmt: skip


class _CommittingWorker(RayWorker):
    """A worker without a model: it writes a shard's record and nothing else."""

    def work(self, work: ShardWork) -> ShardReport:
        from dataclasses import replace

        from stillroom.storage_specs.layout import part_path
        from stillroom.storage_specs.manifest import ObjectEntry, ShardPart, encode_part

        worker = self._opened()
        _, target = worker._set_of(work)
        inputs = worker._opened.inputs(work.source, work.set_name)
        span = target.shard_range(work.shard)
        rows = tuple(
            replace(inputs.row(i), valid_height=8, valid_width=8, bytes=500, crc32c=i, seconds=0.1,
                    confidence=0.5)
            for i in span
        )  # fmt: skip
        objects = {
            stored.path: ObjectEntry(1 << 20, "0" * 64)
            for array in target.definition.arrays
            for stored in target.definition.stored(array)
        }
        part = ShardPart(
            work.source, work.set_name, work.shard, span[0], span[-1] + 1, target.fingerprint,
            objects, rows,
        )  # fmt: skip
        path = part_path(work.source, work.set_name, work.shard)
        target.store.write_whole(path, encode_part(part))
        return ShardReport(work, len(rows), 0, len(objects) << 20, 0.1, 0.1, turn_seconds=0.1)


def rss_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Stages:
    """Wall and CPU seconds, and the largest memory, of some functions of a module."""

    def __init__(self, module: Any) -> None:
        self.found: dict[str, list[float]] = {}
        self._now = ""
        for name in STAGES:
            if hasattr(module, name):
                setattr(module, name, self._timed(name, getattr(module, name)))
        threading.Thread(target=self._watch, daemon=True).start()

    def _timed(self, name: str, function: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            before, self._now = self._now, name
            began, cpu = time.perf_counter(), time.process_time()
            row = self.found.setdefault(name, [0.0, 0.0, rss_mb()])
            try:
                return function(*arguments, **options)
            finally:
                row[0] += time.perf_counter() - began
                row[1] += time.process_time() - cpu
                row[2] = max(row[2], rss_mb())
                self._now = before

        return timed

    def _watch(self) -> None:
        while True:
            time.sleep(0.05)
            if (row := self.found.get(self._now)) is not None:
                row[2] = max(row[2], rss_mb())


def build_on_ray(run_file: str) -> dict[str, Any]:
    """Build with one worker that only commits; what each stage of the driver took."""
    from stillroom.commands.progress import build_with_bars
    from stillroom.pipeline.build import actor_pool, ray_runner, run
    from stillroom.pipeline.run_file.loading import load_run

    actor_pool.RayWorker = _CommittingWorker
    run.run_on_ray = ray_runner.run_on_ray
    stages = Stages(run)
    ray_runner.run_on_ray = run.run_on_ray  # which the build imports when it begins
    config = load_run(Path(run_file), [f"cache.shard_frames={SHARD_FRAMES}"])
    before, began = rss_mb(), time.perf_counter()
    report = build_with_bars(config, runner="ray")
    return {
        "frames": report.frames, "shards": report.shards, "seconds": time.perf_counter() - began,
        "before_mb": before, "stages": stages.found,
    }  # fmt: skip


def drive(workers: str, shards: str, run_file: str) -> dict[str, Any]:
    """Schedule shards on so many workers; this process's CPU seconds, and calls to Ray."""
    import contextlib

    from stillroom.pipeline.build import actor_pool, ray_runner
    from stillroom.pipeline.run_file.loading import load_run

    played = play_ray(int(workers))
    for module in (actor_pool, ray_runner):
        module.time = played
    ray_runner.connected = lambda *_: contextlib.nullcontext(played)
    run = load_run(Path(run_file), ["teachers.null.device=cuda"])
    works = [ShardWork("photos", "null", shard, ("confidence",)) for shard in range(int(shards))]
    frames = 0

    def listen(event: Any) -> None:
        nonlocal frames
        frames += event.frames

    before, began = rss_mb(), time.process_time()
    given_up = ray_runner.run_on_ray(run, works, None, listen)
    assert not given_up
    assert frames == int(shards) * SHARD_FRAMES
    return {
        "workers": int(workers), "shards": int(shards), "cpu_s": time.process_time() - began,
        "played_s": played.now, "grown_mb": rss_mb() - before, **played.calls,
    }  # fmt: skip


def ray_costs() -> dict[str, Any]:
    """CPU microseconds of this process for one call of a real Ray."""
    import ray

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=1, max_concurrency=2)
    class Actor:
        def quick(self) -> tuple[dict[str, int], float]:
            return {}, 0.0

        def slow(self, seconds: float) -> None:
            time.sleep(seconds)

    actor = Actor.remote()
    ray.get(actor.quick.remote())
    found = {}
    began = time.process_time()
    references = [actor.quick.remote() for _ in range(2000)]
    found["call"] = (time.process_time() - began) / 2000 * 1e6
    ray.wait(references, num_returns=2000)
    began = time.process_time()
    for reference in references:
        ray.get(reference)
    found["get"] = (time.process_time() - began) / 2000 * 1e6
    for count in (1, 2400):
        slow = [actor.slow.remote(60.0) for _ in range(count)]
        began = time.process_time()
        for _ in range(200):
            ray.wait(slow, timeout=0)
        found[f"wait_{count}"] = (time.process_time() - began) / 200 * 1e6
        ray.kill(actor)
        actor = Actor.remote()
    ray.shutdown()
    return found


def sweep(trials: str) -> dict[str, Any]:
    """Place trials that end at once on a real Ray; seconds and memory of this process."""
    import ray
    from ray import tune

    from stillroom.pipeline.sweep.placing import Rules, Share, place

    class Ended(tune.Trainable):
        def setup(self, config: dict[str, Any], end: Any) -> None:
            pass

        def step(self) -> dict[str, Any]:
            return {"done": True, "outcome": "done"}

        def reset_config(self, config: dict[str, Any]) -> bool:
            return True

    # Hundreds of starting processes would measure this machine, not the driver.
    tune.TuneConfig = partial(tune.TuneConfig, reuse_actors=True)
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    done: list[str] = []
    shares = {f"trial{number}": Share(1.0, 0.0) for number in range(int(trials))}
    before, began, cpu = rss_mb(), time.perf_counter(), time.process_time()
    raised = place(
        shares, Ended, Rules(),
        lambda name, kind, result: done.append(name) if result.get("outcome") else None,
    )  # fmt: skip
    assert not raised
    assert len(set(done)) == int(trials)
    found = {
        "trials": int(trials), "cpu_s": time.process_time() - cpu,
        "seconds": time.perf_counter() - began, "before_mb": before, "after_mb": rss_mb(),
    }  # fmt: skip
    ray.shutdown()
    return found


def in_process(call: str, *arguments: object) -> dict[str, Any]:
    """What a function of this file gives, called in a process of its own."""
    return measured(
        f"import sys, bench_driver\nfound = bench_driver.{call}(*sys.argv[1:])", *arguments
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 8, 80, 800])
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--trials", type=int, nargs="*", default=[50, 150, 500])
    parser.add_argument("--out", type=Path, help="All figures, as JSON.")
    told = "Measure nothing: draw a PNG of such a JSON, and of one of before."
    parser.add_argument("--draw", type=Path, nargs="+", metavar="FILE", help=told)
    options = parser.parse_args()
    if options.draw:
        picture, *files = options.draw
        draw_driver(picture, *(json.loads(each.read_text()) for each in files))
        return
    found: dict[str, Any] = {"ray": in_process("ray_costs"), "builds": [], "workers": []}
    found["sweeps"] = [in_process("sweep", trials) for trials in options.trials]
    shown("a call to Ray, microseconds of CPU", found["ray"])
    with tempfile.TemporaryDirectory() as folder:
        small = make_images(Path(folder) / "few", 10)
        for workers in options.workers:
            found["workers"].append(in_process("drive", workers, options.shards, small))
            found["workers"][-1]["ray_s"] = ray_seconds(found["workers"][-1], found["ray"])
            shown(f"{workers} workers", found["workers"][-1])
        for frames in options.frames:
            run = make_images(Path(folder) / f"some{frames}", frames)
            found["builds"].append(in_process("build_on_ray", run))
            shown(f"build of {frames}", found["builds"][-1])
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
