"""The two bounds of FAKD against their formulas in float64 loops, and against sampled features.

What the formulas bound is simulated too: features are drawn around the student's, classified, and
compared with the teacher; the mean over many draws may not exceed the bound.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stillroom.stages.train.loss_parts.augmentation import Augmentation
from stillroom.stages.train.losses.augmented_channelwise import augmented_channelwise
from stillroom.stages.train.losses.augmented_pixelwise import augmented_pixelwise
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.storage_specs.errors import ArtifactError, ConfigError

BATCH, CLASSES, CHANNELS, HEIGHT, WIDTH = 2, 4, 6, 3, 5


def softmax(values):
    top = max(values)
    exponentials = [math.exp(value - top) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def reference_pixelwise(s, temperature=1.0, covariance_of="label", masked=False):
    total, counted = 0.0, 0
    for b, i, j in np.ndindex(BATCH, HEIGHT, WIDTH):
        if masked and not s.mask[b, 0, i, j]:
            continue
        z, y = s.student[b, :, i, j], s.labels[b, i, j]
        p = softmax(s.teacher[b, :, i, j] / temperature)
        for c in range(CLASSES):
            exponents = []
            for k in range(CLASSES):
                spread = 0.0
                whose = c if covariance_of == "target" else y
                if whose != 255:
                    for a in range(CHANNELS):
                        spread += (s.weight[k, a] - s.weight[c, a]) ** 2 * s.variance[whose, a]
                exponents.append(
                    (z[k] - z[c]) / temperature + s.strength / (2 * temperature**2) * spread
                )
            total += p[c] * (math.log(p[c]) + log_sum_exp(exponents))
        counted += 1
    return temperature**2 * total / counted


def reference_channelwise(s, temperature=4.0, power=1, masked=False):
    frames = []
    for b in range(BATCH):
        places = [(i, j) for i, j in np.ndindex(HEIGHT, WIDTH) if not masked or s.mask[b, 0, i, j]]
        total = 0.0
        for c in range(CLASSES):
            p = softmax([s.teacher[b, c, i, j] / temperature for i, j in places])
            variances = []
            for i, j in places:
                y = s.labels[b, i, j]
                variances.append(
                    0.0
                    if y == 255
                    else sum(s.weight[c, a] ** 2 * s.variance[y, a] for a in range(CHANNELS))
                )
            for own, (i, j) in enumerate(places):
                exponents = [
                    (s.student[b, c, m, n] - s.student[b, c, i, j]) / temperature
                    + s.strength * (variances[own] + variances[other]) / (2 * temperature**power)
                    for other, (m, n) in enumerate(places)
                ]
                total += p[own] * (math.log(p[own]) + log_sum_exp(exponents))
        frames.append(temperature**2 * total / CLASSES)
    return sum(frames) / BATCH


@pytest.fixture
def sample():
    rng = np.random.default_rng(11)
    features = rng.normal(0, 1, (BATCH, CHANNELS, HEIGHT, WIDTH))
    weight, bias = rng.normal(0, 1, (CLASSES, CHANNELS)), rng.normal(0, 1, CLASSES)
    labels = rng.integers(0, CLASSES - 1, (BATCH, HEIGHT, WIDTH))  # one class is nowhere
    labels[rng.random(labels.shape) < 0.2] = 255
    return SimpleNamespace(
        features=features,
        weight=weight,
        bias=bias,
        student=np.einsum("ca,bahw->bchw", weight, features) + bias[:, None, None],
        teacher=rng.normal(0, 2, (BATCH, CLASSES, HEIGHT, WIDTH)),
        variance=rng.gamma(1, 0.3, (CLASSES, CHANNELS)),
        labels=labels,
        mask=rng.random((BATCH, 1, HEIGHT, WIDTH)) < 0.7,
        strength=0.8,
    )


def augmentation(s, **changes):
    made = Augmentation(
        weight=torch.from_numpy(s.weight),
        variance=torch.from_numpy(s.variance),
        labels=torch.from_numpy(s.labels),
        strength=s.strength,
    )
    return replace(made, **changes)


def pair(s):
    return torch.from_numpy(s.student), torch.from_numpy(s.teacher)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("covariance_of", ["label", "target"])
def test_pixelwise_is_the_formula(sample, covariance_of, temperature, masked):
    found = augmented_pixelwise(
        *pair(sample),
        augmentation=augmentation(sample),
        temperature=temperature,
        covariance_of=covariance_of,
        mask=torch.from_numpy(sample.mask) if masked else None,
    )
    expected = reference_pixelwise(sample, temperature, covariance_of, masked)
    assert found.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [4.0, 0.7])
@pytest.mark.parametrize(("over", "power"), [("temperature", 1), ("temperature_squared", 2)])
def test_channelwise_is_the_formula(sample, over, power, temperature, masked):
    found = augmented_channelwise(
        *pair(sample),
        augmentation=augmentation(sample),
        temperature=temperature,
        variance_over=over,
        mask=torch.from_numpy(sample.mask) if masked else None,
    )
    expected = reference_channelwise(sample, temperature, power, masked)
    assert found.item() == pytest.approx(expected, rel=1e-11)


def test_the_defaults_are_the_pixels_own_class_and_the_printed_divisor(sample):
    given = augmentation(sample)
    pixelwise = augmented_pixelwise(*pair(sample), augmentation=given).item()
    assert pixelwise == pytest.approx(reference_pixelwise(sample))
    assert pixelwise != pytest.approx(reference_pixelwise(sample, 1, "target"), rel=0.01)
    channelwise = augmented_channelwise(*pair(sample), augmentation=given).item()
    assert channelwise == pytest.approx(reference_channelwise(sample))
    assert channelwise != pytest.approx(reference_channelwise(sample, 4, 2), rel=0.01)


def test_the_printed_divisor_is_the_derived_one_at_temperature_times_the_strength(sample):
    printed = augmented_channelwise(*pair(sample), augmentation=augmentation(sample), temperature=3)
    derived = augmented_channelwise(
        *pair(sample),
        augmentation=augmentation(sample, strength=3 * sample.strength),
        temperature=3,
        variance_over="temperature_squared",
    )
    assert printed.item() == pytest.approx(derived.item(), rel=1e-12)


BOUNDS = {
    "pixelwise, label": lambda s, t, **more: augmented_pixelwise(s, t, temperature=2, **more),
    "pixelwise, target": lambda s, t, **more: augmented_pixelwise(
        s, t, covariance_of="target", **more
    ),
    "channelwise, printed": augmented_channelwise,
    "channelwise, derived": lambda s, t, **more: augmented_channelwise(
        s, t, variance_over="temperature_squared", **more
    ),
}
every = pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS.keys())


@every
def test_an_equal_student_without_covariance_costs_nothing(bound, sample):
    student = torch.from_numpy(sample.student).requires_grad_()
    for given in (
        augmentation(sample, strength=0.0),
        augmentation(sample, variance=torch.zeros(CLASSES, CHANNELS)),
    ):
        value = bound(student, student.detach(), augmentation=given)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.item() == pytest.approx(0, abs=1e-13)
        assert gradient.abs().max() < 1e-13


def test_at_strength_0_pixelwise_is_pixelwise_kl(sample):
    mask = torch.from_numpy(sample.mask)
    for temperature in (1.0, 3.0):
        found = augmented_pixelwise(
            *pair(sample),
            augmentation=augmentation(sample, strength=0.0),
            temperature=temperature,
            mask=mask,
        )
        expected = pixelwise_kl(*pair(sample), temperature=temperature, mask=mask)
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@every
def test_more_augmentation_costs_more(bound, sample):
    values = [
        bound(*pair(sample), augmentation=augmentation(sample, strength=strength)).item()
        for strength in (0.0, 0.1, 0.5, 1.0, 4.0)
    ]
    assert values == sorted(values)
    assert values[-1] > 1.5 * values[0]


@every
def test_the_gradient_reaches_logits_and_classifier_and_nothing_else(bound, sample):
    student, teacher = (part.requires_grad_() for part in pair(sample))
    given = augmentation(sample)
    given.weight.requires_grad_()
    given.variance.requires_grad_()
    bound(student, teacher, augmentation=given, mask=torch.from_numpy(sample.mask)).backward()
    assert student.grad.abs().max() > 0
    assert given.weight.grad.abs().max() > 0
    assert teacher.grad is None
    assert given.variance.grad is None


@every
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_the_value(bound, sample, masked):
    student, teacher = pair(sample)
    mask = torch.from_numpy(sample.mask) if masked else None

    def value(logits, weight):
        return bound(logits, teacher, augmentation=augmentation(sample, weight=weight), mask=mask)

    leaves = (student.requires_grad_(), torch.from_numpy(sample.weight).requires_grad_())
    assert torch.autograd.gradcheck(value, leaves)


@every
@pytest.mark.parametrize("rubbish", [1e30, float("nan"), float("inf")])
def test_what_is_masked_out_reaches_neither_value_nor_gradient(bound, sample, rubbish):
    mask = torch.from_numpy(sample.mask)

    def run(student, teacher, labels):
        given = augmentation(sample, labels=labels)
        given.weight.requires_grad_().grad = None
        student = student.clone().requires_grad_()
        value = bound(student, teacher, augmentation=given, mask=mask)
        value.backward()
        return value, student.grad, given.weight.grad.clone()

    student, teacher = pair(sample)
    labels = torch.from_numpy(sample.labels)
    expected = run(student, teacher, labels)
    found = run(
        student.masked_fill(~mask, rubbish),
        teacher.masked_fill(~mask, rubbish),
        labels.masked_fill(~mask.squeeze(1), 77),
    )
    for one, other in zip(expected, found, strict=True):
        assert one.equal(other)
    assert found[1][(~mask).expand_as(found[1])].eq(0).all()


@every
def test_nothing_counted_gives_zero_that_can_be_differentiated(bound, sample):
    student, teacher = pair(sample)
    value = bound(
        student.requires_grad_(),
        teacher,
        augmentation=augmentation(sample),
        mask=torch.zeros(BATCH, 1, HEIGHT, WIDTH, dtype=torch.bool),
    )
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


def test_a_frame_of_which_nothing_counts_does_not_dilute_the_others(sample):
    mask = torch.ones(BATCH, 1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[1] = False
    for bound in BOUNDS.values():
        given = augmentation(sample)
        found = bound(*pair(sample), augmentation=given, mask=mask)
        alone = bound(
            *(part[:1] for part in pair(sample)),
            augmentation=replace(given, labels=given.labels[:1]),
        )
        assert found.item() == pytest.approx(alone.item(), rel=1e-12)


@every
def test_the_order_of_classes_and_frames_does_not_matter(bound, sample):
    student, teacher = pair(sample)
    order = torch.tensor([2, 0, 3, 1])
    new_of_old = torch.empty(256, dtype=torch.int64).fill_(255)
    new_of_old[order] = torch.arange(CLASSES)
    given = augmentation(sample)
    moved = Augmentation(
        given.weight[order], given.variance[order], new_of_old[given.labels].flip(0), given.strength
    )
    expected = bound(student, teacher, augmentation=given)
    found = bound(student[:, order].flip(0), teacher[:, order].flip(0), augmentation=moved)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@every
def test_a_direction_added_to_all_classifiers_changes_only_channelwise(bound, sample):
    """Differences of classifiers are what moves a softmax over classes."""
    shift = torch.randn(CHANNELS, dtype=torch.float64)
    given = augmentation(sample)
    before = bound(*pair(sample), augmentation=given).item()
    after = bound(*pair(sample), augmentation=replace(given, weight=given.weight + shift)).item()
    same = after == pytest.approx(before, rel=1e-10)
    assert same == (bound in list(BOUNDS.values())[:2])


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(bound, sample, dtype):
    student, teacher = (part.to(dtype) for part in pair(sample))
    given = augmentation(sample)
    given = replace(given, weight=given.weight.float(), variance=given.variance.float())
    found = bound(student, teacher, augmentation=given)
    assert found.dtype == torch.float32
    assert found.equal(bound(student.float(), teacher.float(), augmentation=given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert found.equal(bound(student.float(), teacher.float(), augmentation=given))


def drawn_features(s, rng, variance_of):
    """Features of every pixel, drawn around the student's with the variances of a class."""
    deviation = np.zeros((BATCH, HEIGHT, WIDTH, CHANNELS))
    known = variance_of != 255
    deviation[known] = np.sqrt(s.strength * s.variance[variance_of[known]])
    noise = rng.normal(size=deviation.shape) * deviation
    return s.features + np.moveaxis(noise, -1, 1)


def sampled(s, loss, draws, variance_of=None):
    """Mean of a loss over augmentations, and its standard error."""
    rng = np.random.default_rng(0)
    variance_of = s.labels if variance_of is None else variance_of
    found = []
    for _ in range(draws):
        features = drawn_features(s, rng, variance_of)
        logits = np.einsum("ca,bahw->bchw", s.weight, features) + s.bias[:, None, None]
        found.append(loss(logits))
    return np.mean(found), np.std(found) / math.sqrt(draws)


def log_softmax(values, axis):
    values = values - values.max(axis=axis, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=axis, keepdims=True))


def pixelwise_of(s, temperature):
    log_p = log_softmax(s.teacher / temperature, 1)

    def loss(logits):
        log_q = log_softmax(logits / temperature, 1)
        return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean()

    return loss


def channelwise_of(s, temperature):
    flat = (BATCH, CLASSES, -1)
    log_p = log_softmax(s.teacher.reshape(flat) / temperature, 2)

    def loss(logits):
        log_q = log_softmax(logits.reshape(flat) / temperature, 2)
        return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(2).mean()

    return loss


@pytest.mark.parametrize("strength", [0.05, 0.8])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_pixelwise_bounds_the_augmented_loss_and_closes_in_on_it(sample, temperature, strength):
    sample.strength = strength
    plain = pixelwise_of(sample, temperature)(sample.student)
    mean, error = sampled(sample, pixelwise_of(sample, temperature), 3000)
    bound = augmented_pixelwise(
        *pair(sample), augmentation=augmentation(sample), temperature=temperature
    ).item()
    assert bound > mean - 3 * error
    assert mean > plain + 3 * error  # the augmentation costs something, so that the test can fail
    if strength < 0.1:
        assert bound < 1.05 * mean


def test_pixelwise_of_targets_bounds_what_is_drawn_from_the_teachers_classes(sample):
    """Each class c in turn takes its part p_c, with augmentations of its own."""
    sample.strength = 0.3
    log_p = log_softmax(sample.teacher, 1)
    mean = errors = 0.0
    for c in range(CLASSES):

        def part(logits, c=c):
            surprise = log_p[:, c] - log_softmax(logits, 1)[:, c]
            return (np.exp(log_p[:, c]) * surprise).mean()

        value, error = sampled(sample, part, 1500, np.full_like(sample.labels, c))
        mean, errors = mean + value, errors + error
    bound = augmented_pixelwise(
        *pair(sample), augmentation=augmentation(sample), covariance_of="target"
    ).item()
    assert mean - 3 * errors < bound < 1.3 * mean


@pytest.mark.parametrize("over", ["temperature", "temperature_squared"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_channelwise_bounds_the_augmented_loss(sample, temperature, over):
    mean, error = sampled(sample, channelwise_of(sample, temperature), 2000)
    plain = channelwise_of(sample, temperature)(sample.student)
    bound = augmented_channelwise(
        *pair(sample),
        augmentation=augmentation(sample),
        temperature=temperature,
        variance_over=over,
    ).item()
    assert mean > plain + 3 * error
    assert bound > mean - 3 * error


def test_below_temperature_1_only_the_derived_divisor_is_sure_to_bound():
    """One channel, two far classes, great variances: the printed form falls below the truth."""
    rng = np.random.default_rng(3)
    temperature, count = 0.1, 40
    features = np.zeros((1, 1, 1, count))
    labels = np.zeros((1, 1, count), dtype=np.int64)
    teacher = torch.zeros(1, 1, 1, count, dtype=torch.float64)
    given = Augmentation(
        torch.ones(1, 1, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
        torch.from_numpy(labels),
        1.0,
    )
    drawn = features + rng.normal(size=(4000, 1, 1, count))
    log_q = log_softmax(drawn.reshape(4000, count) / temperature, 1)
    truth = temperature**2 * (-math.log(count) - log_q).mean(1).mean()
    student = torch.from_numpy(features)
    printed = augmented_channelwise(student, teacher, augmentation=given, temperature=temperature)
    derived = augmented_channelwise(
        student,
        teacher,
        augmentation=given,
        temperature=temperature,
        variance_over="temperature_squared",
    )
    assert printed.item() < 0.8 * truth
    assert derived.item() > truth


def test_logits_too_far_apart_for_one_matrix_product_are_still_exact(sample):
    """Variances in the hundreds make exponents that float32 cannot hold side by side."""
    sample.variance = sample.variance * 400
    sample.student = sample.student * 20
    for covariance_of in ("label", "target"):
        expected = reference_pixelwise(sample, covariance_of=covariance_of)
        student, teacher = (part.float().requires_grad_() for part in pair(sample))
        given = augmentation(sample)
        given = replace(given, weight=given.weight.float().requires_grad_())
        found = augmented_pixelwise(
            student, teacher, augmentation=given, covariance_of=covariance_of
        )
        found.backward()
        assert found.item() == pytest.approx(expected, rel=1e-5)
        assert student.grad.isfinite().all()
        assert given.weight.grad.isfinite().all()


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


@every
def test_nothing_larger_than_the_logits_is_ever_made(bound):
    """Neither (pixels, C, A) nor (pixels, C, C), forwards or backwards."""
    batch, classes, channels, height, width = 2, 6, 10, 30, 40
    student, teacher = (torch.randn(batch, classes, height, width) for _ in range(2))
    given = Augmentation(
        torch.randn(classes, channels, requires_grad=True),
        torch.rand(classes, channels),
        torch.randint(0, classes, (batch, height, width)),
        0.5,
    )
    with Largest() as largest:
        bound(student.requires_grad_(), teacher, augmentation=given).backward()
    assert largest.numbers == student.numel()


@every
def test_classifier_variances_and_labels_of_another_shape_are_refused(bound, sample):
    given = augmentation(sample)
    for wrong, message in (
        ({"weight": given.weight[:, :5]}, r"both be \(4, A\) .* got \(4, 5\) and \(4, 6\)"),
        ({"weight": given.weight[:3]}, r"got \(3, 6\) and \(4, 6\)"),
        ({"labels": given.labels[:, :2]}, r"labels are \(2, 2, 5\).*must be \(2, 3, 5\)"),
        ({"labels": given.labels.clamp(max=200) + 1}, r"labels must be 0\.\.3 or 255"),
        ({"labels": given.labels - 1}, r"labels must be 0\.\.3 or 255 .* got -1\.\."),
    ):
        with pytest.raises(ArtifactError, match=message):
            bound(*pair(sample), augmentation=replace(given, **wrong))


@every
def test_logits_and_masks_of_another_shape_are_refused(bound, sample):
    student, teacher = pair(sample)
    with pytest.raises(ArtifactError, match=r"\(2, 4, 3, 5\) and .* \(2, 4, 3, 4\)"):
        bound(student, teacher[..., :4], augmentation=augmentation(sample))
    mask = torch.ones(BATCH, 1, HEIGHT, WIDTH)
    with pytest.raises(ArtifactError, match=r"mask must be \(2, 1, 3, 5\) torch.bool"):
        bound(student, teacher, augmentation=augmentation(sample), mask=mask)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
@every
def test_an_impossible_strength_is_refused(bound, sample, strength):
    with pytest.raises(ConfigError, match="strength must be 0 or more"):
        bound(*pair(sample), augmentation=augmentation(sample, strength=strength))


def test_impossible_options_are_refused(sample):
    given = augmentation(sample)
    for loss in (augmented_pixelwise, augmented_channelwise):
        with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
            loss(*pair(sample), augmentation=given, temperature=0)
    with pytest.raises(ConfigError, match="'label' or 'target', got 'both'"):
        augmented_pixelwise(*pair(sample), augmentation=given, covariance_of="both")
    with pytest.raises(ConfigError, match="'temperature_squared', got 'both'"):
        augmented_channelwise(*pair(sample), augmentation=given, variance_over="both")
