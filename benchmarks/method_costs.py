"""What a step of each variant of a sweep takes, one after the other, on an otherwise idle machine.

    stillroom cache adapt examples/camvid_small.toml
    python benchmarks/method_costs.py examples/camvid_methods_sweep.toml

Each variant is trained for a few steps in a process of its own, with one thread, after which the
first variant is measured again: how far its two times are apart is what the others' times are good
for. Seconds are of the quickest step; memory is the most that the process held. Prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"

from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.training import check_terms

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig

STEPS = 6


def cost(run: RunConfig) -> tuple[float, float]:
    """Seconds of a step, and MB of the process."""
    found = check_terms(run, STEPS)
    return found.step_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure every variant of the sweep with its first seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    sweep = load_sweep(parser.parse_args().sweep, seeds=[0])
    works = [*sweep.students, sweep.students[0]]
    spawn = multiprocessing.get_context("spawn")
    print("| variant | seconds a step | against the first | peak memory |\n|---|---|---|---|")
    first = None
    for work in works:
        with spawn.Pool(1) as pool:
            seconds, memory = pool.apply(cost, (work.run,))
        first = first or seconds
        ratio = f"{seconds / first:.2f}"
        print(f"| {work.row} | {seconds:.3f} | {ratio} | {memory:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
