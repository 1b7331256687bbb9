"""Counting the bytes of tensors while they live."""

from __future__ import annotations

import torch

from stillroom.stages.train.live_memory import LiveMemory


def test_what_lives_at_one_time_is_counted():
    given = torch.zeros(1000)
    with LiveMemory() as memory:
        first = given + 1
        assert memory.live == 4000
        second = first * 2
        del first
        third = second.double()
    assert memory.peak == 4000 + 8000
    assert memory.live == 4000 + 8000
    del second, third


def test_views_and_what_was_there_before_cost_nothing():
    given = torch.zeros(1000)
    with LiveMemory() as memory:
        view = given.reshape(10, 100)[2:]
        view.add_(1)
        copied = view.clone()
        rows = list(copied)
    assert memory.peak == 3200
    assert len(rows) == 8


def test_what_is_kept_for_the_way_back_counts_until_it_is_over():
    x = torch.zeros(1000, requires_grad=True)
    with LiveMemory() as memory:
        value = (x + 1).square().sum()  # keeps x + 1
        held = memory.live
        value.backward()
    assert held >= 4000
    assert memory.peak >= 8000  # with the gradient
    x.grad = None
    assert memory.live <= 4  # the value itself
