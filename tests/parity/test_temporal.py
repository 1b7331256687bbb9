"""temporal against the formula, in float64, cell by cell: softmax, four neighbours, V and masks."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.temporal import Correspondence, temporal
from stillroom.storage_specs.errors import ArtifactError, ConfigError

BATCH, CLASSES, HEIGHT, WIDTH = 2, 4, 5, 6
both = pytest.mark.parametrize("variant", ["paper", "released"])


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def neighbours(x, y):
    """(row, column, share) of the four cells around a point, each clamped to the grid."""
    left, top = math.floor(x), math.floor(y)
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            yield min(max(row, 0), HEIGHT - 1), min(max(column, 0), WIDTH - 1), down * across


def reference(s, variant):
    total, counted = 0.0, 0
    for b, y, x in np.ndindex(BATCH, HEIGHT, WIDTH):
        at_x, at_y = x + s.flow[b, 0, y, x], y + s.flow[b, 1, y, x]
        if not s.mask[b, 0, y, x] or not (math.isfinite(at_x) and math.isfinite(at_y)):
            continue
        inside = 0 <= at_x <= WIDTH - 1 and 0 <= at_y <= HEIGHT - 1
        if variant == "paper" and not inside:
            continue
        around = [(r, c, share) for r, c, share in neighbours(at_x, at_y) if share > 0]
        if not all(s.shown[b, 0, r, c] for r, c, _ in around):
            continue
        counted += 1
        v = float(s.weight[b, 0, y, x])
        if variant == "paper":
            now = softmax(s.now[b, :, y, x])
            then = [0.0] * CLASSES
            for r, c, share in around:
                for k, q in enumerate(softmax(s.later[b, :, r, c])):
                    then[k] += share * q
            total += v * sum((one - other) ** 2 for one, other in zip(now, then, strict=True))
        else:
            for k in range(CLASSES):
                then = sum(share * s.later[b, k, r, c] for r, c, share in around)
                total += v**2 * (s.now[b, k, y, x] - then) ** 2 / CLASSES
    return total / counted, counted


@pytest.fixture
def sample():
    rng = np.random.default_rng(5)
    shape = (BATCH, CLASSES, HEIGHT, WIDTH)
    cells = (BATCH, 1, HEIGHT, WIDTH)
    return SimpleNamespace(
        now=rng.normal(0, 2, shape),
        later=rng.normal(0, 3, shape),
        flow=rng.uniform(-1.8, 1.8, (BATCH, 2, HEIGHT, WIDTH)),
        weight=rng.random(cells),
        mask=rng.random(cells) < 0.85,
        shown=rng.random(cells) < 0.95,
    )


def tensors(s):
    return SimpleNamespace(**{name: torch.from_numpy(part) for name, part in vars(s).items()})


def found(s, variant="paper", **changes):
    t = SimpleNamespace(**{**vars(tensors(s)), **changes})
    match = Correspondence(t.flow, t.weight, t.shown)
    return temporal(t.now, t.later, match, variant=variant, mask=t.mask)


@both
def test_it_is_the_formula(sample, variant):
    expected, counted = reference(sample, variant)
    assert 15 < counted < BATCH * HEIGHT * WIDTH - 10
    assert found(sample, variant).item() == pytest.approx(expected, rel=1e-10)


def test_the_two_variants_count_different_cells(sample):
    assert reference(sample, "released")[1] > reference(sample, "paper")[1] + 5


@both
def test_without_weight_and_masks_every_cell_counts_alike(sample, variant):
    for name in ("weight", "mask", "shown"):
        setattr(sample, name, np.ones_like(sample.weight, dtype=bool))
    expected, _ = reference(sample, variant)
    plain = {"weight": None, "mask": None, "shown": None}
    assert found(sample, variant, **plain).item() == pytest.approx(expected, rel=1e-10)
    assert found(sample, variant).item() == pytest.approx(expected, rel=1e-10)


@both
def test_an_occlusion_mask_is_a_weight_of_nothing_or_one(sample, variant):
    visible = sample.weight > 0.5
    expected, counted = reference(SimpleNamespace(**{**vars(sample), "weight": visible}), variant)
    value = found(sample, variant, weight=torch.from_numpy(visible))
    assert value.item() == pytest.approx(expected, rel=1e-10)
    hidden = SimpleNamespace(**{**vars(sample), "mask": sample.mask & visible, "weight": visible})
    alone, fewer = reference(hidden, variant)
    assert alone * fewer == pytest.approx(expected * counted)  # the same sum, over fewer cells
    assert found(hidden, variant).item() == pytest.approx(alone, rel=1e-10)


@both
def test_the_gradient_is_that_of_the_value_for_both_frames(sample, variant):
    t = tensors(sample)

    def loss(now, later):
        return temporal(
            now, later, Correspondence(t.flow, t.weight, t.shown), variant=variant, mask=t.mask
        )

    assert torch.autograd.gradcheck(loss, (t.now.requires_grad_(), t.later.requires_grad_()))


@both
def test_what_is_carried_along_costs_nothing(sample, variant):
    t = tensors(sample)
    still = Correspondence(torch.zeros_like(t.flow))
    assert temporal(t.now, t.now, still, variant=variant).item() == pytest.approx(0, abs=1e-20)
    shifted = torch.roll(t.now, (1, 2), dims=(2, 3))  # down by 1, to the right by 2
    flow = torch.tensor([2.0, 1.0], dtype=torch.float64).view(1, 2, 1, 1).expand_as(t.flow)
    inside = torch.zeros_like(t.mask)
    inside[:, :, : HEIGHT - 1, : WIDTH - 2] = True
    value = temporal(t.now, shifted, Correspondence(flow), variant=variant, mask=inside)
    assert value.item() == pytest.approx(0, abs=1e-20)
    assert temporal(t.now, shifted, still, variant=variant) > 0.1


def test_in_the_papers_variant_a_target_outside_does_not_count_and_needs_no_mask(sample):
    t = tensors(sample)
    shifted = torch.roll(t.now, 2, dims=3)
    flow = torch.zeros_like(t.flow)
    flow[:, 0] = 2
    assert temporal(t.now, shifted, Correspondence(flow)).item() == pytest.approx(0, abs=1e-20)
    assert temporal(t.now, shifted, Correspondence(flow), variant="released") > 0.1


def test_certain_and_opposite_predictions_cost_two(sample):
    t = tensors(sample)
    now, later = torch.full_like(t.now, -50), torch.full_like(t.now, -50)
    now[:, 0], later[:, 1] = 50, 50
    still = torch.zeros_like(t.flow)
    assert temporal(now, later, Correspondence(still)).item() == pytest.approx(2)
    half = Correspondence(still, torch.full_like(t.weight, 0.5))
    assert temporal(now, later, half).item() == pytest.approx(1)  # V, and not V squared
    # two classes of four are 100 apart: 2 * 100^2 / 4, times V^2
    assert temporal(now, later, half, variant="released").item() == pytest.approx(1250)


@both
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_what_does_not_count_reaches_neither_value_nor_gradient(sample, variant, rubbish):
    def value_and_gradients(spoilt):
        t = tensors(sample)
        if spoilt:
            t.now = t.now.masked_fill(~t.mask, rubbish)
            t.later = t.later.masked_fill(~t.shown, rubbish)
            t.flow = t.flow.masked_fill(~t.mask, rubbish)
            t.weight = t.weight.masked_fill(~t.mask, rubbish)
        now, later = t.now.requires_grad_(), t.later.requires_grad_()
        value = temporal(
            now, later, Correspondence(t.flow, t.weight, t.shown), variant=variant, mask=t.mask
        )
        value.backward()
        return value, now.grad, later.grad, t

    value, *gradients, t = value_and_gradients(spoilt=False)
    spoilt_value, *spoilt, _ = value_and_gradients(spoilt=True)
    assert spoilt_value.equal(value)
    assert all(one.equal(other) for one, other in zip(gradients, spoilt, strict=True))
    assert gradients[0][(~t.mask).expand_as(t.now)].eq(0).all()
    assert gradients[1][(~t.shown).expand_as(t.now)].eq(0).all()


@both
def test_a_flow_that_is_not_finite_does_not_count(sample, variant):
    sample.flow[0, 0, 2, 2], sample.flow[1, 1, 3, 3] = math.nan, math.inf
    sample.mask[0, 0, 2, 2] = sample.mask[1, 0, 3, 3] = True
    expected, _ = reference(sample, variant)
    t = tensors(sample)
    now = t.now.requires_grad_()
    value = found(sample, variant, now=now)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-10)
    assert now.grad.isfinite().all()
    assert now.grad[0, :, 2, 2].eq(0).all()


@both
@pytest.mark.parametrize("hidden", ["mask", "shown"])
def test_nothing_counted_gives_zero_that_can_be_differentiated(sample, variant, hidden):
    t = tensors(sample)
    now, later = t.now.requires_grad_(), t.later.requires_grad_()
    nothing = {hidden: torch.zeros_like(t.mask)}
    value = found(sample, variant, now=now, later=later, **nothing)
    value.backward()
    assert value.item() == 0
    assert now.grad.eq(0).all()
    assert later.grad.eq(0).all()


def test_no_gradient_reaches_the_flow_or_the_weight(sample):
    t = tensors(sample)
    flow, weight = t.flow.requires_grad_(), t.weight.requires_grad_()
    found(sample, now=t.now.requires_grad_(), flow=flow, weight=weight).backward()
    assert flow.grad is None
    assert weight.grad is None


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(sample, variant, dtype):
    t = tensors(sample)
    now, later = t.now.to(dtype), t.later.to(dtype)
    match = Correspondence(t.flow.float(), t.weight.float(), t.shown)
    expected = temporal(now.float(), later.float(), match, variant=variant, mask=t.mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = temporal(now, later, match, variant=variant, mask=t.mask)
    assert value.dtype == torch.float32
    assert value.equal(expected)


@both
def test_the_order_of_classes_and_frames_does_not_matter(sample, variant):
    t = tensors(sample)
    classes, frames = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 0])
    value = temporal(
        t.now[frames][:, classes],
        t.later[frames][:, classes],
        Correspondence(t.flow[frames], t.weight[frames], t.shown[frames]),
        variant=variant,
        mask=t.mask[frames],
    )
    assert value.item() == pytest.approx(found(sample, variant).item(), rel=1e-12)


def test_a_constant_added_to_a_cells_logits_matters_to_the_released_code_alone(sample):
    t = tensors(sample)
    more = t.now + 10 * torch.rand(BATCH, 1, HEIGHT, WIDTH, dtype=torch.float64)
    assert found(sample, now=more).item() == pytest.approx(found(sample).item())
    assert found(sample, "released", now=more) > 2 * found(sample, "released")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"later": torch.zeros(2, 3, 5, 6)}, r"at t is \(2, 4, 5, 6\).*t\+k \(2, 3, 5, 6\)"),
        ({"flow": torch.zeros(2, 2, 10, 12)}, r"flow must be \(2, 2, 5, 6\).*\(2, 2, 10, 12\)"),
        ({"flow": torch.zeros(2, 2, 5, 6).int()}, "floating.*int32"),
        ({"weight": torch.zeros(2, 5, 6)}, r"weight must be \(2, 1, 5, 6\), got \(2, 5, 6\)"),
        ({"mask": torch.zeros(2, 1, 5, 6)}, r"mask must be \(2, 1, 5, 6\) torch.bool.*float32"),
        ({"shown": torch.ones(1, 1, 5, 6) > 0}, r"shown must be \(2, 1, 5, 6\).*\(1, 1, 5, 6\)"),
    ],
)
def test_what_does_not_fit_is_refused_naming_both(sample, changes, message):
    with pytest.raises(ArtifactError, match=message):
        found(sample, **changes)


def test_a_variant_that_is_none_is_refused(sample):
    with pytest.raises(ConfigError, match="'paper' or 'released', got 'code'"):
        found(sample, "code")
