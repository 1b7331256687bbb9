"""Frames pasted into one another: the pixels that are, all that follows them, and whose they are.

Everything of a batch tells which frame it is of, so that it can be seen what came from where.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.batch import Batch
from stillroom.stages.train.loop import train
from stillroom.stages.train.metrics import read_metrics
from stillroom.stages.train.mix import Mix, Mixing, boxes, half_the_classes
from stillroom.stages.train.packed.arrival import on_device
from stillroom.stages.train.packed.packed_dataset import PackedDataset
from stillroom.stages.train.stream import Loader, open_loader
from stillroom.storage_specs.errors import ConfigError

CPU = torch.device("cpu")
SIZE, STRIDE = (21, 30), 4  # the last row of cells has one row of pixels, the last column two
LABELS = "fpn/pseudo_label"


def numbers_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 256, generator=torch.Generator().manual_seed(seed))


def told(*shape: int) -> torch.Tensor:
    """A batch's values that are the numbers of their frames."""
    return torch.arange(shape[0], dtype=torch.float32).view(-1, *[1] * (len(shape) - 1)) + (
        torch.zeros(shape)
    )


def batch_of(count: int = 4, by: str | None = None) -> Batch:
    cells, coarse = (tuple(-(-side // stride) for side in SIZE) for stride in (STRIDE, 16))
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 7, (count, *SIZE)))
    labels[:, :3] = 255
    return Batch(
        stream="coco",
        labelled=False,
        images=told(count, 3, *SIZE),
        labels=None,
        mask=told(count, 1, *cells) % 2 == 0,
        artifacts={
            LABELS: labels,
            "fpn/logits": told(count, 5, *cells),
            "fpn/features/stage4@16": told(count, 2, *coarse),
            "fpn/pixel_confidence": told(count, 1, *SIZE),
        },
        masks={16: told(count, 1, *coarse) % 2 == 0},
        frame_ids=[str(place) for place in range(count)],
        mix=Mix(Mixing(by, STRIDE), numbers_of(count)),
    )


def test_a_box_is_half_the_frame_and_anywhere_in_it():
    height, width = 40, 60
    numbers = numbers_of(200)
    found = boxes(numbers, (height, width), CPU).numpy()
    for inside, (u, down, right, *_) in zip(found, numbers.tolist(), strict=True):
        tall, wide = round(height * 0.5**u), round(width * 0.5 ** (1 - u))
        top, left = round(down * (height - tall)), round(right * (width - wide))
        expected = np.zeros((height, width), bool)
        expected[top : top + tall, left : left + wide] = True
        assert np.array_equal(inside, expected)
        assert abs(expected.mean() - 0.5) < 0.02
    assert found.any((0, 1)).all()
    assert found.any((0, 2)).all()
    tall = found.any(2).sum(1)
    assert tall.min() <= 21
    assert tall.max() >= 39


@pytest.mark.parametrize("classes", [1, 2, 7, 255])
def test_half_the_classes_are_those_of_the_lowest_numbers(classes):
    labels = np.random.default_rng(0).integers(0, classes, (3, 30, 40))
    labels[0, :10] = 255
    labels[1] = 255
    numbers = numbers_of(3)
    found = half_the_classes(numbers, torch.from_numpy(labels)).numpy()
    for inside, of, drawn in zip(found, labels, numbers.numpy(), strict=True):
        there = [each for each in np.unique(of) if each != 255]
        chosen = sorted(there, key=lambda each, drawn=drawn: drawn[each])[: len(there) // 2]
        assert np.array_equal(inside, np.isin(of, chosen))


@pytest.mark.parametrize("by", [None, LABELS])
def test_all_of_a_batch_follows_the_same_pixels_each_on_its_own_grid(by):
    batch = batch_of(by=by)
    made = batch.mixed()
    assert made.mix is None
    assert made.mixed() is made
    assert batch.images.equal(told(*batch.images.shape))
    if by is None:
        own = boxes(numbers_of(4), SIZE, CPU)
    else:
        own = half_the_classes(numbers_of(4), batch.artifacts[LABELS])
    came = torch.arange(4)[:, None, None] + torch.zeros(4, *SIZE)
    for place, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        came[place][own[other]] = other
        expected = torch.where(own[other], *(batch.artifacts[LABELS][i] for i in (other, place)))
        assert torch.equal(made.artifacts[LABELS][place], expected)
    assert len(came[0].unique()) == 2
    assert made.images.equal(came[:, None].expand_as(made.images))
    assert made.artifacts["fpn/pixel_confidence"].equal(came[:, None])
    grids = [(STRIDE, made.artifacts["fpn/logits"], made.mask)]
    grids += [(16, made.artifacts["fpn/features/stage4@16"], made.masks[16])]
    for stride, values, mask in grids:
        for row in range(math.ceil(SIZE[0] / stride)):
            for column in range(math.ceil(SIZE[1] / stride)):
                y = min(row * stride + stride // 2, SIZE[0] - 1)
                x = min(column * stride + stride // 2, SIZE[1] - 1)
                assert values[:, :, row, column].equal(came[:, y, x, None].expand(values.shape[:2]))
                assert mask[:, 0, row, column].equal(came[:, y, x] % 2 == 0)


TERMS = (
    {"name": "cross_entropy", "teacher": "fpn"},
    {"name": "pixelwise_kl", "teacher": "fpn", "weight": 0.5},
)
STREAMS = {
    "camvid": {"batch": 2},
    "more": {"source": "camvid", "batch": 4, "labelled": False, "mix": "classmix"},
}


def test_a_frame_is_mixed_alike_whoever_decodes_it_and_however_many_ranks_there_are(make_job):
    job = make_job("run", TERMS, seed=0, streams=STREAMS, decode="host")
    batches = {name: stream.batch for name, stream in job.settings.streams.items()}

    def loaded(packed: bool, **options: int) -> list[Batch]:
        streams = {k: PackedDataset(one) if packed else one for k, one in job.streams.items()}
        with Loader(streams, batches, seed=0, steps=6, mixing=job.mixing, **options) as loader:
            return [one for each in loader for one in on_device(each, CPU) if not one.labelled]

    whole = loaded(False)
    assert whole[0].mix is None
    with Loader(job.streams, batches, seed=0, steps=1) as loader:
        plain = on_device(next(iter(loader)), CPU)[1]
    changed = (whole[0].images != plain.images).any(1)
    assert 0.05 < changed.float().mean() < 0.95
    ranks = [loaded(False, rank=rank, world_size=2) for rank in range(2)]
    others = [loaded(True), [None] * 4 + loaded(False, start_step=4)]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert torch.cat([one.images for one in parts]).equal(batch.images)
        for key, value in batch.artifacts.items():
            assert torch.cat([one.artifacts[key] for one in parts]).equal(value)
        for one in (each[step] for each in others if each[step] is not None):
            torch.testing.assert_close(one.images, batch.images)
            assert one.artifacts[LABELS].equal(batch.artifacts[LABELS])
            assert one.mask.equal(batch.mask)


def test_a_run_of_mixed_frames_resumes_to_the_same_losses(make_job):
    def losses(job) -> list[dict[str, object]]:
        train(job)
        return [
            {k: v for k, v in line.items() if k != "seconds"}
            for line in read_metrics(job.settings.path)
        ]

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    options = {"accumulate": 2, "streams": STREAMS, "steps": 4, "log_every": 1}
    whole = losses(make_job("whole", TERMS, seed=0, **options))
    with pytest.raises(KeyboardInterrupt):
        train(make_job("half", TERMS, seed=0, on_step=stop, **options))
    assert losses(make_job("half", TERMS, **options)) == whole


def test_workers_must_have_whole_pairs(make_job):
    job = make_job("run", TERMS, streams={"more": {**STREAMS["more"], "batch": 6}})
    with pytest.raises(ConfigError, match=r"more: mix .* each of 2 workers .* multiple of 4"):
        Loader(job.streams, {"more": 6}, seed=0, steps=1, mixing=job.mixing, world_size=2)
    with open_loader(job) as loader:
        assert list(loader.mixing) == ["more"]
