"""What a frame costs stage two: cached frames, labels and logits against JPEG and PNG files.

    python benchmarks/bench_loader.py --out runs/bench_loader --baseline CHECKOUT_BEFORE

Every loader gives batches of eight of the same random crops (scale 0.5 to 2, mirrored). Each runs
in a spawned process of its own that waits while another is timed; rounds go round all loaders, and
the median of each is reported with the least and the greatest. "CPU ms" is the processor time of a
frame, with one thread that loads: it is what other programs disturb least. Rates are of the wall
clock, from the first batch to the last. Peers that are not installed are left out and named
(benchmarks/requirements.txt; `--peers FOLDER` is one that pip filled with `--target`).
`--baseline` times another checkout of stillroom in the same run, and compares the batches' bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from loader_data import CASES, prepare
from loader_sides import BATCH, SIDES

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
PLAIN, CACHED = "JPEG + PNG", "frames + labels + logits"
BEFORE = "before: "
RATED = {  # loader, threads or processes, whether processes
    "JPEG + PNG, 1 process": (PLAIN, 1, True),
    "JPEG + PNG, 2 processes": (PLAIN, 2, True),
    "cached, 1 thread": (CACHED, 1, False),
    "cached, 2 threads": (CACHED, 2, False),
    "cached, 1 process": (CACHED, 1, True),
    "cached, 2 processes": (CACHED, 2, True),
    "before: cached, 1 thread": (BEFORE + CACHED, 1, False),
    "before: cached, 2 threads": (BEFORE + CACHED, 2, False),
}
FED = (100, 300, 1000)  # images a second


def serve(connection: Any, name: str, case: str, folder: Path, paths: list[str]) -> None:
    """Open one loader, then do what is asked until the pipe closes."""
    sys.path[:0] = paths
    import torch

    torch.set_num_threads(1)
    batches = SIDES[name].open(case, folder)
    connection.send("ready")
    tasks = {"cpu": cpu_ms, "rate": rate, "digest": digest}
    while True:
        try:
            task, *asked = connection.recv()
        except EOFError:
            return
        connection.send(tasks[task](batches, *asked))


def cpu_ms(batches: Any, start: int, steps: int) -> float:
    """Processor milliseconds a frame of one thread that loads."""
    began = time.process_time()
    frames = sum(len(batch["images"]) for batch in batches(start, steps, 1, False))
    return (time.process_time() - began) / frames * 1e3


def rate(batches: Any, seconds: float, workers: int, processes: bool) -> float:
    """Frames a second, once it has run for a while: processes take seconds to start."""
    settled = time.perf_counter() + seconds * (8 if processes else 1)
    began = frames = 0
    for batch in batches(0, 4000, workers, processes):
        now = time.perf_counter()
        if began:
            frames += len(batch["images"])
            if now > began + seconds:
                break
        elif now > settled:
            began = now
    return frames / (now - began)


def digest(batches: Any) -> str:
    """Sha256 of two batches."""
    hashed = hashlib.sha256()
    for batch in batches(0, 2, 1, False):
        for key in sorted(batch):
            hashed.update(batch[key].contiguous().numpy().tobytes())
    return hashed.hexdigest()


class Running:
    """The loaders of a case, each in a process of its own."""

    def __init__(self, case: str, folder: Path, options: argparse.Namespace) -> None:
        self.pipes: dict[str, Any] = {}
        sides = {name: SIDES[name] for name in options.loaders if SIDES[name].fits(CASES[case])}
        self.absent = [name for name, side in sides.items() if not side.is_there]
        for name, side in sides.items():
            if name in self.absent:
                continue
            side.prepare(case, folder)
            self._start(name, name, case, folder, [])
            if options.baseline and side.is_ours:
                self._start(BEFORE + name, name, case, folder, [options.baseline])
        for name, pipe in self.pipes.items():
            if pipe.recv() != "ready":
                raise SystemExit(f"{name} did not start")

    def _start(self, key: str, name: str, case: str, folder: Path, paths: list[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes[key], theirs = context.Pipe()
        # Not a daemon: it may have processes of its own.
        context.Process(target=serve, args=(theirs, name, case, folder, paths)).start()
        theirs.close()

    def ask(self, name: str, *task: Any) -> Any:
        """What a loader answers."""
        self.pipes[name].send(task)
        return self.pipes[name].recv()

    def close(self) -> None:
        """End the processes."""
        for pipe in self.pipes.values():
            pipe.close()


def measure(case: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All numbers of a case."""
    steps = max(CASES[case].count, options.frames) // BATCH
    running = Running(case, folder, options)
    try:
        cpu: dict[str, list[float]] = {name: [] for name in running.pipes}
        for number in range(options.rounds + 1):
            for name, taken in cpu.items():
                taken.append(running.ask(name, "cpu", number * steps, steps))
        rates: dict[str, list[float]] = {}
        for _ in range(options.rate_rounds):
            for kind, (name, workers, processes) in RATED.items():
                if name in running.pipes:
                    found = running.ask(name, "rate", options.seconds, workers, processes)
                    rates.setdefault(kind, []).append(found)
        ours = [name for name in cpu if SIDES[name.removeprefix(BEFORE)].is_ours]
        digests = {name: running.ask(name, "digest") for name in ours}
    finally:
        running.close()
    return {
        "cpu_ms": {name: taken[1:] for name, taken in cpu.items()},  # the first compiles and warms
        "frames_per_second": rates,
        "same_bytes_as_before": {
            name: digests[name] == digests[BEFORE + name]
            for name in ours
            if BEFORE + name in digests
        },
        "absent": running.absent,
    }


def spread(found: list[float], digits: int) -> str:
    """Median, least and greatest."""
    low, middle, high = min(found), statistics.median(found), max(found)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def page(results: dict[str, Any]) -> str:
    """The numbers as tables."""
    lines = []
    for case, found in results.items():
        plain = statistics.median(found["cpu_ms"][PLAIN])
        lines += [f"#### {case}", ""]
        lines += [f"| loader | CPU ms a frame | to {PLAIN} | cores for {FED} images/s |"]
        lines += ["|---|---|---|---|"]
        for name, taken in found["cpu_ms"].items():
            middle = statistics.median(taken)
            cores = ", ".join(f"{rate * middle / 1e3:.1f}" for rate in FED)
            lines.append(f"| {name} | {spread(taken, 2)} | {middle / plain:.2f} | {cores} |")
        lines += ["", "| loader | frames/s |", "|---|---|"]
        lines += [
            f"| {kind} | {spread(taken, 0)} |" for kind, taken in found["frames_per_second"].items()
        ]
        for name, same in found["same_bytes_as_before"].items():
            lines += ["", f"{name}: {'the same bytes as' if same else 'other bytes than'} before"]
        if found["absent"]:
            lines += ["", f"not installed: {', '.join(found['absent'])}"]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench_loader"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--baseline", help="another checkout of stillroom")
    parser.add_argument("--peers", help="a folder with more packages")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--loaders", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=32, help="a round, at least")
    parser.add_argument("--rate-rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="for which a rate is taken")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started from here
    if options.peers:
        sys.path.append(options.peers)
    results = {}
    for case in options.cases:
        prepare(options.out, options.data, case)
        results[case] = measure(case, options.out / case, options)
        (options.out / "results.json").write_text(json.dumps(results, indent=1))
        print(page({case: results[case]}), flush=True)
    (options.out / "results.md").write_text(page(results))


if __name__ == "__main__":
    main()
