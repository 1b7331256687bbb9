"""How large the losses on statistics, correlations and other frames are, and what memory they take.

    python benchmarks/statistics_loss_sizes.py --data ../shared/data

Values: as in loss_sizes.py, with the same stand-ins. For the augmented losses the stand-in has the
teacher's own classifier and class covariances. The memory of cross_image_memory holds the other
four of the eight frames; masked_generative generates by the identity, from all positions. Memory:
forward and back, on maps of 4 x 64 x 64. Prints Markdown tables; a few minutes on one core.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from loss_sizes import CLASSES, camvid_teacher, camvid_weights, frames_and_labels, stand_ins
from torch import Tensor, nn

from stillroom.stages.models.smp_network import CLASSIFIER
from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.train.live_memory import LiveMemory
from stillroom.stages.train.loss_parts.augmentation import Augmentation
from stillroom.stages.train.loss_parts.similarities import draw_pixels
from stillroom.stages.train.losses.augmented_channelwise import augmented_channelwise
from stillroom.stages.train.losses.augmented_pixelwise import augmented_pixelwise
from stillroom.stages.train.losses.cross_image_memory import cross_image_memory
from stillroom.stages.train.losses.cross_image_pixel import cross_image_pixel
from stillroom.stages.train.losses.dist import dist
from stillroom.stages.train.losses.masked_generative import masked_generative
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.terms.class_covariance import ClassCovariance
from stillroom.stages.train.terms.class_queue import regions, some_of_each_class

STRENGTHS = (0.0, 0.1, 1.0)


def everywhere(maps: Tensor) -> Tensor:
    return torch.ones(len(maps), 1, *maps.shape[2:], dtype=torch.bool)


def table_of_logits(logits: Tensor, augmentation: Augmentation) -> str:
    rows = {
        "dist": dist,
        "dist, beta 0": partial(dist, beta=0),
        "dist, beta 0, epsilon 1e-8": partial(dist, beta=0, epsilon=1e-8),
        "pixelwise_kl": pixelwise_kl,
        "pixelwise_kl, standardise": partial(pixelwise_kl, standardise=True),
        "the same, T 2": partial(pixelwise_kl, standardise=True, temperature=2),
    }
    for strength in STRENGTHS:
        given = replace(augmentation, strength=strength)
        for loss in (augmented_pixelwise, augmented_channelwise):
            name = f"{loss.__name__}, strength {strength:g}"
            rows[name] = partial(loss, augmentation=given)
    return table(rows, logits)


def table_of_features(features: Tensor, labels: Tensor) -> str:
    torch.manual_seed(0)
    chosen = draw_pixels(everywhere(features), 256)
    half = len(features) // 2
    held = {
        "pixels": some_of_each_class(features[half:], labels[half:], CLASSES, 100)[0],
        "regions": regions(features[half:], labels[half:], CLASSES)[0],
    }
    rows = {
        "cross_image_pixel, 256 pixels": partial(cross_image_pixel, chosen=chosen),
        "masked_generative": partial(
            masked_generative, generate=nn.Identity(), keep=everywhere(features)
        ),
    }
    for name, memory in held.items():
        loss = partial(cross_image_memory, memory=memory, chosen=chosen)
        rows[f"cross_image_memory, {len(memory)} {name}"] = loss
    return table(rows, features)


def table(rows, teacher: Tensor) -> str:
    students = stand_ins(teacher)
    lines = ["| loss | " + " | ".join(students) + " |", "|---" * (len(students) + 1) + "|"]
    for name, loss in rows.items():
        values = [loss(student, teacher).item() for student in students.values()]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2g}" for value in values) + " |")
    return "\n".join(lines)


def table_of_memory() -> str:
    def maps(channels: int) -> Tensor:
        return torch.randn(4, channels, 64, 64)

    lines = ["| loss | channels | peak | both maps |", "|---|---|---|---|"]

    def measure(name: str, channels: int, loss) -> None:
        student, teacher = maps(channels).requires_grad_(), maps(channels)
        with LiveMemory() as memory:
            loss(student, teacher).backward()
        both = 4 * (student.numel() + teacher.numel())
        lines.append(
            f"| {name} | {channels} | {memory.peak / 2**20:.0f} MiB | {both / 2**20:.0f} MiB |"
        )

    for classes in (19, 150):
        given = Augmentation(
            torch.randn(classes, 256) / 16,
            torch.rand(classes, 256),
            torch.randint(0, classes, (4, 64, 64)),
            1.0,
        )
        measure("dist", classes, dist)
        for loss in (augmented_pixelwise, augmented_channelwise):
            measure(loss.__name__, classes, partial(loss, augmentation=given))
    remembered = torch.randn(4096, 256)
    for pixels in (256, 1024):
        chosen = draw_pixels(everywhere(maps(1)), pixels)
        loss = partial(cross_image_pixel, chosen=chosen)
        measure(f"cross_image_pixel, {pixels} pixels", 256, loss)
        loss = partial(cross_image_memory, chosen=chosen, memory=remembered)
        measure(f"cross_image_memory, {pixels} pixels, 4,096 vectors", 256, loss)
    return "\n".join(lines)


@torch.no_grad()
def tables_of_values(data: Path) -> str:
    frames, labels = frames_and_labels(data)
    output = camvid_teacher(data)(frames)
    logits, features = output["logits"].float(), output["features/penultimate"].float()
    statistics = ClassCovariance(CLASSES, features.shape[1])
    statistics.update(features, labels)
    state = read_tensors(camvid_weights(data))
    weight = state[CLASSIFIER].float().sum(dim=(2, 3))
    given = Augmentation(weight, statistics.variance.float(), labels, 1.0)
    return f"{table_of_logits(logits, given)}\n\n{table_of_features(features, labels)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    print(tables_of_values(arguments.data), end="\n\n")
    print(table_of_memory())


if __name__ == "__main__":
    main()
