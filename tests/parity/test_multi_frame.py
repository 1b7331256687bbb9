"""multi_frame and its ConvLSTM against the formulas, by loops in float64, gate by gate.

Axes: patches that tile the grid and that do not, masks that change from frame to frame, unequal
channels, two and three frames, with and without the enlarged teacher.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.loss_parts.conv_lstm import ConvLstm
from stillroom.stages.train.losses.multi_frame import Embeddings, embedded, multi_frame
from stillroom.storage_specs.errors import ArtifactError, ConfigError

BATCH, HEIGHT, WIDTH = 2, 3, 5


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def convolved(values, weight, bias):
    """k x k convolution of (A, H, W) with zeros around it."""
    reach, (height, width) = weight.shape[2] // 2, values.shape[1:]
    out = np.zeros((len(weight), height, width))
    for o, y, x in np.ndindex(*out.shape):
        total = bias[o]
        for a, dy, dx in np.ndindex(*weight.shape[1:]):
            row, column = y + dy - reach, x + dx - reach
            if 0 <= row < height and 0 <= column < width:
                total += weight[o, a, dy, dx] * values[a, row, column]
        out[o, y, x] = total
    return out


def embedding(maps, network):
    """h_T of T maps (A, H, W), gate by gate."""
    weight, bias = (each.detach().numpy() for each in network.parameters())
    hidden = cell = np.zeros((network.hidden, *maps[0].shape[1:]))
    for each in maps:
        gates = convolved(np.concatenate([each, hidden]), weight, bias)
        new_hidden, new_cell = np.zeros_like(hidden), np.zeros_like(cell)
        for k, y, x in np.ndindex(*hidden.shape):
            i, f, o, g = (gates[k + part * network.hidden, y, x] for part in range(4))
            new_cell[k, y, x] = sigmoid(f) * cell[k, y, x] + sigmoid(i) * math.tanh(g)
            new_hidden[k, y, x] = sigmoid(o) * math.tanh(new_cell[k, y, x])
        hidden, cell = new_hidden, new_cell
    return hidden


def cosine(a, b):
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths else 0.0


def places(frame, mask, patch):
    """Pooled features of every place, zeros where no cell counts; and which count."""
    channels, height, width = frame.shape
    found, counted = [], []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            cells = [
                frame[:, y, x]
                for y in range(top, min(height, top + patch))
                for x in range(left, min(width, left + patch))
                if mask[0, y, x]
            ]
            found.append([sum(cell[c] for cell in cells) for c in range(channels)])
            counted.append(bool(cells))
    return found, counted


def reference(student, teacher, mask, network, options):
    squared = enlarged = pairs = 0.0
    for b in range(BATCH):
        embeddings = []
        for frames in (student, teacher):
            nodes = [places(frames[t][b], mask[t][b], options["patch"]) for t in range(len(frames))]
            maps = [
                np.array([[[cosine(i, j) for j in found] for i in found]]) for found, _ in nodes
            ]
            always = [all(each) for each in zip(*(counted for _, counted in nodes), strict=True)]
            embeddings.append(embedding(maps, network))
        s, t = embeddings
        for k, i, j in np.ndindex(*s.shape):
            if always[i] and always[j]:
                squared += (s[k, i, j] - t[k, i, j]) ** 2 / network.hidden
                enlarged += (1 - t[k, i, j]) / network.hidden
                pairs += 1 / network.hidden
    return (squared + options["enlarge"] * enlarged) / pairs


@pytest.fixture
def network():
    torch.manual_seed(1)
    return ConvLstm(hidden=2, clip=1.0).double()


def sample(frames=3, size=(HEIGHT, WIDTH)):
    rng = np.random.default_rng(9)
    return (
        rng.normal(0, 2, (frames, BATCH, 4, *size)),
        rng.normal(1, 3, (frames, BATCH, 6, *size)),
        rng.random((frames, BATCH, 1, *size)) < 0.7,
    )


def found(student, teacher, mask, network, **options):
    s, t = ([torch.as_tensor(each) for each in part] for part in (student, teacher))
    masks = None if mask is None else [torch.as_tensor(each) for each in mask]
    return multi_frame(s, t, embed=network, mask=masks, **{"patch": 2, "enlarge": 0.0, **options})


def test_the_convlstm_is_its_gates(network):
    maps = np.random.default_rng(2).normal(size=(3, BATCH, 1, 4, 5))
    made = network([torch.from_numpy(each) for each in maps]).detach().numpy()
    for b in range(BATCH):
        np.testing.assert_allclose(made[b], embedding(maps[:, b], network), rtol=1e-10)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("enlarge", [0.0, 0.3])
def test_it_is_the_formula(network, patch, frames, masked, enlarge):
    size = (HEIGHT, WIDTH) if patch == 2 else (2, 4)
    student, teacher, mask = sample(frames, size)
    mask = mask if masked else np.ones_like(mask)
    options = {"patch": patch, "enlarge": enlarge}
    value = found(student, teacher, mask if masked else None, network, **options)
    expected = reference(student, teacher, mask, network, options)
    assert value.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_the_value_in_frames_and_weights(network, masked):
    student, teacher, mask = (torch.from_numpy(part) for part in sample())

    def loss(*leaves):
        parameters = dict(zip(("gates.weight", "gates.bias"), leaves[3:], strict=True))

        def embed(maps):
            return torch.func.functional_call(network, parameters, (maps,))

        masks = list(mask) if masked else None
        return multi_frame(leaves[:3], list(teacher), embed=embed, patch=2, enlarge=0.3, mask=masks)

    leaves = [*student.clone(), *(each.detach().clone() for each in network.parameters())]
    assert torch.autograd.gradcheck(loss, tuple(each.requires_grad_() for each in leaves))


def test_equal_features_cost_nothing_however_long_they_are(network):
    student, _, mask = (torch.from_numpy(part) for part in sample())
    leaf = student.clone().requires_grad_()
    value = found(leaf, student, mask, network)
    value.backward()
    assert value.item() == 0
    assert leaf.grad.eq(0).all()
    assert found(student, 7 * student, mask, network).item() == pytest.approx(0, abs=1e-25)


def test_each_frame_counts_and_so_does_their_order(network):
    student, teacher, _ = sample()
    for t in range(3):
        other = student.copy()
        other[t] = teacher[t][:, :4]
        assert found(student, other, None, network) > 1e-6
    # the embedding of the reversed sequence is another one, and both networks change alike
    forth = found(student, teacher, None, network).item()
    back = found(student[::-1].copy(), teacher[::-1].copy(), None, network).item()
    assert back != pytest.approx(forth, rel=1e-3)


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_what_is_masked_out_reaches_neither_value_nor_gradient(network, rubbish):
    student, teacher, mask = (torch.from_numpy(part) for part in sample())

    def value_and_gradients(one, other):
        leaf = one.clone().requires_grad_()
        network.zero_grad()
        value = found(leaf, other, mask, network, enlarge=0.3)
        value.backward()
        return value, leaf.grad, network.gates.weight.grad.clone()

    value, gradient, of_weights = value_and_gradients(student, teacher)
    spoilt = value_and_gradients(*(part.masked_fill(~mask, rubbish) for part in (student, teacher)))
    assert spoilt[0].equal(value)
    assert spoilt[1].equal(gradient)
    assert spoilt[2].equal(of_weights)
    assert gradient[(~mask).expand_as(gradient)].eq(0).all()


def test_nothing_counted_gives_zero_that_can_be_differentiated(network):
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    student = student.requires_grad_()
    value = found(student, teacher, torch.zeros_like(mask), network, enlarge=0.3)
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


def test_the_gradient_reaches_student_and_network_but_not_the_teacher(network):
    student, teacher = (torch.from_numpy(part).requires_grad_() for part in sample()[:2])
    found(student, teacher, None, network).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert all(each.grad.abs().sum() > 0 for each in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(network, dtype):
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    student, teacher, network = student.to(dtype), teacher.to(dtype), network.float()
    expected = found(student.float(), teacher.float(), mask, network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = found(student, teacher, mask, network)
    assert value.dtype == torch.float32
    assert value.equal(expected)


def test_weights_are_clipped_from_the_start_and_after_each_step():
    torch.manual_seed(0)
    network = ConvLstm(clip=0.05)
    assert max(each.abs().max() for each in network.parameters()) == 0.05
    optimiser = torch.optim.SGD(network.parameters(), lr=100.0)
    network([torch.rand(2, 1, 6, 6)]).mean().neg().backward()
    optimiser.step()
    assert max(each.abs().max() for each in network.parameters()) > 0.05
    network.clip_weights()
    assert max(each.abs().max() for each in network.parameters()) <= 0.05


def spread_of(teacher, counted=None):
    return Embeddings(teacher, teacher, counted).spread().item()


def test_the_spread_is_that_of_the_values_against_their_size():
    values = np.random.default_rng(3).normal(1, 2, (2, 3, 4, 4))
    variance = np.mean([values[:, k].var() for k in range(3)])
    expected = math.sqrt(variance) / math.sqrt((values**2).mean())
    assert spread_of(torch.from_numpy(values)) == pytest.approx(expected)
    assert spread_of(torch.from_numpy(1000 * values)) == pytest.approx(expected)


def test_a_collapsed_embedding_has_no_spread_whether_it_is_zero_or_saturated():
    constant = torch.tensor([0.98, -0.5, 0.2]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert spread_of(constant) == pytest.approx(0, abs=1e-6)
    assert spread_of(torch.zeros(2, 3, 4, 4)) == 0
    places = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert spread_of(torch.randn(2, 3, 4, 4), places) == 0  # nothing counted
    places[:, :2, :2] = True
    mixed = constant.clone()
    mixed[:, :, 2:] = float("nan")
    assert spread_of(mixed, places) == pytest.approx(0, abs=1e-6)


def train(clip, enlarge, steps=60):
    """Train a ConvLSTM alone, on a student that cannot follow: teacher's features and noise."""
    torch.manual_seed(2)
    network = ConvLstm(clip=clip)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-2)
    for _ in range(steps):
        teacher = torch.nn.functional.interpolate(torch.randn(6, 8, 3, 4), scale_factor=2.0)
        student = teacher + torch.randn(6, 8, 6, 8)
        frames = [student[:2], student[2:4], student[4:]], [teacher[:2], teacher[2:4], teacher[4:]]
        both = embedded(*frames, embed=network, patch=2)
        loss = both.difference() + enlarge * both.smallness()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        network.clip_weights()
    return both


def test_clipping_and_enlarging_keep_the_embedding_from_collapsing_and_the_spread_tells():
    kept = train(clip=0.1, enlarge=0.1)
    assert kept.spread() > 0.3
    assert kept.teacher.mean() > 0.2
    to_zero = train(clip=0.1, enlarge=0.0)
    assert to_zero.spread() < 0.15
    assert to_zero.difference() < 1e-2 * kept.difference()
    to_one = train(clip=100.0, enlarge=0.1)
    assert to_one.spread() < 0.15
    assert to_one.teacher.mean() > 0.9


def test_what_does_not_fit_is_refused_naming_both(network):
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    with pytest.raises(ArtifactError, match="got 3, 2 and 3"):
        found(student, teacher[:2], mask, network)
    with pytest.raises(ArtifactError, match=r"2 or more frames.*got 1, 1 and 1"):
        found(student[:1], teacher[:1], None, network)
    with pytest.raises(ArtifactError, match=r"\(2, 4, 3, 5\).*\(2, 6, 2, 5\)"):
        found(student, teacher[:, :, :, :2], None, network)
    with pytest.raises(ArtifactError, match=r"mask must be \(2, 1, 3, 5\) torch.bool"):
        found(student, teacher, mask.float(), network)
    with pytest.raises(ArtifactError, match=r"one place of 5 x 5 cells.*smaller patch"):
        found(student, teacher, None, network, patch=5)
    with pytest.raises(ConfigError, match="1 or more cells a side, got 0"):
        found(student, teacher, None, network, patch=0)
    with pytest.raises(ConfigError, match="weight of 0 or more, got -1"):
        found(student, teacher, None, network, enlarge=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "1 or more channels, got 0 in and 4 hidden"),
        ({"kernel": 4}, "must be odd, for a centre, got 4"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"clip": math.nan}, "clip must be above 0, got nan"),
    ],
)
def test_a_convlstm_that_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ConvLstm(**options)


def test_maps_that_are_no_sequence_are_refused(network):
    with pytest.raises(ArtifactError, match="at least 1 map, got none"):
        network([])
    with pytest.raises(ArtifactError, match=r"\(B, 1, H, W\) of one shape.*\(1, 1, 2, 2\)"):
        network([torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 2, 2)])
    with pytest.raises(ArtifactError, match=r"got \[\(1, 2, 3, 3\)\]"):
        network([torch.zeros(1, 2, 3, 3)])
