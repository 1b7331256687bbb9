"""The memory by class: a ring, what is put into it, and what is drawn from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.terms.class_queue import ClassQueue, regions, some_of_each_class


def numbered(numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 2)


def filled(found, classes):
    """Those of the places that are of a class."""
    vectors, of = found
    assert len(vectors) == len(of)
    return vectors[of < classes], of[of < classes]


def held(queue):
    """Numbers of each class, oldest first."""
    found = []
    for c, filled in enumerate(queue.filled.tolist()):
        size = queue.vectors.shape[1]
        begin = int(queue.place[c]) - filled
        found.append([int(queue.vectors[c, (begin + k) % size, 0]) for k in range(filled)])
    return found


def test_the_oldest_make_room():
    queue, expected = ClassQueue(3, 4, 2), [[], [], []]
    rng = np.random.default_rng(0)
    for step in range(30):
        count = int(rng.integers(0, 12))  # at times more of a class than fit
        numbers = list(range(100 * step, 100 * step + count))
        of = rng.choice([0, 1, 3], count)  # class 2 is never seen, and 3 is none
        queue.put(numbered(numbers).reshape(-1, 2), torch.from_numpy(of))
        for number, c in zip(numbers, of, strict=True):
            if c < 3:
                expected[c] = [*expected[c], number][-4:]
        assert held(queue) == expected
    assert queue.filled.tolist() == [4, 4, 0]


def test_draws_are_of_what_is_there_without_repetition_and_balanced():
    queue = ClassQueue(3, 10, 2)
    queue.put(numbered(range(13)), torch.tensor([0] * 10 + [1] * 3))
    torch.manual_seed(0)
    drawn = queue.drawn(12)[0][:, 0].tolist()  # 4 a class
    assert len(set(drawn)) == len(drawn) == 4 + 3
    assert sorted(drawn)[4:] == [10, 11, 12]
    again = queue.drawn(12)[0][:, 0].tolist()
    assert again != drawn
    torch.manual_seed(0)
    assert queue.drawn(12)[0][:, 0].tolist() == drawn
    assert len(queue.drawn(10_000)[0]) == 13


def test_an_empty_memory_draws_nothing():
    vectors, there = ClassQueue(3, 10, 2).drawn(12)
    assert (vectors.shape, there.shape) == ((0, 2), (0,))


def test_a_restored_memory_goes_on_as_the_one_that_was_saved():
    one, other = ClassQueue(2, 3, 2), ClassQueue(2, 3, 2)
    one.put(numbered(range(5)), torch.tensor([0, 0, 1, 0, 0]))
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.put(numbered([7, 8]), torch.tensor([1, 0]))
    assert held(one) == held(other) == [[3, 4, 8], [2, 7]]


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(3, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 3, (3, 5, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    labels[1] = 255
    labels[2, 0, 0] = 3  # one cell of class 3
    return features.masked_fill((labels == 255)[:, None], float("nan")), labels


def cells(features, labels, frame, c):
    rows, columns = (labels[frame] == c).nonzero(as_tuple=True)
    return [features[frame, :, y, x] for y, x in zip(rows, columns, strict=True)]


def test_some_cells_of_each_class_and_frame_are_drawn(sample):
    features, labels = sample
    vectors, of = filled(some_of_each_class(features, labels, 5, 6), 5)
    expected = []
    for frame in range(3):
        for c in range(5):
            expected += [c] * min(6, len(cells(features, labels, frame, c)))
    assert of.tolist() == expected
    assert len(expected) < int((labels != 255).sum())  # the limit was met
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(of)))
    own = [
        (c, cell / cell.norm())
        for frame in range(3)
        for c in range(5)
        for cell in cells(features, labels, frame, c)
    ]
    matched = [
        [k for k, (c, cell) in enumerate(own) if c == kind and torch.allclose(cell, vector)]
        for kind, vector in zip(of.tolist(), vectors, strict=True)
    ]
    assert all(len(one) == 1 for one in matched)
    assert len({one[0] for one in matched}) == len(of)  # none twice


def test_which_cells_are_drawn_follows_the_seed(sample):
    torch.manual_seed(1)
    one = some_of_each_class(*sample, 5, 2)[0]
    other = some_of_each_class(*sample, 5, 2)[0]
    torch.manual_seed(1)
    assert some_of_each_class(*sample, 5, 2)[0].equal(one)
    assert not other.equal(one)


def test_every_cell_of_a_class_is_drawn_equally_often():
    features = torch.eye(8).T.reshape(1, 8, 2, 4)
    labels = torch.tensor([0, 1, 1, 1, 1, 0, 255, 1]).reshape(1, 2, 4)
    torch.manual_seed(0)
    draws = (filled(some_of_each_class(features, labels, 2, 2), 2)[0] for _ in range(2000))
    counts = sum(draw.sum(dim=0) for draw in draws)
    assert counts[[0, 5]].tolist() == [2000, 2000]
    assert counts[6] == 0
    expected = 2000 * 2 / 5
    assert ((counts[[1, 2, 3, 4, 7]] - expected).abs() < 5 * math.sqrt(expected)).all()


def test_regions_are_the_means_of_a_frames_classes(sample):
    features, labels = sample
    vectors, of = filled(regions(features, labels, 5), 5)
    expected = []
    for frame in range(3):
        for c in range(5):
            own = cells(features, labels, frame, c)
            if own:
                mean = sum(cell / cell.norm() for cell in own) / len(own)
                expected.append((c, mean / mean.norm()))
    assert of.tolist() == [c for c, _ in expected]
    for vector, (_, mean) in zip(vectors, expected, strict=True):
        torch.testing.assert_close(vector, mean)
