"""How steady models are on a real clip, what the losses of video distillation come to, pictures.

    python benchmarks/video_consistency.py --data ../shared/data --out runs/video \
        --models runs/baseline runs/distilled

The clip is CamVid val (15 frames a second, every frame labelled), its flow DIS; what t+1 does not
show is told by following the flow back. Measured are the frames' labels, the CamVid teacher, and
the students of the runs named. Prints Markdown tables; pictures go to --out. About a second a frame
and model on one core.
"""

from __future__ import annotations

import argparse
import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from stillroom.pipeline.open_model import open_model
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.evaluate.clip_flow import FrameFlow
from stillroom.stages.evaluate.clip_meter import ClipMeter
from stillroom.stages.evaluate.predict import StudentPredictor, TeacherPredictor
from stillroom.stages.evaluate.temporal_consistency import TemporalConsistency
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.flow.flow_model import FlowModelConfig, build_flow_model
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.pictures.curve_chart import consistency_chart
from stillroom.stages.pictures.film import comparison_film
from stillroom.stages.pictures.pair_sheets import FramePair, consistency_sheet, flow_sheet
from stillroom.stages.sources.camvid import CLASSES
from stillroom.stages.train.live_memory import LiveMemory
from stillroom.stages.train.loss_parts.conv_lstm import ConvLstm
from stillroom.stages.train.losses.multi_frame import embedded, multi_frame
from stillroom.stages.train.losses.pairwise_frame import pairwise_frame
from stillroom.stages.train.losses.temporal import Correspondence, temporal
from stillroom.stages.warp import photometric_weight, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from stillroom.stages.evaluate.predict import Predictor
    from stillroom.stages.evaluate.temporal_consistency import Consistency
    from stillroom.stages.models.teacher import Teacher

STRIDE = 4
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of RGB 0..255


class ClipResult(NamedTuple):
    """What a model is worth on a clip; predictions: (T, H, W) uint8."""

    consistency: Consistency
    stability: float
    frame_error: float
    predictions: Tensor


def measure(
    predictor: Predictor, frames: Sequence[np.ndarray], steps: Sequence[FrameFlow]
) -> ClipResult:
    meter = ClipMeter(predictor)
    classes = [meter.add(frame, flow) for frame, flow in zip(frames, (None, *steps), strict=True)]
    return ClipResult(*meter.result(), torch.cat(classes))


def read_clip(data: Path, count: int) -> tuple[list[np.ndarray], Tensor]:
    """Frames and their labels, (T, H, W), 255 = void."""
    paths = sorted((data / "camvid" / "val").glob("*.*"))[:count]
    frames = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    annotations = [data / "camvid" / "valannot" / f"{path.stem}.png" for path in paths]
    labels = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in annotations])
    return frames, torch.from_numpy(np.where(labels < len(CLASSES), labels, 255).astype(np.uint8))


def follow(frames: Sequence[np.ndarray]) -> list[FrameFlow]:
    model = build_flow_model(TypeAdapter(FlowModelConfig).validate_python({"kind": "dis"}))
    steps = []
    for now, later in pairwise(frames):
        flow, back = model.flow(now[None], later[None]), model.flow(later[None], now[None])
        steps.append(FrameFlow(flow, visible(flow, back)))
    return steps


def open_teacher(data: Path) -> Teacher:
    section = {
        "kind": "smp",
        "architecture": "FPN",
        "encoder": "tu-tf_efficientnet_lite0",
        "classes": len(CLASSES),
        "weights": data / "weights" / "camvid_fpn_lite0.safetensors",
        "mean": [127, 127, 127],
        "std": [128, 128, 128],
    }
    return build_teacher(TypeAdapter(TeacherConfig).validate_python(section))


def table_of_models(results: dict[str, ClipResult], labels: Tensor, steps: list[FrameFlow]) -> str:
    truth = TemporalConsistency(len(CLASSES))
    for (now, later), step in zip(pairwise(labels), steps, strict=True):
        truth.add(now[None], later[None], step.flow, visible=step.visible)
    rows = {"the labels": (truth.scores(), "", "")}
    for name, found in results.items():
        other = f"{found.consistency.released:.4f}"
        rows[name] = (found.consistency, f"{found.stability:.5f}", other)
    lines = ["| | TC | TC, visible | pixels that stay, visible | Tsb | TC as released |"]
    lines.append("|---" * 6 + "|")
    for name, (found, stability, other) in rows.items():
        lines.append(
            f"| {name} | {found.whole.miou:.4f} | {found.visible.miou:.4f} | "
            f"{found.visible.pixels:.4f} | {stability} | {other} |"
        )
    counted = truth.scores()
    first = next(iter(results.values()))
    lines.append(
        f"\n{len(steps)} pairs; flow warping error of the frames {first.frame_error:.5f}; of the "
        f"labelled pixels {counted.whole.counted:.1%} count, {counted.visible.counted:.1%} visible"
    )
    return "\n".join(lines)


def stand_ins(teacher: Tensor) -> dict[str, Tensor]:
    """T maps of students that follow the teacher more or less well."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(teacher.shape, generator=generator) * teacher.std()
    blurred = F.avg_pool2d(teacher.flatten(0, 1), 5, 1, 2, count_include_pad=False)
    return {
        "the teacher's own": teacher,
        "the teacher's, blurred 5 x 5": blurred.unflatten(0, teacher.shape[:2]),
        "the teacher's + noise, a third of its deviation": teacher + noise / 3,
        "the teacher's, frames in another order": teacher.flip(0),
        "noise of the same mean and deviation": teacher.mean() + noise,
    }


def table_of_values(teacher: Teacher, frames: Sequence[np.ndarray], steps: list[FrameFlow]) -> str:
    every = range(0, len(frames) - 2, max(1, (len(frames) - 1) // 3))
    chosen = [index + k for index in every for k in range(3)]
    output = teacher(np.stack([frames[index] for index in chosen]))
    logits = output["logits"].float().unflatten(0, (-1, 3)).transpose(0, 1)  # (3, B, C, h, w)
    features = output["features/penultimate"].float().unflatten(0, (-1, 3)).transpose(0, 1)
    torch.manual_seed(0)
    network = ConvLstm()
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    flow = torch.cat([steps[index].flow for index in every])
    seen = torch.cat([steps[index].visible for index in every])
    pair = images[list(every)], images[[index + 1 for index in every]]
    soft = photometric_weight(*pair, flow)
    summed = photometric_weight(*pair, flow, channels="summed")
    print(
        f"mean V {soft.mean():.3f}, of channels summed {summed.mean():.3f}; "
        f"visible {seen.float().mean():.3f}"
    )

    def at_pixels(maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=STRIDE, mode="bilinear")

    losses = (
        "| student | `temporal`, V | , visible | , released | `pairwise_frame` | , of logits "
        "| `multi_frame`, patch 16 |"
    )
    lines = [losses, "|---" * 7 + "|"]
    for (name, z), f in zip(stand_ins(logits).items(), stand_ins(features).values(), strict=True):
        now, later = at_pixels(z[0]), at_pixels(z[1])
        with torch.no_grad():
            values = [
                temporal(now, later, Correspondence(flow, soft)),
                temporal(now, later, Correspondence(flow, seen)),
                temporal(now, later, Correspondence(flow, summed), variant="released"),
                pairwise_frame(z[:2], logits[:2]),
                pairwise_frame(z[:2], logits[:2], of="logits"),
                embedded(f, features, embed=network).difference(),
            ]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2g}" for value in values) + " |")
    return "\n".join(lines)


def table_of_memory() -> str:
    """Peak bytes of a loss and its gradient, as multiples of its maps."""
    maps = [torch.randn(4, 19, 64, 64).requires_grad_() for _ in range(3)]
    others = [torch.randn(4, 19, 64, 64) for _ in range(3)]
    match = Correspondence(torch.randn(4, 2, 64, 64), torch.rand(4, 1, 64, 64))
    network = ConvLstm()
    losses = {
        "temporal": (2, lambda: temporal(maps[0], maps[1], match)),
        "pairwise_frame": (4, lambda: pairwise_frame(maps[:2], others[:2])),
        "multi_frame, patch 16": (6, lambda: multi_frame(maps, others, embed=network)),
        "multi_frame, patch 8": (6, lambda: multi_frame(maps, others, embed=network, patch=8)),
        "multi_frame, patch 4": (6, lambda: multi_frame(maps, others, embed=network, patch=4)),
    }
    lines = ["| loss on 4 x 19 x 64 x 64 | peak, forward and back | of its maps |", "|---|---|---|"]
    for name, (count, loss) in losses.items():
        with LiveMemory() as memory:
            loss().backward()
        share = memory.peak / (4 * count * maps[0].numel())
        lines.append(f"| `{name}` | {memory.peak / 2**20:.0f} MiB | {share:.1f} |")
    return "\n".join(lines)


def table_of_collapse(steps: int = 150) -> str:
    """What becomes of the embedding when a ConvLSTM is trained on a student that cannot follow."""

    def smooth(count: int, factor: int) -> Tensor:
        maps = torch.randn(count, 16, 32 // factor, 40 // factor)
        return F.interpolate(maps, scale_factor=factor, mode="bilinear")

    lines = ["| clip | `enlarge` | mean (E_s - E_t)^2 | mean E_t | spread |", "|---" * 5 + "|"]
    for clip in (1e9, 0.3, 0.1, 0.03):
        for enlarge in (0.0, 0.1):
            torch.manual_seed(1)
            network = ConvLstm(clip=clip)
            optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=5e-4)
            for _ in range(steps):
                teacher = [smooth(4, 8) for _ in range(3)]
                student = [each + smooth(4, 4) for each in teacher]
                both = embedded(student, teacher, embed=network, patch=8)
                loss = both.difference() + enlarge * both.smallness()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                network.clip_weights()
            cells = both.difference().item(), both.teacher.mean().item(), both.spread().item()
            lines.append(
                f"| {'none' if clip > 1 else clip} | {enlarge} | {cells[0]:.1g} | "
                f"{cells[1]:.2f} | {cells[2]:.2f} |"
            )
    return "\n".join(lines)


def draw(
    out: Path, frames: list[np.ndarray], steps: list[FrameFlow], results: dict[str, ClipResult]
) -> None:
    predictions = {name: found.predictions.numpy() for name, found in results.items()}

    def pair(t: int) -> FramePair:
        flow, seen = steps[t].flow[0].numpy(), steps[t].visible[0, 0].numpy()
        both = {name: (made[t], made[t + 1]) for name, made in predictions.items()}
        return FramePair(f"pair {t}", frames[t], frames[t + 1], flow, seen, both)

    pairs = [pair(t) for t in sorted({0, len(steps) // 2, len(steps) - 1})]
    flow_sheet(out / "flow.png", pairs, title="CamVid val, DIS flow")
    consistency_sheet(out / "changes.png", pairs, CLASSES)
    consistency_chart(
        out / "consistency.png", {name: found.consistency for name, found in results.items()}
    )
    for name in ("clip.mp4", "clip.gif"):
        comparison_film(
            out / name,
            lambda: map(pair, range(len(steps))),
            CLASSES,
            frames_per_second=7.5,
            title="CamVid val",
        )


def students(folders: Sequence[Path]) -> dict[str, Predictor]:
    run = load_run(Path(__file__).resolve().parent.parent / "examples" / "camvid.toml")
    return {
        folder.name: StudentPredictor(open_model(run, str(folder)).module) for folder in folders
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    frames, labels = read_clip(arguments.data, arguments.frames)
    steps = follow(frames)
    teacher = open_teacher(arguments.data)
    predictors = {**students(arguments.models), "teacher": TeacherPredictor(teacher)}
    results = {name: measure(each, frames, steps) for name, each in predictors.items()}
    print(table_of_models(results, labels, steps), end="\n\n")
    print(table_of_values(teacher, frames, steps), end="\n\n")
    print(table_of_memory(), end="\n\n")
    print(table_of_collapse())
    if arguments.out is not None:
        draw(arguments.out, frames, steps, results)


if __name__ == "__main__":
    main()
