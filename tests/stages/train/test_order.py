from __future__ import annotations

from stillroom.stages.seeds import generator, stable_seed
from stillroom.stages.train.order import draws, epoch_order, steps_of


def test_one_rank_sees_every_frame_in_every_epoch_in_another_order():
    first, second = (epoch_order(50, 0, "a", epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)
    assert list(first) != list(epoch_order(50, 1, "a", 0))
    assert list(first) != list(epoch_order(50, 0, "b", 0))


def test_a_batch_may_reach_into_the_next_epoch():
    drawn = draws(5, 0, "a", range(3, 7))
    assert [epoch for epoch, _ in drawn] == [0, 0, 1, 1]
    expected = [*epoch_order(5, 0, "a", 0)[3:], *epoch_order(5, 0, "a", 1)[:2]]
    assert [frame for _, frame in drawn] == expected


def test_draws_of_any_part_agree_with_draws_of_the_whole():
    whole = draws(7, 3, "a", range(40))
    assert draws(7, 3, "a", range(19, 33)) == whole[19:33]


def test_seeds_are_the_same_on_every_machine_and_depend_on_every_part():
    # Pinned: whoever changes the hash changes every run's samples.
    assert stable_seed(0, "camvid", 3, "0001", "view") == 7570550129623915387
    assert stable_seed("a", "bc") != stable_seed("ab", "c")
    assert stable_seed(1, 2) != stable_seed(2, 1)
    assert generator(1, "x").random() == generator(1, "x").random() != generator(1, "y").random()


def test_steps_round_up_so_that_no_frame_is_left_out():
    assert steps_of(10, 4, 1) == 3
    assert steps_of(10, 5, 2) == 4
