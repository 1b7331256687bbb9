"""Pictures of the losses that compare features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from loss_maps import COLOURS, KEY, Shown, Views, each_pixel, numbers
from map_page import Map, Picture, Scale, scale_of
from torch import Tensor

from stillroom.stages.pictures.palette import colourise
from stillroom.stages.sources.camvid import CLASSES
from stillroom.stages.train.loss_parts.near_pairs import pairs, shifts
from stillroom.stages.train.loss_parts.projector import Projector
from stillroom.stages.train.loss_parts.similarities import Others, unit_pixels
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.losses.attention_transfer import _attention, attention_transfer
from stillroom.stages.train.losses.cross_image_pixel import cross_image_pixel
from stillroom.stages.train.losses.fitnet import fitnet
from stillroom.stages.train.losses.ifvd import _to_centre, ifvd
from stillroom.stages.train.losses.local_affinity import local_affinity
from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph, _nodes, pairwise_affinity

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIKE = Scale(0, 1, "cosine")


@torch.no_grad()
def fitted_projector(student: Tensor, teacher: Tensor) -> Projector:
    """The projector of least squares, where training would end if the student stood still."""
    projector = Projector(student.shape[1], teacher.shape[1])
    own = student.transpose(0, 1).flatten(1).T  # (N, A)
    own = torch.cat([own, torch.ones_like(own[:, :1])], dim=1).double()
    target = teacher.transpose(0, 1).flatten(1).T.double()
    found = torch.linalg.lstsq(own, target).solution.T.float()  # (A', A + 1)
    projector.convolution.weight.copy_(found[:, :-1, None, None])
    projector.convolution.bias.copy_(found[:, -1])
    return projector


@torch.no_grad()
def draw_fitnet(shown: Shown) -> Picture:
    pair = shown.pair
    student = fitted_projector(pair.student, pair.teacher)(pair.student)
    value = each_pixel(fitnet, student, pair.teacher)
    one = int(pair.teacher.var(dim=(0, 2, 3)).argmax())
    maps = [numbers(of[:, one]) for of in (pair.teacher, student)]
    scale = scale_of([np.maximum(part, 0) for part in maps], f"channel {one} of 128")
    return Picture(
        title="fitnet: the teacher's features, value by value",
        words=(
            "One channel of the penultimate layer, the one that varies most. The student's "
            "32 channels come through a 1x1 convolution to the teacher's 128, here the one "
            "of least squares on these two frames: what is left is what the student's "
            "channels, as they are, cannot say."
        ),
        columns=("frame", "the teacher", "the student, projected", "where the loss is"),
        scales=(None, scale, scale, scale_of([value], "mean over channels of (s - t)²")),
        rows=_rows(shown, maps, value, "mean {:.2f}"),
    )


def draw_attention_transfer(shown: Shown) -> Picture:
    pair = shown.pair
    shape = (2, *pair.grid)
    logs = [_attention(of, 2.0) for of in (pair.teacher, pair.student)]  # (B, HW) of length 1
    maps = [numbers(one).reshape(shape) * np.sqrt(one.shape[1]) for one in logs]
    value = (maps[1] - maps[0]) ** 2
    losses = [
        attention_transfer(pair.student[n : n + 1], pair.teacher[n : n + 1]).item() for n in (0, 1)
    ]
    scale = scale_of(maps, "energy; 1: its root mean square")
    return Picture(
        title="attention_transfer: where in the frame activations are large",
        words=(
            "The squares of all channels, summed, and brought to length 1 over the frame. "
            "Channel counts do not matter, and what the activations mean is not looked at."
        ),
        columns=("frame", "the teacher", "the student", "where the loss is"),
        scales=(None, scale, scale, scale_of([value], "squared difference")),
        rows=_rows(shown, maps, value, "", [f"mean {loss:.2f}" for loss in losses]),
    )


def around(features: Tensor) -> Tensor:
    """(B, 8, h, w): cosine of each cell to the 8 around it, NaN where there is none."""
    unit = unit_vectors(features)
    height, width = features.shape[2:]
    found = []
    for down, right in shifts(reach=1):
        here, there = pairs(unit, down, right)
        cosine = (here * there).sum(dim=1)  # (B, h - down, w - |right|)
        left, other = max(0, -right), max(0, right)
        for top, start in ((0, left), (down, other)):
            whole = torch.full((len(unit), height, width), torch.nan)
            rows = slice(top, top + cosine.shape[1])
            whole[:, rows, start : start + cosine.shape[2]] = cosine
            found.append(whole)
    return torch.stack(found, dim=1)


def draw_local_affinity(shown: Shown) -> Picture:
    pair = shown.pair
    teacher, student = around(pair.teacher), around(pair.student)
    maps = [numbers(of.nanmean(dim=1)) for of in (teacher, student)]
    value = numbers((student - teacher).square().nanmean(dim=1))
    losses = [local_affinity(pair.student[n : n + 1], pair.teacher[n : n + 1]) for n in (0, 1)]
    like = Scale(0.8, 1, "mean cosine to the 8 around", less=True)
    return Picture(
        title="local_affinity: how alike each cell is to the eight around it",
        words=(
            "Cells inside a thing are like their neighbours, cells at its border are not. "
            "What the thing is goes unnoticed."
        ),
        columns=("frame", "the teacher", "the student", "where the loss is"),
        scales=(None, like, like, scale_of([value], "mean of (cosine - cosine)²")),
        rows=_rows(shown, maps, value, "", [f"mean {loss:.4f}" for loss in losses]),
    )


def draw_pairwise_affinity(shown: Shown) -> Picture:
    pair = shown.pair
    nodes = [
        unit_vectors(_nodes(of, None, AffinityGraph()), dim=1)
        for of in (pair.teacher, pair.student)
    ]  # (B, A, h / 2, w / 2)
    maps = []
    for of in nodes:
        marked = [of[n, :, row // 2, column // 2] for n, (row, column, _) in enumerate(shown.marks)]
        maps.append(numbers(torch.einsum("ba,bahw->bhw", torch.stack(marked), of)))
    value = (maps[1] - maps[0]) ** 2
    losses = [pairwise_affinity(pair.student[n : n + 1], pair.teacher[n : n + 1]) for n in (0, 1)]
    return Picture(
        title="pairwise_affinity: which places of the frame are alike",
        words=(
            "Cosines of one node (2 x 2 cells, marked) to all others: one row of the matrix "
            "that is compared. The loss is over all rows, 2,700 of them here."
        ),
        columns=("frame", "the teacher", "the student", "where this row's loss is"),
        scales=(None, LIKE, LIKE, scale_of([value], "(cosine - cosine)²", share=97)),
        rows=_rows(
            shown, maps, value, "", [f"all rows: mean {loss:.3f}" for loss in losses], marked=True
        ),
    )


def draw_ifvd(shown: Shown) -> Picture:
    pair = shown.pair
    cells = pair.cells
    members = torch.nn.functional.one_hot(
        cells.masked_fill(cells == 255, len(CLASSES)).flatten(1), len(CLASSES) + 1
    )[..., : len(CLASSES)].float()  # (B, HW, C)
    none = (cells == 255).numpy()
    maps = [
        numbers(_to_centre(of, members)).reshape(2, *pair.grid)
        for of in (pair.teacher, pair.student)
    ]
    value = each_pixel(ifvd, pair.student, pair.teacher, cells, classes=len(CLASSES))
    for one in (*maps, value):
        one[none] = np.nan
    near = Scale(0.5, 1, "cosine", less=True)
    rows = [
        (
            Map(colourise(pair.labels[n].numpy().astype(np.uint8), COLOURS), pair.names[n]),
            *(Map(of[n]) for of in maps),
            Map(value[n], f"mean {np.nanmean(value[n]):.4f}"),
        )
        for n in (0, 1)
    ]
    return Picture(
        title="ifvd: how far each cell is from the centre of its class",
        words=(
            "Cosine of each cell's features to the mean over the cells of its class in the "
            "frame. Dark: cells that are unlike their class. Grey: without a label."
        ),
        columns=("labels", "the teacher", "the student", "where the loss is"),
        scales=(None, near, near, scale_of([value], "(cosine - cosine)²")),
        rows=tuple(rows),
        classes=KEY,
    )


def against_the_second(pair: Views, at: int, temperature: float) -> list[NDArray[np.float64]]:
    """One cell of the first frame: what of the second it resembles, to each network, and the KL.

    Each (h, w), times the number of cells: p, q, p log(p / q).
    """
    student, teacher, counted = unit_pixels(pair.student, pair.teacher, None, None)
    others = Others(student[1:], teacher[1:], counted[1:], temperature)
    log_p = others._log_softmax(teacher[0, at][None], others.teacher)[0, 0]
    log_q = others._log_softmax(student[0, at][None], others.student)[0, 0]
    parts = (log_p.exp(), log_q.exp(), log_p.exp() * (log_p - log_q))
    return [numbers(one).reshape(pair.grid) * len(log_p) for one in parts]


def draw_cross_image(shown: Shown) -> Picture:
    pair, temperature = shown.pair, 0.1
    marks = ((57, 104, "1: a car"), (15, 8, "2: a wall"))
    found = [
        against_the_second(pair, row * pair.grid[1] + column, temperature)
        for row, column, _ in marks
    ]
    rows = []
    placed = tuple((row, column, name[0]) for row, column, name in marks)
    firsts = (
        Map(pair.images[0], f"{pair.names[0]}; {marks[0][2]}, {marks[1][2]}", placed, pair.grid),
        Map(pair.images[1], pair.names[1]),
    )
    for number, (first, maps) in enumerate(zip(firsts, found, strict=True)):
        note = f"{number + 1} against the lower frame"
        rows.append((first, Map(maps[0], note), Map(maps[1]),
                     Map(maps[2], f"mean: KL {maps[2].mean():.2f} nats")))  # fmt: skip
    whole = cross_image_pixel(pair.student, pair.teacher, temperature=temperature).item()
    share = Scale(
        0.1, 10, "share of the similarity; 1: spread evenly", log=True, more=True, less=True
    )
    values = scale_of([maps[2] for maps in found], "p log(p / q), by cell, nats", signed=True)
    return Picture(
        title="cross_image_pixel: which pixels of another frame does a pixel resemble?",
        words=(
            "Two pixels of the upper frame, each against all pixels of the lower: softmax of "
            f"the cosines at T = 0.1. Over all pixels of both frames the loss is {whole:.2f} "
            "nats."
        ),
        columns=("frames", "the teacher", "the student", "where this row's loss is"),
        scales=(None, share, share, values),
        rows=tuple(rows),
    )


def _rows(
    shown: Shown,
    maps: list[NDArray],
    value: NDArray,
    words: str,
    notes: list[str] | None = None,
    *,
    marked: bool = False,
) -> tuple[tuple[Map, ...], ...]:
    """Frame, teacher, student, loss; the loss noted by its mean, unless notes are given."""
    notes = [words.format(np.nanmean(one)) for one in value] if notes is None else notes
    return tuple(
        (
            shown.frame(n, marked=marked),
            Map(maps[0][n]),
            Map(maps[1][n]),
            Map(value[n], notes[n]),
        )
        for n in (0, 1)
    )


PICTURES = {
    "fitnet": draw_fitnet,
    "attention_transfer": draw_attention_transfer,
    "local_affinity": draw_local_affinity,
    "pairwise_affinity": draw_pairwise_affinity,
    "ifvd": draw_ifvd,
    "cross_image_pixel": draw_cross_image,
}
