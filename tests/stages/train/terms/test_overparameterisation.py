"""The auxiliary module beside the student: its formula, its cells, and what it may learn from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.auxiliary.adaptors import CONVOLUTIONS, DeformableConv, build_adaptor
from stillroom.stages.models.auxiliary.cells import Cell, basic_cells, loose_ends, module_stride
from stillroom.stages.models.task_heads import DepthHead, NormalsHead
from stillroom.stages.train.losses.depth_bins import depth_bins
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import ConfigError

LAYERS = ["penultimate", "stage4"]  # at strides 4 and 8, of 6 and 7 channels


def make(**section):
    term = {"name": "overparameterisation", "layers": LAYERS, "channels": 5, **section}
    return TypeAdapter(TermConfig).validate_python(term)


def cell(first, second, adaptors=("conv1x1", "conv3x3"), aggregator="sum"):
    return {"inputs": [first, second], "adaptors": list(adaptors), "aggregator": aggregator}


def normalised(x):
    """As batch normalisation in training, at its beginning."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def twice(x, rows, columns):
    return F.interpolate(x, scale_factor=2, mode="bilinear")[:, :, :rows, :columns]


@pytest.mark.parametrize("aggregator", ["concatenation", "sum"])
def test_the_basic_module_is_the_formula(aggregator, make_input):
    """h = A(O_1) (.) A(O_2), brought to the finer grid; logits = W h + b; cross entropy of them."""
    term = make(aggregator=aggregator)
    given = make_input(term)
    weights = {name: value.double() for name, value in given.state.named_parameters()}
    adapted = [
        normalised(torch.einsum("oi,bihw->bohw", w[:, :, 0, 0], x.double()))
        for w, x in (
            (
                weights["module.cells.cell1.adaptors.0.0.weight"],
                given.output.features["penultimate"],
            ),
            (weights["module.cells.cell1.adaptors.1.0.weight"], given.output.features["stage4"]),
        )
    ]
    adapted[1] = twice(adapted[1], 4, 6)  # (16, 22) pixels at stride 4
    joined = adapted[0] + adapted[1] if aggregator == "sum" else torch.cat(adapted, 1)
    head = weights["module.head.weight"][:, :, 0, 0]
    logits = torch.einsum("oi,bihw->bohw", head, joined)
    logits = logits + weights["module.head.bias"][:, None, None]
    pixels = F.interpolate(logits, scale_factor=4, mode="bilinear")[:, :, :16, :22]
    labels = given.batch.labels
    chosen = pixels.log_softmax(1).gather(1, labels.clamp(max=2)[:, None])[:, 0]
    expected = -chosen[labels != 255].mean()
    value = term.value(given)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert all(given.output.features[layer].grad.abs().sum() > 0 for layer in LAYERS)
    assert all(p.grad.abs().sum() > 0 for n, p in given.state.named_parameters() if "head" in n)


def test_the_basic_module_is_a_chain_of_cells():
    one, two, three = basic_cells(["a", "b", "c", "d"], "conv3x3", "sum")
    assert (one.inputs, one.adaptors) == (("a", "b"), ("conv3x3", "conv3x3"))
    assert (two.inputs, two.adaptors) == (("cell1", "c"), ("skip", "conv3x3"))
    assert (three.inputs, three.aggregator) == (("cell2", "d"), "sum")
    assert loose_ends([one, two, three]) == ["cell3"]
    assert module_stride({"a": 4, "b": 8, "c": 16, "d": 32}, [one, two, three]) == 4


def test_cells_that_nothing_reads_are_read_by_the_head(make_input):
    cells = [
        cell("stage4", "stage4", aggregator="concatenation"),
        cell("penultimate", "stage4", ("skip", "deformable3x3")),
        cell("cell1", "stage4", ("skip", "separable3x3_dilated6"), "concatenation"),
    ]
    term = make(cells=cells)
    assert loose_ends(term.plan) == ["cell2", "cell3"]
    given = make_input(term)
    assert given.stride == 4
    # 5 of a sum, and 10 that are kept as they are beside 5 of a concatenation
    assert given.state.module.head.weight.shape == (3, 5 + 10 + 5, 1, 1)
    term.value(given).backward()
    assert all(p.grad is not None for p in given.state.parameters())
    coarse = make(cells=[cells[0]])
    assert make_input(coarse).stride == 8


@pytest.mark.parametrize("kind", [*CONVOLUTIONS, "skip"])
def test_every_adaptor_keeps_the_grid(kind):
    x = torch.randn(2, 3, 9, 11)
    assert build_adaptor(kind, 3, 5, keeps=False)(x).shape == (2, 5, 9, 11)
    if kind == "skip":
        assert build_adaptor(kind, 3, 5, keeps=True)(x) is x


def test_a_deformable_convolution_is_a_convolution_where_its_taps_are():
    torch.manual_seed(0)
    conv, x = DeformableConv(2, 4), torch.randn(1, 2, 6, 7)
    weight = conv.mix.weight.view(4, 9, 2).movedim(1, 2).reshape(4, 2, 3, 3)
    torch.testing.assert_close(conv(x), F.conv2d(x, weight, padding=1))
    with torch.no_grad():
        conv.offsets.bias[1::2] = 1.0  # one position to the right
    shifted = F.conv2d(F.pad(x, (0, 1))[..., 1:], weight, padding=1)
    torch.testing.assert_close(conv(x)[..., 1:-1], shifted[..., 1:-1])


def test_it_learns_from_logits_on_its_own_grid(make_input):
    term = make(cells=[cell("stage4", "stage4")], learns="logits", teacher="fpn")
    given = make_input(term)
    assert term.reads(labelled=True) == term.reads(labelled=False) == {"fpn/logits"}
    logits = given.state.module({"stage4": given.output.features["stage4"]})
    expected = pixelwise_kl(
        logits, given.batch.artifacts["fpn/logits@8"], mask=given.batch.masks[8]
    )
    assert term.value(given).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("bins", [6, 0])
def test_it_learns_depth_by_the_head_of_the_student(bins, make_input, sizes):
    head = DepthHead(bins=6) if bins else DepthHead(bins=0)
    gives = {"depth": 1, **({"depth_logits": bins} if bins else {})}
    depth = 1 + 4 * torch.rand(2, 1, 16, 22)
    term = make(learns="depth", layers=["stage4"], cells=[cell("stage4", "stage4")])
    assert (term.reads(True), term.reads(False)) == ({"depth"}, frozenset())
    given = make_input(make(), targets={"depth": depth})
    state = term.state(replace(sizes, student={**sizes.student, **gives}))
    given.student.heads = {"depth": head}
    found = term.value(replace(given, term=term, state=state))
    grid = state.module({"stage4": given.output.features["stage4"]})
    outputs = {k: upsample_logits(v, 8, (16, 22)) for k, v in head.outputs(grid).items()}
    if bins:
        centres = head.log_centres()
        expected = depth_bins(outputs["depth_logits"], depth, log_centres=centres)
    else:
        expected = (outputs["depth"].log() - depth.log()).abs().mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert state.module.head.out_channels == (bins or 1)


def test_it_learns_the_normals_that_a_teacher_tells(make_input, sizes):
    term = make(learns="normals", teacher="fpn")
    normals = F.normalize(torch.randn(2, 3, 4, 6), dim=1)
    assert term.reads(True) == term.reads(False) == {"fpn/normals"}
    given = make_input(make(), artifacts={"fpn/normals": normals})
    given.student.heads = {"normals": NormalsHead()}
    state = term.state(replace(sizes, student={**sizes.student, "normals": 3}))
    found = term.value(replace(given, term=term, state=state))
    grid = state.module({layer: given.output.features[layer] for layer in LAYERS})
    cosine = (F.normalize(grid, dim=1) * normals).sum(1)
    assert found.item() == pytest.approx((1 - cosine)[given.mask[:, 0]].mean().item(), rel=1e-5)


def test_a_module_that_cannot_be_built_is_refused(sizes):
    for section, why in (
        ({"layers": ["stage4"]}, "for one layer there is auxiliary_cross_entropy"),
        ({"layers": ["stage4", "stage4"]}, "named twice"),
        ({"cells": [cell("stage4", "stage4")], "adaptor": "conv1x1"}, "cells name their own"),
        ({"cells": [cell("stage4", "cell1")]}, r"cells\.0\.inputs: 'cell1' is none of penultimate"),
        ({"learns": "logits", "teacher": "fpn", "threshold": 0.9}, "and it learns logits"),
        ({"cells": [cell("stage4", "stage4", ("conv5x5", "skip"))]}, "conv5x5|conv1x1"),
    ):
        with pytest.raises(ValidationError, match=why):
            make(**section)
    with pytest.raises(ConfigError, match="layers names stage2, and this student has logits"):
        make(layers=["stage2", "stage4"]).state(sizes)
    with pytest.raises(ConfigError, match="it learns depth, and the student has no head of it"):
        make(learns="depth").state(sizes)
    with pytest.raises(ConfigError, match="stride 4 and 6, which do not fit"):
        module_stride({"a": 4, "b": 6}, [Cell.model_validate(cell("a", "b"))])
