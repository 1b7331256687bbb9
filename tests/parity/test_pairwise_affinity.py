"""pairwise_affinity against the formula, in float64, node by node and pair by pair.

Axes: patches that tile the grid and patches that do not, both ways to pool, reach, masks, unequal
channels, rows at once.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph, pairwise_affinity
from stillroom.storage_specs.errors import ConfigError


def cosine(a, b):
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths else 0.0


def nodes_of(features, frame, mask, graph):
    """(row, column) of each node that counts -> its pooled features."""
    _, channels, height, width = features.shape
    found = {}
    for row in range(math.ceil(height / graph.patch)):
        for column in range(math.ceil(width / graph.patch)):
            cells = [
                (y, x)
                for y in range(row * graph.patch, min(height, (row + 1) * graph.patch))
                for x in range(column * graph.patch, min(width, (column + 1) * graph.patch))
                if mask[frame, 0, y, x]
            ]
            if cells:
                pooled = [[features[frame, c, y, x] for y, x in cells] for c in range(channels)]
                found[row, column] = [
                    max(values) if graph.pool == "max" else sum(values) / len(values)
                    for values in pooled
                ]
    return found


def reference(student, teacher, graph, mask):
    total, counted = 0.0, 0
    for b in range(student.shape[0]):
        one, other = (nodes_of(part, b, mask, graph) for part in (student, teacher))
        for i in one:
            for j in one:
                distance = max(abs(i[0] - j[0]), abs(i[1] - j[1]))
                if graph.reach is None or distance <= graph.reach:
                    total += (cosine(one[i], one[j]) - cosine(other[i], other[j])) ** 2
                    counted += 1
    return total / counted


@pytest.fixture
def sample():
    rng = np.random.default_rng(17)
    mask = rng.random((2, 1, 5, 7)) < 0.6
    mask[0, 0, :2, :2] = False  # a node of which nothing counts
    return rng.normal(0, 3, (2, 5, 5, 7)), rng.normal(1, 4, (2, 8, 5, 7)), mask


def tensors(sample):
    return tuple(torch.from_numpy(part) for part in sample)


@pytest.mark.parametrize("patch", [1, 2, 3, 9])
@pytest.mark.parametrize("reach", [None, 1, 2, 5])
@pytest.mark.parametrize("pool", ["average", "max"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula_whatever_the_channel_counts(sample, patch, reach, pool, masked):
    student, teacher, mask = sample
    if not masked:
        mask = np.ones_like(mask)
    graph = AffinityGraph(patch=patch, reach=reach, pool=pool)
    found = pairwise_affinity(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        graphs=[graph],
        mask=torch.from_numpy(mask) if masked else None,
    )
    expected = reference(student, teacher, graph, mask)
    assert found.item() == pytest.approx(expected, rel=1e-12, abs=1e-30)


def test_it_compares_all_averages_of_2_by_2_unless_told_otherwise(sample):
    student, teacher, mask = sample
    graph = AffinityGraph(patch=2, reach=None, pool="average")
    found = pairwise_affinity(*tensors(sample)[:2], mask=torch.from_numpy(mask))
    assert found.item() == pytest.approx(reference(student, teacher, graph, mask), rel=1e-12)


def test_several_graphs_weigh_the_same(sample):
    student, teacher, mask = tensors(sample)
    graphs = [AffinityGraph(1), AffinityGraph(2, reach=1), AffinityGraph(3, pool="max")]
    alone = [pairwise_affinity(student, teacher, graphs=[g], mask=mask).item() for g in graphs]
    found = pairwise_affinity(student, teacher, graphs=graphs, mask=mask).item()
    assert len(set(alone)) == 3
    assert found == pytest.approx(sum(alone) / 3, rel=1e-12)


def test_a_reach_over_the_whole_map_is_no_reach(sample):
    student, teacher, mask = tensors(sample)
    whole = pairwise_affinity(student, teacher, graphs=[AffinityGraph(1)], mask=mask)
    for reach in (6, 1000):
        far = [AffinityGraph(1, reach=reach)]
        assert pairwise_affinity(student, teacher, graphs=far, mask=mask).equal(whole)


@pytest.fixture
def few_rows_at_once(monkeypatch):
    module = sys.modules[AffinityGraph.__module__]
    monkeypatch.setattr(module, "_AT_ONCE", 2 * 35 * 4)  # 4 of 35 rows; the last block has 3


@pytest.mark.parametrize("masked", [False, True])
def test_a_few_rows_at_once_make_the_same_value_and_gradient(sample, masked, request):
    student, teacher, mask = tensors(sample)

    def value_and_gradient():
        leaf = student.clone().requires_grad_()
        graphs = [AffinityGraph(1)]
        value = pairwise_affinity(leaf, teacher, graphs=graphs, mask=mask if masked else None)
        value.backward()
        return value.detach(), leaf.grad

    whole = value_and_gradient()
    request.getfixturevalue("few_rows_at_once")
    torch.testing.assert_close(value_and_gradient(), whole, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("few_rows_at_once")
def test_rows_are_computed_in_float32_under_autocast_too(sample):
    student, teacher, mask = (
        part.float() if part.is_floating_point() else part for part in tensors(sample)
    )
    leaf = student.requires_grad_()
    graphs = [AffinityGraph(1)]
    expected = torch.autograd.grad(pairwise_affinity(leaf, teacher, graphs=graphs, mask=mask), leaf)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pairwise_affinity(leaf, teacher, graphs=graphs, mask=mask)
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, leaf)[0].equal(expected[0])


@pytest.mark.usefixtures("few_rows_at_once")
def test_rows_that_are_computed_twice_can_be_differentiated_more_than_once(sample):
    student, teacher, mask = tensors(sample)
    leaf = student.requires_grad_()
    loss = pairwise_affinity(leaf, teacher, graphs=[AffinityGraph(1)], mask=mask)
    (first,) = torch.autograd.grad(3 * loss, leaf, retain_graph=True)  # as a gradient's own norm
    (second,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(first, 3 * second)
    assert second.abs().sum() > 0


def largest_kept(student, teacher, graph):
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        pairwise_affinity(student, teacher, graphs=[graph])
    return max(sizes)


def test_what_is_kept_for_the_way_back_does_not_grow_with_the_square_of_nodes(
    sample, few_rows_at_once, monkeypatch
):
    student, teacher, _ = tensors(sample)
    student = student.requires_grad_()
    features, all_pairs = 2 * 8 * 35, 2 * 35 * 35
    assert largest_kept(student, teacher, AffinityGraph(1)) <= features < all_pairs
    assert largest_kept(student, teacher, AffinityGraph(1, reach=2)) <= features
    monkeypatch.undo()
    assert largest_kept(student, teacher, AffinityGraph(1)) == all_pairs  # small: kept


@pytest.mark.parametrize("pool", ["average", "max"])
def test_mirroring_both_changes_nothing_where_patches_tile_the_map(sample, pool):
    student, teacher, mask = (part[:, :, :4, :6] for part in tensors(sample))
    graphs = [AffinityGraph(2, reach=1, pool=pool)]
    expected = pairwise_affinity(student, teacher, graphs=graphs, mask=mask).item()
    for dims in ((2,), (3,), (2, 3)):
        flipped = (part.flip(dims) for part in (student, teacher))
        found = pairwise_affinity(*flipped, graphs=graphs, mask=mask.flip(dims)).item()
        assert found == pytest.approx(expected, rel=1e-12)


def test_where_nodes_lie_does_not_matter_when_all_are_compared(sample):
    student, teacher, mask = tensors(sample)
    order = torch.randperm(35)
    shuffled = (
        part.flatten(2)[..., order].unflatten(2, (5, 7)) for part in (student, teacher, mask)
    )
    one, other, counted = shuffled
    graphs = [AffinityGraph(1)]
    expected = pairwise_affinity(student, teacher, graphs=graphs, mask=mask).item()
    found = pairwise_affinity(one, other, graphs=graphs, mask=counted).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_size_and_rotation_of_features_do_not_matter(sample):
    student, teacher, mask = tensors(sample)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    turned = torch.einsum("ac,bchw->bahw", rotation, teacher)
    expected = pairwise_affinity(student, teacher, mask=mask).item()
    found = pairwise_affinity(5 * student, turned / 3, mask=mask).item()
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reach", [None, 1])
def test_nodes_that_are_zero_are_like_no_other_and_stay_finite(reach):
    student = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    student[..., 1, 1] = 0
    student = student.requires_grad_()
    teacher = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    graph = AffinityGraph(1, reach=reach)
    loss = pairwise_affinity(student, teacher, graphs=[graph])
    loss.backward()
    mask = np.ones((1, 1, 4, 4), dtype=bool)
    expected = reference(student.detach().numpy(), teacher.numpy(), graph, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"patch": 0}, "patch must be 1 or more cells a side, got 0"),
        ({"reach": 0}, "reach must be 1 or more nodes, got 0"),
        ({"pool": "median"}, "pool must be 'average' or 'max', got 'median'"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(fault, message):
    with pytest.raises(ConfigError, match=message):
        AffinityGraph(**fault)


def test_no_graph_at_all_is_refused(sample):
    with pytest.raises(ConfigError, match="at least one graph"):
        pairwise_affinity(*tensors(sample)[:2], graphs=[])
