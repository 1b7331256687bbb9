"""Pictures of the losses that compare logits or labels."""

from __future__ import annotations

import numpy as np
from loss_maps import COLOURS, KEY, MIXED, STRIDE, Shown, Views, each_pixel, mixture, numbers
from map_page import Map, Picture, Scale, scale_of

from stillroom.stages.pictures.palette import colourise
from stillroom.stages.sources.camvid import CLASSES
from stillroom.stages.train.loss_parts.augmentation import Augmentation
from stillroom.stages.train.losses.augmented_pixelwise import augmented_pixelwise
from stillroom.stages.train.losses.channelwise_kl import _kl, _log_distribution, channelwise_kl
from stillroom.stages.train.losses.consistency_l2 import consistency_l2, consistency_map
from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.stages.train.losses.dist import _apart, dist
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.probability_l2 import probability_l2
from stillroom.stages.train.terms.class_covariance import ClassCovariance
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import IGNORE

THRESHOLD = 0.7


def draw_cross_entropy(shown: Shown) -> Picture:
    pair = shown.pair
    size = pair.images.shape[1:3]
    best, pseudo = upsample_logits(pair.teacher_logits, STRIDE, size).softmax(dim=1).max(dim=1)
    pseudo = pseudo.masked_fill(best < THRESHOLD, IGNORE)
    said = upsample_logits(pair.student_logits, STRIDE, size)
    rows, surprises = [], []
    for number, (told, words) in enumerate(
        ((pair.labels[:1], "labels; black: none"), (pseudo[1:], "pseudo labels; black: below 0.7"))
    ):
        own = said[number : number + 1]
        surprise = each_pixel(cross_entropy, own, told)[0]
        surprise[told[0].numpy() == IGNORE] = np.nan
        surprises.append(surprise)
        rows.append(
            (
                shown.frame(number),
                Map(_classes(told[0]), words),
                Map(_classes(own.argmax(dim=1)[0]), "likeliest class"),
                Map(surprise, f"mean {np.nanmean(surprise):.2f} nats"),
            )
        )
    return Picture(
        title="cross_entropy: how little of its probability the student gives to the label",
        words=(
            "Above a labelled frame, below one whose labels are hidden: the teacher's pseudo "
            "labels stand for them. At the frames' own pixels; grey: without a label."
        ),
        columns=("frame", "what it is told", "the student", "where the loss is"),
        scales=(None, None, None, scale_of(surprises, "-log q of the label, nats", share=97)),
        rows=tuple(rows),
        classes=KEY,
    )


def draw_pixelwise_kl(shown: Shown) -> Picture:
    pair = shown.pair
    rows, values = [], []
    for number, temperature in ((0, 1), (1, 1), (1, 4)):
        own, other = pair.student_logits[number : number + 1], pair.teacher_logits[number][None]
        value = each_pixel(pixelwise_kl, own, other, temperature=temperature)[0]
        values.append(value)
        first = shown.frame(number) if temperature == 1 else Map(None, "the same frame at T = 4")
        rows.append(
            (
                first,
                Map(mixture(other, temperature)[0], f"T = {temperature}"),
                Map(mixture(own, temperature)[0], f"T = {temperature}"),
                Map(value, f"T = {temperature}: mean {value.mean():.2f}"),
            )
        )
    return Picture(
        title="pixelwise_kl: how unlike the class probabilities of each pixel are",
        words=(
            f"{MIXED} A higher temperature shows what else each of them considers. The loss "
            "is where borders are, and where the student holds one thing for another; at T = "
            "4 also where it is less sure than the teacher, or surer."
        ),
        columns=("frame", "the teacher", "the student", "where the loss is"),
        scales=(
            None,
            None,
            None,
            Scale(0.01, 10, "T² KL(teacher || student), nats", log=True, more=True, less=True),
        ),
        rows=tuple(rows),
        classes=KEY,
    )


def draw_probability_l2(shown: Shown) -> Picture:
    pair = shown.pair
    p, q = pair.teacher_logits.softmax(dim=1), pair.student_logits.softmax(dim=1)
    one = int((p - q).square().mean(dim=(0, 2, 3)).argmax())
    value = each_pixel(probability_l2, pair.student_logits, pair.teacher_logits)
    share = Scale(0, 1, f"probability of {CLASSES[one]}")
    return Picture(
        title="probability_l2: squared distance of the class probabilities of each pixel",
        words=(
            f"Teacher and student: one class of {len(CLASSES)}, {CLASSES[one]}, on which they "
            "differ most. The loss sums over all classes and is at most 2."
        ),
        columns=("frame", "the teacher", "the student", "where the loss is"),
        scales=(None, share, share, Scale(0, 1, "sum over classes of (q - p)²", more=True)),
        rows=tuple(
            (
                shown.frame(number),
                Map(numbers(p)[number, one]),
                Map(numbers(q)[number, one]),
                Map(value[number], f"mean {value[number].mean():.3f}"),
            )
            for number in range(2)
        ),
    )


def draw_consistency_l2(shown: Shown) -> Picture:
    pair = shown.pair
    maps = [numbers(consistency_map(of)) for of in (pair.teacher_logits, pair.student_logits)]
    value = each_pixel(consistency_l2, pair.student_logits, pair.teacher_logits)
    change = Scale(1, 1e3, "c, squared differences, logit²", log=True, more=True, less=True)
    loss = Scale(1, 1e5, "(c of student - c of teacher)², logit⁴", log=True, more=True, less=True)
    return Picture(
        title="consistency_l2: how much logits change around each pixel",
        words=(
            "Borders stand out in both; the student's logits are flatter within things. All "
            "scales are logarithmic: a few cells make most of the mean."
        ),
        columns=("frame", "the teacher", "the student", "where the loss is"),
        scales=(None, change, change, loss),
        rows=tuple(
            (
                shown.frame(number),
                Map(maps[0][number], f"median {np.median(maps[0][number]):.0f}"),
                Map(maps[1][number], f"median {np.median(maps[1][number]):.0f}"),
                Map(
                    value[number],
                    f"mean {value[number].mean():,.0f}, median {np.median(value[number]):,.0f}",
                ),
            )
            for number in range(2)
        ),
    )


def channel_of(pair: Views, one: int, temperature: float) -> tuple[list[np.ndarray], np.ndarray]:
    """One channel's distribution over the frame to teacher and student, and the KL by cell.

    Each (B, h, w), times the number of cells.
    """
    cells = pair.grid[0] * pair.grid[1]
    log_p, log_q = (
        _log_distribution(of[:, one : one + 1] / temperature, None)[:, 0]
        for of in (pair.teacher_logits, pair.student_logits)
    )  # (B, HW)
    # each cell as a distribution of its own: what the sum over the frame is made of
    parts = temperature**2 * _kl(log_p[..., None], log_q[..., None])
    shares = [log_p.exp(), log_q.exp()]
    *shares, parts = (numbers(of).reshape(-1, *pair.grid) * cells for of in (*shares, parts))
    return shares, parts


def draw_channelwise_kl(shown: Shown) -> Picture:
    pair, one = shown.pair, CLASSES.index("car")
    shares, parts = channel_of(pair, one, temperature=4.0)
    density = Scale(
        0.1, 10, "share of the channel; 1: spread evenly", log=True, more=True, less=True
    )
    values = [
        channelwise_kl(
            pair.student_logits[number : number + 1, one : one + 1],
            pair.teacher_logits[number : number + 1, one : one + 1],
        ).item()
        for number in range(2)
    ]
    return Picture(
        title=f"channelwise_kl: where in the frame a channel is active ({CLASSES[one]}, T = 4)",
        words=(
            "Each channel becomes a distribution over the frame. Cells where the teacher has "
            "more of it cost (red), others are credited (blue); their mean over cells is the "
            "channel's KL. What the channel is worth at a cell is compared, and not which "
            "class wins there."
        ),
        columns=("frame", "the teacher", "the student", "where the loss is"),
        scales=(None, density, density, scale_of([parts], "T² p log(p / q), by cell, nats",
                                                 signed=True, share=98)),
        rows=tuple(
            (
                shown.frame(number),
                Map(shares[0][number]),
                Map(shares[1][number]),
                Map(parts[number], f"mean: {values[number]:.2f} nats"),
            )
            for number in range(2)
        ),
    )  # fmt: skip


def draw_dist(shown: Shown) -> Picture:
    pair = shown.pair
    q, p = pair.student_logits.softmax(dim=1), pair.teacher_logits.softmax(dim=1)
    ones = q.bool() | True
    apart = numbers(_apart(q, p, ones, (1,), 0.0)[0])[:, 0]  # (B, h, w)
    of_classes = numbers(_apart(q, p, ones, (0, 2, 3), 0.0)[0]).ravel()
    within = dist(pair.student_logits, pair.teacher_logits, beta=0.0).item()
    said = [f"{name} {value:.2f}" for name, value in zip(CLASSES, of_classes, strict=True)]
    return Picture(
        title="dist: do the probabilities rise and fall together?",
        words=(
            f"{MIXED} Right: the inter-class part. The intra-class part, over the pixels of "
            f"both frames, is {within:.2f} in the mean of its classes: {', '.join(said)}."
        ),
        columns=("frame", "the teacher", "the student", "where the inter-class part is"),
        scales=(None, None, None, Scale(0, 1, "1 - correlation over classes", more=True)),
        rows=tuple(
            (
                shown.frame(number),
                Map(mixture(pair.teacher_logits)[number]),
                Map(mixture(pair.student_logits)[number]),
                Map(apart[number], f"mean {apart[number].mean():.3f}"),
            )
            for number in range(2)
        ),
        classes=KEY,
    )


def draw_augmented(shown: Shown) -> Picture:
    pair, others = shown.pair, shown.others
    statistics = ClassCovariance(len(CLASSES), others.student.shape[1])
    statistics.update(others.student, others.cells)
    given = Augmentation(pair.classifier, statistics.variance.float(), pair.cells, 1.0)
    plain = each_pixel(pixelwise_kl, pair.student_logits, pair.teacher_logits)
    bound = each_pixel(
        augmented_pixelwise, pair.student_logits, pair.teacher_logits, augmentation=given
    )
    return Picture(
        title="augmented_pixelwise: what moving the features within their class adds",
        words=(
            "Third column: the plain KL. Fourth: what the bound at lambda 1 adds to it, with "
            "covariances of the student's features over 8 other frames. Near borders, and in "
            "classes that vary much, small moves change the answer. Pixels without a label "
            "(black) are not augmented."
        ),
        columns=("frame", "labels", "pixelwise_kl", "added by the augmentation"),
        scales=(
            None,
            None,
            scale_of([plain], "KL(teacher || student), nats", share=97),
            scale_of([bound - plain], "bound - KL, nats", share=98),
        ),
        rows=tuple(
            (
                shown.frame(number),
                Map(_classes(pair.labels[number])),
                Map(plain[number], f"mean {plain[number].mean():.2f}"),
                Map(
                    bound[number] - plain[number],
                    f"mean {(bound - plain)[number].mean():.2f}",
                ),
            )
            for number in range(2)
        ),
        classes=KEY,
    )


def _classes(labels: object) -> np.ndarray:
    return colourise(labels.numpy().astype(np.uint8), COLOURS)


PICTURES = {
    "cross_entropy": draw_cross_entropy,
    "pixelwise_kl": draw_pixelwise_kl,
    "probability_l2": draw_probability_l2,
    "consistency_l2": draw_consistency_l2,
    "channelwise_kl": draw_channelwise_kl,
    "dist": draw_dist,
    "augmented_pixelwise": draw_augmented,
}
