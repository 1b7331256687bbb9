"""Fixtures for terms: a batch with a teacher, and what a student says about it.

make_input (term, **changes) -> TermInput of a labelled batch; changes replace the batch's entries
make_clip (term, **changes) -> TermInput of an unlabelled batch of two triplets, likewise
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from student_output import student_output

from stillroom.stages.train.batch import Batch, Triplets
from stillroom.stages.train.terms.term import Sizes, TermInput

CLASSES, SIZE = 3, (16, 22)  # 22 is no multiple of a stride
STRIDES = {"logits": 4, "features/penultimate": 4, "features/stage4": 8}
CHANNELS = {"logits": CLASSES, "features/penultimate": 6, "features/stage4": 7}
TEACHER = {"fpn/logits": CLASSES, "fpn/features/penultimate": 5, "fpn/features/deep": 9}


@dataclass
class Network:
    """The part of a student that terms look at."""

    classifier_weight: torch.Tensor
    strides: dict[str, int]


@pytest.fixture
def sizes() -> Sizes:
    return Sizes(CLASSES, CHANNELS, STRIDES, TEACHER)


def cells(stride):
    return -(-SIZE[0] // stride), -(-SIZE[1] // stride)


@pytest.fixture
def make_input(sizes):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def grids(channels, stride):
        return normal(2, channels, *cells(stride))

    labels = torch.randint(0, CLASSES, (2, *SIZE), generator=generator)
    labels[:, :, :3] = 255
    mask, coarse = torch.ones(2, 1, *cells(4)).bool(), torch.ones(2, 1, *cells(8)).bool()
    mask[1, :, :, 4:] = False
    coarse[1, :, :, 2:] = False
    output = student_output(
        grids(CLASSES, 4).requires_grad_(),
        {
            "penultimate": grids(6, 4).requires_grad_(),
            "stage4": grids(7, 8).requires_grad_(),
        },
    )
    batch = Batch(
        stream="camvid",
        labelled=True,
        images=255 * torch.rand(2, 3, *SIZE, generator=generator),
        labels=labels,
        mask=mask,
        artifacts={
            "fpn/logits": 3 * grids(CLASSES, 4),
            "fpn/pixel_confidence": torch.rand(2, 1, *SIZE, generator=generator),
            "fpn/pseudo_label": torch.randint(0, CLASSES, (2, *SIZE), generator=generator),
            "fpn/features/penultimate": grids(5, 4),
            "fpn/features/deep": grids(9, 4),
            "fpn/features/penultimate@8": grids(5, 8),
            "fpn/features/deep@8": grids(9, 8),
            "fpn/logits@8": grids(CLASSES, 8),
            "psp/logits": 3 * grids(CLASSES, 4),
        },
        masks={8: coarse},
        frame_ids=["a", "b"],
    )
    network = Network(normal(CLASSES, 6), STRIDES)

    def make(term, progress=0.0, **changes) -> TermInput:
        torch.manual_seed(0)
        state = term.state(sizes)
        return TermInput(term, output, replace(batch, **changes), network, state, progress)

    return make


@pytest.fixture
def make_clip(sizes):
    """Two triplets in the order of `Triplets`: both frames, those before, those after."""
    generator = torch.Generator().manual_seed(1)
    pairs = torch.tensor([[0, 2], [0, 4], [1, 3], [1, 5]])

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def mask(stride):
        shown = torch.ones(6, 1, *cells(stride)).bool()
        shown[1::2, :, :, -1] = False  # the second triplet's view reaches beyond the canvas
        return shown

    output = student_output(
        (2 * normal(6, CLASSES, *cells(4))).requires_grad_(),
        {
            "penultimate": normal(6, 6, *cells(4)).relu().requires_grad_(),
            "stage4": normal(6, 7, *cells(8)).relu().requires_grad_(),
        },
    )
    batch = Batch(
        stream="city",
        labelled=False,
        images=255 * torch.rand(6, 3, *SIZE, generator=generator),
        labels=None,
        mask=mask(4),
        artifacts={
            "fpn/logits": 3 * normal(6, CLASSES, *cells(4)),
            "fpn/features/penultimate": normal(6, 5, *cells(4)).relu(),
            "fpn/features/deep@8": normal(6, 9, *cells(8)).relu(),
        },
        masks={1: mask(1), 8: mask(8)},
        triplets=Triplets(
            frames=torch.tensor([[2, 0, 4], [3, 1, 5]]),
            pairs=pairs,
            flow=2 * normal(len(pairs), 2, *SIZE),
            visible=torch.rand(len(pairs), 1, *SIZE, generator=generator) < 0.7,
        ),
    )
    network = Network(normal(CLASSES, 6), STRIDES)

    def make(term, **changes) -> TermInput:
        torch.manual_seed(0)
        state = term.state(sizes)
        given = changes.pop("output", output)
        return TermInput(term, given, replace(batch, **changes), network, state)

    return make
