"""How large the losses between maps are against a real teacher, and what memory they take.

    python benchmarks/loss_sizes.py --data ../shared/data

Values: logits (stride 4) and penultimate features of the CamVid teacher on eight CamVid test frames
without masks, against stand-ins for a student; labels are the frames' own. Memory: the most that
the tensors of a loss and of its way back take at one time, forward and back, on random maps of
4 x 64 x 64. Prints Markdown tables; a few minutes on one core.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.train.live_memory import LiveMemory
from stillroom.stages.train.losses.attention_transfer import attention_transfer
from stillroom.stages.train.losses.channelwise_kl import channelwise_kl
from stillroom.stages.train.losses.fitnet import fitnet
from stillroom.stages.train.losses.ifvd import ifvd
from stillroom.stages.train.losses.local_affinity import local_affinity
from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph, pairwise_affinity
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from stillroom.stages.models.teacher import Teacher

CLASSES, STRIDE = 11, 4


def graphs(*each: AffinityGraph) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda s, t, _: pairwise_affinity(s, t, graphs=each)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "pixelwise_kl, T 1": lambda s, t, _: pixelwise_kl(s, t),
    "channelwise_kl": lambda s, t, _: channelwise_kl(s, t),
    "bhattacharyya": lambda s, t, _: channelwise_kl(s, t, variant="bhattacharyya"),
    "l2": lambda s, t, _: channelwise_kl(s, t, variant="l2"),
    "fitnet": lambda s, t, _: fitnet(s, t),
    "attention_transfer": lambda s, t, _: attention_transfer(s, t),
    "local_affinity": lambda s, t, _: local_affinity(s, t),
    "pairwise_affinity": graphs(AffinityGraph()),
    "ifvd": lambda s, t, labels: ifvd(s, t, labels, classes=CLASSES),
}
MEMORY = {
    **{name: loss for name, loss in LOSSES.items() if name != "pairwise_affinity"},
    "pairwise_affinity, patch 2": graphs(AffinityGraph()),
    "pairwise_affinity, patch 1": graphs(AffinityGraph(1)),
    "pairwise_affinity, patch 1, reach 4": graphs(AffinityGraph(1, 4)),
}
OF_EQUAL_CHANNELS = {"pixelwise_kl, T 1", "channelwise_kl", "bhattacharyya", "l2", "fitnet"}


def stand_ins(teacher: Tensor) -> dict[str, Tensor]:
    noise = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0))
    deviation = teacher.std()
    return {
        "noise of the teacher's mean and deviation": teacher.mean() + deviation * noise,
        "half the teacher's map": teacher / 2,
        "the teacher's, blurred 5 x 5": F.avg_pool2d(
            teacher, 5, stride=1, padding=2, count_include_pad=False
        ),
        "the teacher's + noise of a third of its deviation": teacher + deviation / 3 * noise,
        "the teacher's of another frame": teacher.roll(1, dims=0),
    }


def frames_and_labels(data: Path) -> tuple[np.ndarray, Tensor]:
    paths = sorted((data / "camvid" / "test").glob("*.*"))[::29][:8]
    frames = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    annotations = data / "camvid" / "testannot"
    labels = np.stack(
        [cv2.imread(str(annotations / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE) for path in paths]
    )
    labels = torch.from_numpy(np.where(labels < CLASSES, labels, 255)).long()
    half = STRIDE // 2
    return np.stack(frames), labels[:, half::STRIDE, half::STRIDE]


def camvid_weights(data: Path) -> Path:
    return data / "weights" / "camvid_fpn_lite0.safetensors"


def camvid_teacher(data: Path) -> Teacher:
    section = {
        "kind": "smp",
        "architecture": "FPN",
        "encoder": "tu-tf_efficientnet_lite0",
        "classes": CLASSES,
        "weights": camvid_weights(data),
        "mean": [127, 127, 127],
        "std": [128, 128, 128],
    }
    return build_teacher(TypeAdapter(TeacherConfig).validate_python(section))


def table_of_values(data: Path) -> str:
    frames, labels = frames_and_labels(data)
    output = camvid_teacher(data)(frames)
    lines = ["| map | student | " + " | ".join(LOSSES) + " |", "|---" * (len(LOSSES) + 2) + "|"]
    for name, teacher in (
        ("logits", output["logits"]),
        ("features", output["features/penultimate"]),
    ):
        teacher = teacher.float()
        print(f"{name}: {tuple(teacher.shape)}, deviation {teacher.std():.3g}")
        for stand_in, student in stand_ins(teacher).items():
            values = [loss(student, teacher, labels).item() for loss in LOSSES.values()]
            lines.append(
                f"| {name} | {stand_in} | " + " | ".join(f"{v:.2g}" for v in values) + " |"
            )
    return "\n".join(lines)


def table_of_memory() -> str:
    """Peak bytes of a loss and its gradient, as multiples of both maps."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"19 and 19 channels": (19, 19), "128 and 512 channels": (128, 512)}
    lines = ["| loss | " + " | ".join(sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name, loss in MEMORY.items():
        cells = []
        for channels, others in sizes.values():
            channels = others if name in OF_EQUAL_CHANNELS else channels
            student = torch.randn(4, channels, 64, 64, generator=generator).requires_grad_()
            teacher = torch.randn(4, others, 64, 64, generator=generator)
            labels = torch.randint(0, CLASSES, (4, 64, 64), generator=generator)
            with LiveMemory() as memory:
                loss(student, teacher, labels).backward()
            share = memory.peak / (4 * (student.numel() + teacher.numel()))
            cells.append(f"{memory.peak / 2**20:.0f} MiB ({share:.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    print(table_of_values(arguments.data), end="\n\n")
    print(table_of_memory())


if __name__ == "__main__":
    main()
