"""Two processes over gloo on loopback: what they know together is what one would know alone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from stillroom.stages.across_ranks import Rows, agree, gathered, summed
from stillroom.stages.train.losses.cross_image_memory import ProjectionHead, RelationMemory
from stillroom.stages.train.terms.class_covariance import ClassCovariance
from stillroom.stages.train.terms.class_queue import ClassQueue

RANKS, STEPS, CLASSES, CHANNELS = 2, 3, 4, 5
SCRIPT = textwrap.dedent(
    """
    import sys

    import torch
    from torch import distributed

    from stillroom.stages.across_ranks import (
        agree, averaged, everyones, gathered, largest, mean_of_all, summed, take_from_first
    )
    from stillroom.stages.train.terms.class_covariance import ClassCovariance
    from stillroom.stages.train.terms.class_queue import ClassQueue
    from stillroom.stages.train.losses.cross_image_memory import ProjectionHead, RelationMemory

    folder, rank, ranks, classes, channels = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks
    )
    own = torch.load(f"{folder}/batches.pt", weights_only=True)[rank]
    covariance = ClassCovariance(classes, channels)
    queues = ClassQueue(classes, 6, channels), ClassQueue(classes, 3, channels)
    memory = RelationMemory(ProjectionHead(2, channels), *queues, 4)
    for step, (features, labels) in enumerate(own):
        covariance.update(features, labels)
        torch.manual_seed(step)
        memory.note(features, labels)
        memory.after_step()
    found = {
        "covariance": covariance.state_dict(),
        "pixels": memory.pixels.state_dict(),
        "regions": memory.regions.state_dict(),
        "summed": summed(torch.full((2,), rank + 1.0)),
        "gathered": gathered(torch.arange(2 * rank).reshape(rank, 2)),
        "numbers": everyones(rank + 5),
        "largest": largest(torch.tensor([rank, -rank])),
        "mean": averaged(mean_of_all(torch.tensor(rank + 1.0), torch.tensor(3 * rank))),
    }
    # All ranks' rows weighed by 1, 2, 3: each rank has the whole loss, so that slopes add up.
    rows = torch.ones(rank + 1, requires_grad=True)
    ((rank + 1) * gathered(rows) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    found["slopes"] = rows.grad
    stops = {
        "none": None,
        "interrupted": KeyboardInterrupt() if rank == 1 else None,
        "failed": ValueError("mine") if rank == 1 else KeyboardInterrupt(),
        "both": ValueError(str(rank)),
    }
    for name, error in stops.items():
        try:
            agree(error)
        except BaseException as raised:
            found[name] = type(raised).__name__
    first = torch.full((2,), float(rank))
    take_from_first([first])
    found["first"] = first
    torch.save(found, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()
    """
)


def batches():
    """By rank, for each step (features, labels); the second rank's first step has no label."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for rank in range(RANKS):
        own = []
        for step in range(STEPS):
            shape = (2 + rank, CHANNELS, 4, 6)
            features = torch.randn(shape, generator=generator, dtype=torch.float64) * (step + 1)
            labels = torch.randint(0, CLASSES, (2 + rank, 4, 6), generator=generator)
            labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
            if rank == 1 and step == 0:
                labels[:] = 255
            own.append((features + labels[:, None], labels))
        made.append(own)
    return made


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(batches(), folder / "batches.pt")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    numbers = [str(number) for number in (RANKS, CLASSES, CHANNELS)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(rank), *numbers], env=environment
        )
        for rank in range(RANKS)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * RANKS
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


def test_class_statistics_are_those_of_one_process_that_sees_everything(found):
    alone = ClassCovariance(CLASSES, CHANNELS)
    for per_rank in zip(*batches(), strict=True):
        alone.update(*(torch.cat(parts) for parts in zip(*per_rank, strict=True)))
    assert alone.count.min() > 20
    for rank in found:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(rank["covariance"][name], value, rtol=1e-12, atol=1e-12)


def test_class_statistics_of_one_rank_alone_would_be_others(found):
    alone = ClassCovariance(CLASSES, CHANNELS)
    for features, labels in batches()[0]:
        alone.update(features, labels)
    assert not torch.allclose(alone.variance, found[0]["covariance"]["variance"], rtol=1e-3)


@pytest.mark.parametrize("name", ["pixels", "regions"])
def test_memories_hold_what_was_noted_rank_after_rank(found, name):
    """Each rank draws with the step's seed, and puts the vectors of all ranks into its queue."""
    queues = ClassQueue(CLASSES, 6, CHANNELS), ClassQueue(CLASSES, 3, CHANNELS)
    alone = RelationMemory(ProjectionHead(2, CHANNELS), *queues, 4)
    for step, per_rank in enumerate(zip(*batches(), strict=True)):
        for features, labels in per_rank:
            torch.manual_seed(step)
            alone.note(features, labels)
        alone.after_step()
    expected = getattr(alone, name).state_dict()
    assert expected["filled"].min() == expected["vectors"].shape[1]  # rings are full, some twice
    for rank in found:
        for key, value in expected.items():
            assert rank[name][key].equal(value), key


def test_sums_and_rows_are_those_of_all_ranks(found):
    for rank in found:
        assert rank["summed"].tolist() == [3.0, 3.0]
        assert rank["gathered"].tolist() == [[0, 1]]  # the first rank has no row


def test_what_one_rank_knows_all_know(found):
    for rank in found:
        assert rank["numbers"] == [5, 6]
        assert rank["largest"].tolist() == [1, 0]
        assert rank["mean"].item() == 1.0  # (1 + 2) / (0 + 3), where the mean of means is 1/3
        assert rank["first"].tolist() == [0.0, 0.0]


def test_gradients_of_all_ranks_reach_the_rows_of_one(found):
    assert found[0]["slopes"].tolist() == [3.0]  # 1 + 2 times a weight of 1
    assert found[1]["slopes"].tolist() == [6.0, 9.0]


def test_where_one_rank_has_to_stop_all_do_and_one_says_why(found):
    first, second = ({k: rank.get(k) for k in ("interrupted", "failed", "both")} for rank in found)
    assert "none" not in found[0]
    assert first == {
        "interrupted": "KeyboardInterrupt",
        "failed": "StoppedElsewhere",
        "both": "ValueError",
    }
    assert second == {
        "interrupted": "KeyboardInterrupt",
        "failed": "ValueError",
        "both": "StoppedElsewhere",
    }


def test_a_process_alone_keeps_what_it_has():
    rows = torch.randn(3, 2, requires_grad=True)
    for known in (summed(rows), gathered(rows)):
        assert known is rows
    agree(None)
    with pytest.raises(ValueError, match="mine"):
        agree(ValueError("mine"))


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_frame_gets_the_same_random_numbers_however_many_ranks_there_are(blocks):
    def drawn(rows, count):
        torch.manual_seed(0)
        numbers = rows.rand((blocks * count, 4))
        return numbers, rows.dropout(torch.ones(blocks * count, 2, 3), 0.5)

    whole = [each.unflatten(0, (blocks, 5)) for each in drawn(Rows(), 5)]
    for start, count in ((0, 2), (2, 3)):
        for one, every in zip(drawn(Rows(start, 5, blocks), count), whole, strict=True):
            own = one.unflatten(0, (blocks, count))
            assert own.equal(every[:, start : start + count])
