from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.stream import Loader
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.errors import CacheCorrupt, ConfigError


@pytest.fixture
def data(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache", count=7)
    view = ViewConfig(crop=(16, 20), scale=(0.8, 1.2), flip=True)
    frames, fpn = (cache.artifact_set("camvid", name) for name in ("frames", "fpn"))
    needs = frozenset({"fpn/logits"})
    return {
        "first": CacheDataset("first", frames, {"fpn": fpn}, needs=needs, view=view, out_stride=4),
        "second": CacheDataset("second", frames, {}, view=view, out_stride=4, labelled=False),
    }


BATCHES = {"first": 3, "second": 2}


def load(data, batches=BATCHES, **options):
    with Loader(data, batches, **{"seed": 1, "steps": 8, **options}) as loader:
        return list(loader)


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("stillroom-loader")]


def assert_same(one, other):
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        for batch, twin in zip(mine, theirs, strict=True):
            assert batch.stream == twin.stream
            assert batch.frame_ids == twin.frame_ids
            assert torch.equal(batch.images, twin.images)
            for key, value in batch.artifacts.items():
                assert torch.equal(value, twin.artifacts[key])


def test_batches_do_not_depend_on_threads_or_on_reading_ahead(data):
    plain = load(data, threads=1, ahead=0)
    assert_same(plain, load(data, threads=3, ahead=5))
    shapes = [tuple(batch.images.shape) for batch in plain[0]]
    assert shapes == [(3, 3, 16, 20), (2, 3, 16, 20)]
    assert plain[0][0].labels.shape == (3, 16, 20)
    assert plain[0][1].labels is None
    assert not plain[0][1].labelled


def test_starting_at_a_step_is_the_tail_of_starting_at_the_first(data):
    assert_same(load(data)[5:], load(data, start_step=5))


def test_the_streams_cycle_each_at_its_own_pace(data):
    steps = load(data, steps=7)  # 21 = 3 * 7 frames of the first, 14 = 2 * 7 of the second
    for stream, passes in (("first", 3), ("second", 2)):
        seen = [i for step in steps for b in step if b.stream == stream for i in b.frame_ids]
        for epoch in range(passes):
            assert len(set(seen[7 * epoch : 7 * epoch + 7])) == 7


class Faulty:
    """A dataset whose third frame cannot be read."""

    def __init__(self, inner, error):
        self.inner, self.error = inner, error

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def sample(self, epoch, place):
        if place == 2:
            raise self.error
        return self.inner.sample(epoch, place)


@pytest.mark.parametrize("error", [CacheCorrupt("bits fell over"), ZeroDivisionError("bug")])
def test_a_fault_in_a_thread_is_raised_with_stream_and_frame(data, error):
    faulty = {"first": Faulty(data["first"], error)}
    with pytest.raises(type(error)) as caught:
        load(faulty, {"first": 3})
    told = str(caught.value) + " ".join(getattr(caught.value, "__notes__", ()))
    assert "stream first, frame camvid_002" in told
    assert str(error) in told
    assert not loader_threads()


def test_leaving_early_stops_the_threads(data):
    def leave():
        with Loader(data, BATCHES, seed=0, steps=1000, threads=3, ahead=20) as loader:
            for _ in loader:
                assert loader_threads()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert not loader_threads()


class Counting(Faulty):
    def __init__(self, inner):
        super().__init__(inner, None)
        self.samples = 0

    def sample(self, epoch, place):
        self.samples += 1
        return self.inner.sample(epoch, place)


def test_no_more_is_read_ahead_than_asked_for(data):
    counting = Counting(data["first"])
    with Loader({"first": counting}, {"first": 3}, seed=0, steps=50, threads=1, ahead=2) as loader:
        steps = iter(loader)
        next(steps)
        deadline = time.monotonic() + 5
        while counting.samples < 9 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert counting.samples == 9  # the step in use and two more, of three frames each


def test_streams_and_batches_must_be_the_same(data):
    with pytest.raises(ConfigError, match="must be the same"):
        Loader(data, {"first": 1}, seed=0, steps=1)


def test_loading_threads_do_not_change_how_many_threads_torch_uses(data):
    def in_new_thread():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    torch.set_num_threads(2)  # the fixture of these tests sets it back
    load(data, steps=2)
    assert torch.get_num_threads() == in_new_thread() == 2
