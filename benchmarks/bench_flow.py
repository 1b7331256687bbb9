"""What each flow model is worth: true motion, real labels brought together, time and memory.

    python benchmarks/bench_flow.py --data ../shared/data --out flow.md

End-point error on pairs of FlyingChairs; how far the labels of frame t + 1, warped along the flow,
agree with those of t, on the CamVid val clip; and FlowNet2's cost at 512 x 1024, which random
numbers tell as well as its weights. Its accuracy they cannot tell: give NVIDIA's checkpoint as
--flownet2 and it is scored with the others. Prints Markdown; about ten minutes on one core, of
which nearly all is RAFT's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter

from stillroom.stages.models.flow.flow_model import FlowModel, FlowModelConfig, build_flow_model
from stillroom.stages.models.flow.flow_network import without_weights
from stillroom.stages.models.flow.flownet2.cascade import FlowNet2
from stillroom.stages.warp import visible, warp_labels

CLASSES = 11  # of CamVid; above is void
CITYSCAPES_HALF = (512, 1024)


@dataclass
class Agreement:
    """Labels of t against labels of t + 1 brought to t, summed over pairs."""

    confusion: np.ndarray = field(default_factory=lambda: np.zeros((CLASSES, CLASSES), np.int64))

    def add(self, labels: torch.Tensor, brought: torch.Tensor, where: torch.Tensor) -> None:
        """Count the pixels of `where` that have a class in both."""
        where = where & (labels < CLASSES) & (brought < CLASSES)
        both = labels[where].long() * CLASSES + brought[where].long()
        self.confusion += np.bincount(both.numpy(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    def said(self) -> str:
        """Pixels that agree, and mean IoU, as two cells of a table."""
        hits = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return f"{hits.sum() / self.confusion.sum():.4f} | {(hits / union)[union > 0].mean():.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--flownet2", type=Path, help="NVIDIA's FlowNet2_checkpoint.pth.tar")
    parser.add_argument("--every", type=int, default=5, help="take every so many-th pair")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cost-on", choices=["cpu", "cuda"], help=argparse.SUPPRESS)
    parser.add_argument("--cost-precision", default="float32", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.cost_on:
        print(json.dumps(cost_of_flownet2(args.cost_on, args.cost_precision)))
        return
    models = {name: build(section) for name, section in sections(args).items()}
    parts = [chairs(models, args.data), camvid(models, args.data, args.every), cost_table()]
    page = "\n\n".join(parts) + "\n"
    print(page)
    if args.out:
        args.out.write_text(page)


def sections(args: argparse.Namespace) -> dict[str, dict]:
    """Every model that can be built from what is there, by the name of its row."""
    raft = {
        "kind": "raft_small",
        "weights": args.data / "weights" / "raft_small_chairs_things.pth",
    }
    found: dict[str, dict] = {
        f"dis, {preset}": {"kind": "dis", "preset": preset}
        for preset in ("ultrafast", "fast", "medium")
    }
    found["raft_small, 12 iterations"] = {**raft, "iterations": 12}
    found["raft_small, 20 iterations"] = {**raft, "iterations": 20}
    found["raft_small, 20, bfloat16"] = {**raft, "iterations": 20, "precision": "bfloat16"}
    if args.flownet2:
        for mode in ("rgb", "etc_legacy"):
            found[f"flownet2, {mode}"] = {
                "kind": "flownet2",
                "weights": args.flownet2,
                "input_mode": mode,
            }
    return found


def build(section: dict) -> FlowModel:
    return build_flow_model(TypeAdapter(FlowModelConfig).validate_python(section))


def chairs(models: dict[str, FlowModel], data: Path) -> str:
    """End-point error on FlyingChairs, pair by pair."""
    truths = sorted((data / "flying_chairs").glob("*-gt.flo"))
    pairs = []
    for truth in truths:
        name = truth.name.partition("-")[0]
        frames = [picture(truth.with_name(f"{name}-img{i}.png"))[None] for i in (0, 1)]
        pairs.append((*frames, read_flo(truth)))
    rows = [row("no motion", [float(np.linalg.norm(flow, axis=0).mean()) for *_, flow in pairs], 0)]
    for name, model in models.items():
        model.flow(*pairs[0][:2])  # a first call compiles and warms
        flows, seconds = [], []
        for a, b, _ in pairs:
            began = clock(model.device)
            flows.append(model.flow(a, b)[0].cpu().numpy())
            seconds.append(clock(model.device) - began)
        errors = [
            float(np.linalg.norm(found - flow, axis=0).mean())
            for found, (*_, flow) in zip(flows, pairs, strict=True)
        ]
        rows.append(row(name, errors, statistics.median(seconds)))
    head = " | ".join(f"pair {index}" for index in range(len(pairs)))
    return (
        f"**FlyingChairs**, {len(pairs)} pairs of 512x384: mean end-point error in pixels\n\n"
        f"| model | {head} | mean | seconds a pair |\n|{'---|' * (len(pairs) + 3)}\n"
        + "\n".join(rows)
    )


def row(name: str, errors: list[float], seconds: float) -> str:
    cells = " | ".join(f"{error:.2f}" for error in errors)
    spent = f"{seconds:.2f}" if seconds else ""
    return f"| {name} | {cells} | **{statistics.fmean(errors):.2f}** | {spent} |"


def camvid(models: dict[str, FlowModel], data: Path, every: int) -> str:
    """Agreement of labels on the val clip, 15 frames a second."""
    images = sorted((data / "camvid" / "val").glob("*.jpg"))
    starts = range(0, len(images) - 1, every)
    still = Agreement()
    moved = {name: (Agreement(), Agreement()) for name in models}
    shown: dict[str, list[float]] = {name: [] for name in models}
    for start in starts:
        now, then = (picture(path)[None] for path in images[start : start + 2])
        labels, others = (
            torch.from_numpy(picture(data / "camvid" / "valannot" / f"{path.stem}.png"))
            for path in images[start : start + 2]
        )
        everywhere = torch.ones_like(labels, dtype=torch.bool)
        still.add(labels, others, everywhere)
        for name, model in models.items():
            flow, back = model.flow(now, then).cpu(), model.flow(then, now).cpu()
            brought = warp_labels(others[None], flow)[0]
            seen = visible(flow, back)[0, 0]
            moved[name][0].add(labels, brought, everywhere)
            moved[name][1].add(labels, brought, seen)
            shown[name].append(float(seen.float().mean()))
    rows = [f"| no motion | {still.said()} | | | |"]
    rows += [
        f"| {name} | {whole.said()} | {seen.said()} | {statistics.fmean(shown[name]):.3f} |"
        for name, (whole, seen) in moved.items()
    ]
    return (
        f"**CamVid val clip**, {len(starts)} pairs (t, t + 1) of 480x360: labels of t + 1 brought "
        "to t, against labels of t\n\n"
        "| model | agreement | mIoU | agreement, visible | mIoU, visible | visible share |\n"
        f"|{'---|' * 6}\n" + "\n".join(rows)
    )


def cost_table() -> str:
    """FlowNet2's seconds and peak memory, each in a process of its own."""
    runs = [("cpu", "float32")]
    if torch.cuda.is_available():
        runs += [("cuda", precision) for precision in ("float32", "float16", "bfloat16")]
    rows = []
    for device, precision in runs:
        command = [sys.executable, __file__, "--cost-on", device, "--cost-precision", precision]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            f"| {found['device']} | {precision} | {found['seconds']:.2f} | "
            f"{found['before_mb']:.0f} | {found['peak_mb']:.0f} |"
        )
    height, width = CITYSCAPES_HALF
    return (
        f"**FlowNet2**, random weights, one pair of {height}x{width}\n\n"
        "| device | precision | seconds a pair | MB before | MB at the peak |\n"
        f"|{'---|' * 5}\n" + "\n".join(rows)
    )


def cost_of_flownet2(device: str, precision: str) -> dict[str, object]:
    """Time and memory of a forward pass: of the process on a CPU, of torch's tensors on a GPU."""
    network = without_weights(FlowNet2).requires_grad_(False)
    for parameter in network.parameters():
        parameter.uniform_(-0.02, 0.02)
    network.to(device, memory_format=torch.channels_last)
    pair = (torch.rand(2, 1, 3, *CITYSCAPES_HALF) * 255).to(device)
    kept = None if precision == "float32" else getattr(torch, precision)
    before = memory_mb(device)
    seconds = []
    with (
        torch.inference_mode(),
        torch.autocast(device, dtype=kept, enabled=kept is not None),
    ):
        for _ in range(3 if device == "cpu" else 10):
            began = clock(device)
            network(*pair)
            seconds.append(clock(device) - began)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread",
        "seconds": statistics.median(seconds),
        "before_mb": before,
        "peak_mb": memory_mb(device),
    }


def clock(device: str) -> float:
    """Seconds: on a GPU the wall's, on a CPU the process's own, whatever else the machine does."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def memory_mb(device: str) -> float:
    """The largest that has been held so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def read_flo(path: Path) -> np.ndarray:
    """The Middlebury format: a tag, width, height, then u and v of each pixel."""
    raw = np.fromfile(path, np.float32)
    width, height = raw[1:3].view(np.int32)
    return raw[3:].reshape(height, width, 2).transpose(2, 0, 1)


if __name__ == "__main__":
    main()
