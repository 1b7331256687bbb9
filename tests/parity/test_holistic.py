"""holistic: penalty, losses, attention and critic against the formulas, in float64 with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from stillroom.stages.models.critic import Critic, RunningNorm, SelfAttention
from stillroom.stages.train.losses.holistic import (
    Maps,
    critic_loss,
    gradient_penalty,
    holistic,
    maps_of,
)
from stillroom.storage_specs.errors import ArtifactError, ConfigError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(4)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def sample(batch=3, classes=4, size=(5, 7), masked=True):
    mask = torch.rand(batch, 1, *size) < 0.7
    mask[..., 0, 0] = True
    if not masked:
        mask[:] = True
    images = 255 * torch.rand(batch, 3, *size, dtype=torch.float64)
    return Maps(
        (2 * normal(batch, classes, *size)).masked_fill(~mask, 0),
        (3 * normal(batch, classes, *size) + 1).masked_fill(~mask, 0),
        images.masked_fill(~mask, 0),
        mask,
    )


def a_critic(classes=4, design="paper", width=4):
    """In float64, with attention at work and statistics of something."""
    critic = Critic(classes, design=design, width=width).double()
    for attention in critic.attentions:
        torch.nn.init.constant_(attention.gain, 0.7)
    maps = sample(classes=classes)
    critic.observe(maps.teacher, maps.images, maps.mask)
    return critic


# The penalty


@pytest.mark.parametrize("length", [0.25, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_is_that_of_its_weights(length):
    weight = normal(4, 5, 7)
    weight *= length / weight.norm()
    maps = sample()
    found = gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), maps.teacher, maps.student, torch.rand(3)
    )
    torch.testing.assert_close(found, torch.full((3,), (length - 1) ** 2, dtype=torch.float64))


def test_the_penalty_is_taken_at_one_point_a_frame_between_teacher_and_student():
    """D(x) = |x|^2 / 2 has the slope x."""
    maps, alpha = sample(), torch.tensor([0.0, 0.25, 1.0])
    found = gradient_penalty(
        lambda x: x.square().sum((1, 2, 3)) / 2, maps.teacher, maps.student, alpha
    )
    for b in range(3):
        total = 0.0
        for c in range(4):
            for y in range(5):
                for x in range(7):
                    real, fake = maps.teacher[b, c, y, x].item(), maps.student[b, c, y, x].item()
                    total += (alpha[b].item() * real + (1 - alpha[b].item()) * fake) ** 2
        assert found[b].item() == pytest.approx((math.sqrt(total) - 1) ** 2, rel=1e-12)


def test_a_flat_critic_is_penalised_by_one_and_has_a_finite_gradient():
    weight = torch.zeros(4, 5, 7, requires_grad=True)
    maps = sample()
    found = gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), maps.teacher, maps.student, torch.rand(3)
    )
    found.sum().backward()
    assert found.tolist() == [1, 1, 1]
    assert weight.grad.eq(0).all()


# The two losses


def test_the_losses_are_the_formulas():
    maps, alpha = sample(), torch.rand(3, dtype=torch.float64)
    weight = normal(4, 5, 7)

    def score(logits, images, mask):
        return (logits.square() * weight).sum((1, 2, 3)) + images.sum((1, 2, 3)) / 1000

    def by_hand(logits, b):
        total = maps.images[b].sum().item() / 1000
        for c in range(4):
            for y in range(5):
                for x in range(7):
                    total += weight[c, y, x].item() * logits[b, c, y, x].item() ** 2
        return total

    expected = 0.0
    for b in range(3):
        share = alpha[b].item()
        between = share * maps.teacher[b] + (1 - share) * maps.student[b]
        steep = (2 * between * weight).square().sum().sqrt().item()
        expected += by_hand(maps.student, b) - by_hand(maps.teacher, b) + 7 * (steep - 1) ** 2
    found = critic_loss(score, maps, alpha, penalty=7)
    assert found.item() == pytest.approx(expected / 3, rel=1e-12)
    assert holistic(score, maps).item() == pytest.approx(
        -sum(by_hand(maps.student, b) for b in range(3)) / 3, rel=1e-12
    )


def test_the_weight_of_the_penalty_is_10_unless_told_otherwise():
    maps, alpha, critic = sample(), torch.rand(3), a_critic()
    assert critic_loss(critic, maps, alpha).equal(critic_loss(critic, maps, alpha, penalty=10))
    assert not critic_loss(critic, maps, alpha).equal(critic_loss(critic, maps, alpha, penalty=9))


def test_a_frame_of_which_nothing_shows_is_left_out():
    maps, alpha, critic = sample(), torch.rand(3), a_critic()
    maps.mask[1] = False
    rest = Maps(*(part[[0, 2]] for part in (maps.student, maps.teacher, maps.images, maps.mask)))
    torch.testing.assert_close(holistic(critic, maps), holistic(critic, rest))
    torch.testing.assert_close(
        critic_loss(critic, maps, alpha), critic_loss(critic, rest, alpha[[0, 2]])
    )


def test_nothing_counted_gives_zero_that_can_be_differentiated():
    student, teacher = normal(2, 2, 4, 5, 7)
    student.requires_grad_()
    images, mask = torch.rand(2, 3, 20, 28), torch.zeros(2, 1, 5, 7, dtype=torch.bool)
    critic = a_critic()
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    maps = maps_of(student, teacher, images, 4, mask)
    value = holistic(critic, maps)
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()
    assert critic_loss(critic, maps, torch.rand(2)).item() == 0
    critic.observe(maps.student, maps.images, maps.mask)
    assert all(value.equal(before[name]) for name, value in critic.state_dict().items())


@pytest.mark.parametrize("design", ["paper", "released"])
def test_what_is_masked_out_reaches_neither_score_nor_gradient(design):
    critic = a_critic(design=design).eval()
    student, teacher = normal(2, 3, 4, 5, 7)
    images, mask = 255 * torch.rand(3, 3, 20, 28), torch.rand(3, 1, 5, 7) < 0.6

    def found(rubbish):
        leaf = student.masked_fill(~mask, rubbish).requires_grad_()
        target = teacher.masked_fill(~mask, rubbish)
        maps = maps_of(leaf, target, images, 4, mask)
        value = holistic(critic, maps)
        value.backward()
        return value, leaf.grad, critic_loss(critic, maps, torch.full((3,), 0.3))

    value, gradient, loss = found(0.0)
    for rubbish in (1e30, math.nan, math.inf):
        again = found(rubbish)
        assert again[0].equal(value)
        assert again[1].equal(gradient)
        assert again[2].equal(loss)
    assert gradient[(~mask).expand_as(gradient)].eq(0).all()
    assert gradient[mask.expand_as(gradient)].ne(0).any()


def test_the_critics_loss_sends_nothing_back_to_student_or_teacher():
    maps = sample()
    student, teacher = maps.student.requires_grad_(), maps.teacher.requires_grad_()
    critic_loss(a_critic(), maps_of(student, teacher, maps.images, 1), torch.rand(3)).backward()
    assert student.grad is None
    assert teacher.grad is None


def test_images_come_to_the_grid_as_the_means_of_their_cells():
    images = torch.rand(1, 3, 9, 13)
    maps = maps_of(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), images, 4)
    assert maps.images.shape == (1, 3, 3, 4)
    torch.testing.assert_close(maps.images[0, :, 1, 2], images[0, :, 4:8, 8:12].mean((1, 2)))
    torch.testing.assert_close(maps.images[0, :, 2, 3], images[0, :, 8, 12])


# The critic


def test_attention_is_the_formula():
    attention = SelfAttention(16).double()
    torch.nn.init.constant_(attention.gain, 0.6)
    x = normal(2, 16, 3, 4)
    weights = [
        (part.weight[:, :, 0, 0].detach().numpy(), part.bias.detach().numpy())
        for part in (attention.query, attention.key, attention.value)
    ]
    flat = x.flatten(2).numpy()
    expected = np.zeros_like(flat)
    for b in range(2):
        query, key, value = (w @ flat[b] + bias[:, None] for w, bias in weights)
        for i in range(12):
            exponentials = [math.exp(sum(query[:, i] * key[:, j])) for j in range(12)]
            for j in range(12):
                expected[b, :, i] += exponentials[j] / sum(exponentials) * value[:, j]
    found = attention(x).detach().flatten(2).numpy()
    np.testing.assert_allclose(found, flat + 0.6 * expected, rtol=1e-12)
    assert query.shape == (2, 12), "an eighth of the channels"


def test_attention_begins_as_nothing():
    x = normal(2, 16, 3, 4)
    assert SelfAttention(16).double()(x).equal(x)


def convolve(x, weight, bias, stride):
    """Padding 1, with loops."""
    channels, side = weight.shape[0], weight.shape[2]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height = (padded.shape[1] - side) // stride + 1
    width = (padded.shape[2] - side) // stride + 1
    found = np.zeros((channels, height, width))
    for c, i, j in np.ndindex(found.shape):
        y, u = i * stride, j * stride
        found[c, i, j] = (padded[:, y : y + side, u : u + side] * weight[c]).sum() + bias[c]
    return found


@pytest.mark.parametrize("design", ["paper", "released"])
def test_the_critic_is_five_convolutions_with_attention_between_the_last_three(design):
    critic = a_critic(classes=3, design=design, width=2).eval()
    maps = sample(batch=2, classes=3, size=(5, 18))
    norm = critic.normalise
    for b in range(2):
        x = maps.student[b].numpy()
        if design == "paper":
            x = np.concatenate([x, maps.images[b].numpy()])
        x = (x - norm.mean.numpy()[:, None, None]) / np.sqrt(
            norm.variance.numpy()[:, None, None] + 1e-5
        )
        x = np.where(maps.mask[b].numpy(), x, 0)
        x = np.pad(x, ((0, 0), (0, 16 - 5), (0, 32 - 18)))
        for place, layer in enumerate(critic.convolutions):
            x = convolve(x, layer.weight.detach().numpy(), layer.bias.detach().numpy(), 2)
            x = np.where(x > 0, x, 0 if design == "paper" else 0.1 * x)
            if place >= 2:
                attended = critic.attentions[place - 2](torch.from_numpy(x)[None])
                x = attended[0].detach().numpy()
        last = critic.last
        x = convolve(x, last.weight.detach().numpy(), last.bias.detach().numpy(), 1)
        found = critic(maps.student, maps.images, maps.mask)[b].item()
        assert x.shape == (1, 1, 2)
        assert found == pytest.approx(x.mean(), rel=1e-10)


def test_only_the_papers_critic_looks_at_the_image_and_only_the_released_one_is_normalised():
    maps = sample()
    dark = 0 * maps.images
    for design, looks in (("paper", True), ("released", False)):
        critic = a_critic(design=design).eval()
        same = critic(maps.student, maps.images).equal(critic(maps.student, dark))
        assert same is not looks
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter *= 20
        for layer in (*critic.convolutions, critic.last):
            largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
            assert (largest > 4) is looks
            assert looks or largest == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("design", ["paper", "released"])
def test_a_frames_score_and_slope_do_not_depend_on_the_other_frames(design):
    critic, maps = a_critic(design=design).eval(), sample()
    together = critic(maps.student, maps.images, maps.mask)
    for b in range(3):
        alone = critic(maps.student[b : b + 1], maps.images[b : b + 1], maps.mask[b : b + 1])
        torch.testing.assert_close(alone[0], together[b])
    leaf = maps.student.clone().requires_grad_()
    critic.train()(leaf, maps.images, maps.mask)[0].backward()
    assert leaf.grad[0].abs().max() > 0
    assert leaf.grad[1:].eq(0).all()


@pytest.mark.parametrize("size", [(40, 56), (1, 1), (3, 50), (16, 16), (17, 31)])
def test_maps_of_any_size_fit_and_the_penalty_can_be_differentiated(size):
    critic = Critic(3, width=2)
    maps = maps_of(torch.randn(2, 3, *size), torch.randn(2, 3, *size), torch.rand(2, 3, *size), 1)
    critic.observe(maps.teacher, maps.images)
    critic_loss(critic, maps, torch.rand(2)).backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["last.weight", "convolutions.0.weight", "attentions.1.gain"])
def test_the_gradient_of_the_critics_loss_is_that_of_its_value_penalty_included(name):
    critic = a_critic(classes=2, width=2)
    maps, alpha = sample(batch=2, classes=2, size=(3, 4)), torch.tensor([0.3, 0.8])
    weight = critic.get_parameter(name).detach().clone().requires_grad_()

    def loss(value):
        def score(*given):
            return functional_call(critic, {name: value}, given)

        return critic_loss(score, maps, alpha)

    assert torch.autograd.gradcheck(loss, (weight,), atol=1e-4)


def test_the_gradient_of_the_students_loss_is_that_of_its_value():
    critic, maps = a_critic(classes=2, width=2), sample(batch=2, classes=2, size=(3, 4))

    def loss(student):
        return holistic(critic, maps_of(student, maps.teacher, maps.images, 1, maps.mask))

    assert torch.autograd.gradcheck(loss, (normal(2, 2, 3, 4).requires_grad_(),), atol=1e-6)


def test_the_first_batch_is_the_statistics_and_later_ones_move_them_by_a_tenth():
    norm = RunningNorm(3).double()
    mask = torch.rand(2, 1, 4, 5) < 0.6
    batches = [5 * normal(2, 3, 4, 5) + 7 for _ in range(14)]
    mean = variance = None
    for n, x in enumerate(batches):
        norm.observe(x.masked_fill(~mask, math.nan), mask)
        cells = np.stack([x[:, c][mask[:, 0]].numpy() for c in range(3)])
        rate = max(0.1, 1 / (n + 1))
        mean = cells.mean(1) if mean is None else (1 - rate) * mean + rate * cells.mean(1)
        new = cells.var(1)
        variance = new if variance is None else (1 - rate) * variance + rate * new
        np.testing.assert_allclose(norm.mean.numpy(), mean)
        np.testing.assert_allclose(norm.variance.numpy(), variance)


@pytest.mark.parametrize(
    ("options", "what"), [({"design": "new"}, "design"), ({"width": 1}, "wid")]
)
def test_an_impossible_critic_is_refused(options, what):
    with pytest.raises(ConfigError, match=what):
        Critic(3, **options)


@pytest.mark.parametrize(
    ("logits", "images"),
    [((2, 5, 4, 4), (2, 3, 4, 4)), ((2, 3, 4, 4), (2, 3, 8, 8)), ((2, 3, 4, 4), (1, 3, 4, 4))],
)
def test_other_shapes_are_refused_naming_them(logits, images):
    with pytest.raises(ArtifactError) as error:
        Critic(3, width=2)(torch.zeros(logits), torch.zeros(images))
    assert str(logits) in str(error.value)
    assert str(images) in str(error.value)
