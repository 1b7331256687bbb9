"""The controller of a search, on rewards that are functions of what it chose."""

from __future__ import annotations

import random

import pytest
import torch

from stillroom.stages.choice_controller import ChoiceController

CELL = (3, 3, 6, 6, 2)  # two nodes, two adaptors, an aggregator: Fig. 6.2 of Liu's thesis
ROUND = 8


def shares(seed: int, number: int, rows: int = ROUND) -> list[list[float]]:
    numbers = random.Random(f"{seed} {number}")
    return [[numbers.random() for _ in CELL] for _ in range(rows)]


def trials_until_best(seed: int) -> int:
    """How many cells are trained until the best is; all, where it isn't in sixty rounds.

    The reward grows with the choices that are the best cell's, by points of mIoU.
    """
    best = tuple(random.Random(f"best {seed}").randrange(size) for size in CELL)
    controller = ChoiceController(CELL, seed)
    trained: set[tuple[int, ...]] = set()
    for number in range(60):
        chosen = controller.choose(shares(seed, number))
        trained.update(chosen)
        if best in chosen:
            break
        alike = [sum(map(int.__eq__, one, best)) for one in chosen]
        controller.learn(chosen, [0.3 + 0.02 * count for count in alike])
    else:
        return 648
    return len(trained)


def test_it_finds_the_best_cell_in_far_fewer_trials_than_random_search() -> None:
    """Random search without repeats trains (648 + 1) / 2 of the 648 cells, on average."""
    found = [trials_until_best(seed) for seed in range(6)]
    assert sum(found) / len(found) == pytest.approx(36, abs=4), found  # as docs/sweeps.md says


def test_before_it_learns_every_choice_is_as_likely() -> None:
    given = shares(0, 0, 50)
    assert ChoiceController(CELL, 3).choose(given) == [
        tuple(int(share * size) for share, size in zip(one, CELL, strict=True)) for one in given
    ]


def test_what_it_chooses_follows_from_the_seed_and_the_rewards() -> None:
    def chosen(seed: int, reward: float) -> list[tuple[int, ...]]:
        controller = ChoiceController(CELL, seed)
        for number in range(4):
            drawn = controller.choose(shares(0, number))
            controller.learn(drawn, [reward * one[2] for one in drawn])
        return controller.choose(shares(0, 9, 40))

    state = torch.random.get_rng_state()
    known = chosen(0, 1.0)
    assert torch.equal(state, torch.random.get_rng_state())  # the process's own numbers are left
    assert chosen(0, 1.0) == known
    assert chosen(0, -1.0) != known
    third = [sum(one[2] for one in each) for each in (known, chosen(0, -1.0))]
    assert third[0] > 2.5 * 40 > third[1]  # 2.5 is the mean of 0 to 5


def test_it_learns_nothing_where_all_rewards_are_alike() -> None:
    controller = ChoiceController((4,), 0)
    controller.learn([(0,), (1,), (2,)], [0.4, 0.4, 0.4])
    assert controller.choose([[0.24], [0.26], [0.99]]) == [(0,), (1,), (3,)]


def test_later_choices_depend_on_earlier_ones() -> None:
    """The reward is of equal numbers alone, which one softmax a place could not tell apart."""
    controller = ChoiceController((2, 2), 0)
    numbers = random.Random(0)
    for _ in range(40):
        chosen = controller.choose([[numbers.random(), numbers.random()] for _ in range(ROUND)])
        controller.learn(chosen, [float(a == b) for a, b in chosen])
    found = controller.choose([[0.01, 0.5], [0.99, 0.5]])
    assert all(a == b for a, b in found)


@pytest.mark.parametrize(("rewards", "expected"), [([1.0, 3.0], [-1.0, 1.0]), ([2.0], [0.0])])
def test_advantages_are_in_deviations_over_the_average(
    rewards: list[float], expected: list[float]
) -> None:
    assert ChoiceController((2,), 0)._advantages(rewards) == pytest.approx(expected)
