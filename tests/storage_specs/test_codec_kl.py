"""Codec kl: its two divergences stay within the budget, its values within the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stillroom.storage_specs.codecs.kl import KL
from stillroom.storage_specs.codecs.kl_kernels import SPAN, _exp, divergences
from stillroom.storage_specs.codecs.prediction import differences_of
from stillroom.storage_specs.errors import ArtifactError
from stillroom.storage_specs.fidelity import pixel_kl, spatial_kl

PREDICTORS = ("above", "median")


def round_trip(codec: KL, x: np.ndarray) -> np.ndarray:
    encoded = codec.encode(x)
    assert encoded.values.shape == x.shape
    assert encoded.values.dtype == np.dtype(codec.stored)
    assert {k: v.shape for k, v in encoded.side.items()} == codec.side_shapes(x.shape)
    return codec.decode(encoded.values, encoded.side)


def teacher_like(classes: int, confidence: float) -> np.ndarray:
    """Smooth logits with edges, (classes, 40, 56)."""
    rng = np.random.default_rng(3)
    coarse = rng.normal(0, confidence, (classes, 5, 7))
    return np.kron(coarse, np.ones((8, 8))).astype(np.float32) + rng.normal(
        0, 0.3, (classes, 40, 56)
    ).astype(np.float32)


@given(
    x=arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.floats(-80, 80, width=32),
    ),
    budget=st.sampled_from([1e-6, 5e-5, 2e-4, 1e-2]),
    predict=st.sampled_from(PREDICTORS),
)
def test_budget_and_bound_hold_for_any_logits(x: np.ndarray, budget: float, predict: str) -> None:
    codec = KL(budget, predict)
    kept = round_trip(codec, x)
    assert (np.abs(kept.astype(np.float64) - x) <= codec.bound(x)).all()
    assert pixel_kl(x, kept) <= budget * 1.01 + 1e-12
    assert spatial_kl(x, kept) <= budget * 1.01 + 1e-12


@given(
    x=arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=4),
        elements=st.floats(float(np.float32(-1e38)), float(np.float32(1e38)), width=32),
    ),
    predict=st.sampled_from(PREDICTORS),
)
def test_extremes_are_kept_within_the_bound_or_refused(x: np.ndarray, predict: str) -> None:
    codec = KL(predict=predict)
    try:
        encoded = codec.encode(x)
    except ArtifactError:
        event("refused")
        return
    kept = codec.decode(encoded.values, encoded.side)
    assert (np.abs(kept.astype(np.float64) - x) <= codec.bound(x)).all()
    assert max(pixel_kl(x, kept), spatial_kl(x, kept)) <= codec.budget * 1.01


def test_what_sixteen_bits_cannot_hold_is_refused() -> None:
    # Three classes that stay close to each other far below their channels' greatest values.
    x = np.linspace(-3000, 0, 64).reshape(1, 8, 8) + np.random.default_rng(0).normal(size=(3, 8, 8))
    x = x.astype(np.float32)
    with pytest.raises(ArtifactError, match=r"cannot keep the budget of 1e-09 nats in 16 bits"):
        KL(1e-9).encode(x)


@pytest.mark.parametrize("predict", PREDICTORS)
@pytest.mark.parametrize("confidence", [0.5, 4.0, 12.0])
@pytest.mark.parametrize("classes", [2, 11, 60])
def test_the_budget_is_used_and_not_only_kept(
    classes: int, confidence: float, predict: str
) -> None:
    x = teacher_like(classes, confidence)
    kept = round_trip(KL(1e-4, predict), x)
    assert 0.5e-4 < max(pixel_kl(x, kept), spatial_kl(x, kept)) <= 1e-4


def test_a_larger_budget_takes_coarser_steps() -> None:
    x = teacher_like(7, 5.0)
    fine, coarse = (KL(budget).encode(x).side["step"] for budget in (1e-5, 1e-3))
    assert (coarse > 3 * fine).all()


def test_equal_steps_are_equal_and_others_grow_below_the_top() -> None:
    x = np.linspace(-30, 10, 8 * 40 * 56).reshape(8, 40, 56).astype(np.float32)
    for predict, grow in (("above", False), ("median", True)):
        kept = round_trip(KL(1e-3, predict), x)
        gaps = np.diff(np.unique(kept[0]))
        assert (gaps.max() > 1.2 * gaps.min()) == grow


def test_an_absent_class_costs_little_and_is_still_whole() -> None:
    x = teacher_like(4, 5.0)
    x[2] -= 40
    step = KL().encode(x).side["step"]
    assert step[2] > 1.5 * step[[0, 1, 3]].max()
    assert np.abs(round_trip(KL(), x)[2] - x[2]).max() < 1


@pytest.mark.parametrize("predict", PREDICTORS)
def test_constant_and_equal_channels_are_kept(predict: str) -> None:
    x = np.zeros((3, 4, 5), np.float32)
    x[1] = -7.25
    np.testing.assert_array_equal(round_trip(KL(predict=predict), x), x)


@pytest.mark.parametrize("last", [np.inf, np.nan, -3.0, 1e9])
def test_damaged_side_arrays_never_read_past_the_table(last: float) -> None:
    encoded = KL().encode(teacher_like(3, 4.0))
    side = {**encoded.side, "last": np.full(3, last, np.float32)}
    with np.errstate(all="ignore"):
        assert KL().decode(encoded.values, side).shape == encoded.values.shape


def test_only_maps_with_channels_are_taken() -> None:
    with pytest.raises(ArtifactError, match=r"\(channel, row, column\), got shape \(4, 5\)"):
        KL().encode(np.zeros((4, 5), np.float32))


def test_divergences_are_those_of_their_formulas() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(0, 3, (2, 4, 3, 5))
    pixel = spatial = 0.0
    for i in range(3):
        for j in range(5):
            p, q = (np.exp(z[:, i, j]) / np.exp(z[:, i, j]).sum() for z in (x, y))
            pixel += (p * np.log(p / q)).sum() / 15
    for c in range(4):
        p, q = (np.exp(z[c] / 4) / np.exp(z[c] / 4).sum() for z in (x, y))
        spatial += (p * np.log(p / q)).sum() / 4
    assert pixel_kl(x, y) == pytest.approx(pixel, rel=1e-12)
    assert spatial_kl(x, y) == pytest.approx(spatial, rel=1e-12)
    assert pixel_kl(x, x) == spatial_kl(x, x) == 0
    # A constant added to a pixel is seen by channels alone, one added to a channel by pixels alone.
    assert pixel_kl(x, x + rng.normal(size=(1, 3, 5))) < 1e-12
    assert spatial_kl(x, x + rng.normal(size=(4, 1, 1))) < 1e-12


def by_formula(codec: KL, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Steps (C, h, w), their sizes (C,), and how often sizes were tried: as `kl` has it, in NumPy.

    What a step^2 costs in nats is weight / 24; of the sizes for which both divergences cost the
    budget at most, those with the greatest product are the cheapest in bits.
    """
    channels, top = len(x), x.max(axis=(1, 2))
    below = top[:, None, None].astype(np.float64) - x
    widening, knee = np.ones_like(below), np.inf
    if codec.predict == "median":
        widening, knee = (1 + below / 4) ** 2, 4.0
        below = np.log1p(below / 4) * 4
    of_class = np.exp(x.astype(np.float64) - x.max(axis=0))
    of_class /= of_class.sum(axis=0)
    of_place = np.exp((x.astype(np.float64) - top[:, None, None]) / 4)
    of_place /= of_place.sum(axis=(1, 2), keepdims=True)
    pixel = (of_class * (1 - of_class) * widening).mean(axis=(1, 2)) / 24
    spatial = (of_place * widening).sum(axis=(1, 2)) / (24 * 16 * channels)
    squares = 1 / (pixel + np.geomspace(1e-6, 1e6, 49)[:, None] * spatial)
    spent = np.maximum((squares * pixel).sum(axis=1), (squares * spatial).sum(axis=1))
    squares *= 0.98 * codec.budget / spent[:, None]
    size = np.sqrt(squares[np.log(squares).sum(axis=1).argmax()])
    finest = np.maximum(below.max(axis=(1, 2)) / 65535, 1e-30)
    for attempt in range(1, 7):
        size = np.maximum(size, finest).astype(np.float32)
        steps = np.minimum(np.rint(below / size[:, None, None]), 65535)
        depth = steps.astype(np.float32) * size[:, None, None]
        if np.isfinite(knee):
            depth = np.float32(knee) * np.expm1(depth / np.float32(knee))
        kept = top[:, None, None] - depth
        spent = max(pixel_kl(x, kept), spatial_kl(x, kept))
        if spent <= codec.budget:
            return steps.astype(np.uint16), size, attempt
        size = size * np.sqrt(codec.budget / spent) * 0.98
    raise AssertionError(spent)


def with_a_far_class(classes: int, span: float) -> np.ndarray:
    x = teacher_like(classes, 4.0)
    x[0, :20] -= np.float32(span)
    return x


@pytest.mark.parametrize("predict", PREDICTORS)
@pytest.mark.parametrize(
    ("x", "budget", "attempts"),
    [
        (teacher_like(2, 0.5), 5e-5, 1),
        (teacher_like(11, 4.0), 5e-5, 1),
        (teacher_like(60, 12.0), 2e-4, 1),
        (teacher_like(2, 0.5)[:, :2, :3], 1e-2, 2),  # few cells: rounding is no noise there
        (teacher_like(11, 4.0).transpose(0, 2, 1), 1e-6, 1),
        (with_a_far_class(7, SPAN - 100), 5e-5, 1),
        (with_a_far_class(7, 5 * SPAN), 5e-5, 1),
    ],
    ids=["2", "11", "60", "few", "transposed", "span", "beyond"],
)
def test_steps_are_those_of_the_formula_to_the_last_bit(
    x: np.ndarray, budget: float, attempts: int, predict: str
) -> None:
    codec = KL(budget, predict)
    steps, size, tried = by_formula(codec, x)
    encoded = codec.encode(x)
    np.testing.assert_array_equal(encoded.side["step"], size)
    np.testing.assert_array_equal(encoded.values, differences_of(steps, predict))
    assert tried >= attempts


@given(
    x=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=70),
        elements=st.floats(-SPAN / 2, SPAN / 2 - 10, width=32),
    ),
    error=st.floats(0, 10, width=32),
)
def test_compiled_divergences_are_those_of_the_measures(x: np.ndarray, error: float) -> None:
    kept = x - np.float32(error) * np.random.default_rng(0).random(x.shape, np.float32)
    greatest = float(max(x.max(), kept.max()))
    found = divergences(x, kept, greatest)
    assert found[0] == pytest.approx(pixel_kl(x, kept), rel=1e-9, abs=1e-12)
    assert found[1] == pytest.approx(spatial_kl(x, kept), rel=1e-9, abs=1e-12)


def test_the_exponential_is_right_to_its_last_bits() -> None:
    for x in np.linspace(-700, 700, 10001):
        assert _exp(x) == pytest.approx(np.exp(x), rel=8e-16)
    assert _exp(0.0) == 1.0
