"""What the host does for a frame that it decodes, and for one that the device decodes.

    python benchmarks/bench_decode.py --out runs/bench_loader

The frames, crops and caches of bench_loader.py. Processor time of one thread that fills a batch of
eight, both ways in turn, round by round, and the bytes of a frame that travel to the device. With
`--device cuda` also how long the device is busy with a batch that arrives, copies included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loader_data import CASES, prepare
from loader_sides import BATCH, cached_dataset

if TYPE_CHECKING:
    import torch

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
READS = {
    "frames + labels": ((), False),
    "frames + labels + logits": (("logits",), False),
    "frames + labels + logits, jittered": (("logits",), True),
    "frames + labels + logits + features": (("logits", "features"), False),
}


def filled(dataset: Any, epoch: int, *, pin: bool = False) -> Any:
    """Return a batch of the first frames."""
    from stillroom.stages.train.batch_memory import pinned, reused

    batch = dataset.empty(BATCH, pinned if pin else reused)
    for place in range(BATCH):
        dataset.fill(batch, place, epoch, place)
    return batch


def cpu_ms(dataset: Any, epoch: int) -> float:
    """Processor milliseconds a frame."""
    began = time.process_time()
    filled(dataset, epoch)
    return (time.process_time() - began) / BATCH * 1e3


def travelling(batch: Any) -> int:
    """Bytes of a batch that are copied to the device."""
    if hasattr(batch, "bytes_used"):
        return sum(batch.bytes_used())
    parts = (
        batch.images,
        batch.labels,
        batch.mask,
        *batch.artifacts.values(),
        *batch.masks.values(),
    )
    return sum(part.nbytes for part in parts)


def arrival_ms(batch: Any, device: torch.device) -> float:
    """Milliseconds from the first copy of a batch to its last kernel."""
    import torch

    from stillroom.stages.train.packed.arrival import on_device

    torch.cuda.synchronize()
    began = time.perf_counter()
    on_device([batch], device)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def measure(case: str, folder: Path, read: str, options: argparse.Namespace) -> str:
    """Return a row of the table."""
    import torch

    from stillroom.stages.train.packed.packed_dataset import PackedDataset

    artifacts, lit = READS[read]
    host = cached_dataset(case, folder, artifacts, lit=lit)
    sides = {"host": host, "device": PackedDataset(host)}
    took: dict[str, list[float]] = {name: [] for name in sides}
    sent: dict[str, list[int]] = {name: [] for name in sides}
    busy: dict[str, list[float]] = {name: [] for name in sides}
    for epoch in range(options.rounds + 1):
        for name, dataset in sides.items():
            took[name].append(cpu_ms(dataset, epoch))
            batch = filled(dataset, epoch, pin=options.device == "cuda")
            sent[name].append(travelling(batch))
            if options.device == "cuda":
                busy[name].append(arrival_ms(batch, torch.device("cuda")))
    cells = [case, read]
    for values, form in ((took, "{:.2f}"), (busy, "{:.2f}")):
        if values["host"]:  # the first round compiles and warms
            middles = [statistics.median(values[name][1:]) for name in sides]
            ratio = statistics.median(
                one / other
                for one, other in zip(values["device"][1:], values["host"][1:], strict=True)
            )
            cells += [*(form.format(middle) for middle in middles), f"{ratio:.2f}"]
    megabytes = [statistics.mean(sent[name]) / BATCH / 1e6 for name in sides]
    cells += [f"{size:.2f}" for size in megabytes] + [f"{megabytes[0] / megabytes[1]:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench_loader"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=["camvid", "cityscapes", "ade20k"]
    )
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    heads = ["size", "what", "CPU ms a frame, host", "device", "ratio"]
    if options.device == "cuda":
        heads += ["arrival ms a batch, host", "device", "ratio"]
    heads += ["MB a frame, host", "device", "times fewer"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for case in options.cases:
        prepare(options.out, options.data, case)
        for read, (artifacts, _) in READS.items():
            if "features" not in artifacts or CASES[case].features:
                print(measure(case, options.out / case, read, options), flush=True)


if __name__ == "__main__":
    main()
