from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.across_ranks import share
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.order import draws
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


def open_memory():
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found += [link] * ("memfd:stillroom" in os.readlink(link))
    return found


@pytest.mark.slow
def test_batches_of_processes_are_those_of_threads_and_nothing_of_them_stays(data):
    plain = load(data)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    one = {"first": 3}
    assert_same(plain, load(data, processes=True, ahead=3))
    assert (
        len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 1
    )  # a pipe of multiprocessing
    assert not multiprocessing.active_children()
    with Loader({"first": data["first"]}, one, seed=1, steps=30, processes=True) as loader:
        places = {batch.images.data_ptr() for (batch,) in loader}
        assert open_memory()
    assert len(places) < 30


@pytest.mark.slow
def test_a_fault_in_a_process_is_raised_with_stream_and_frame(data):
    objects = list((Path(data["first"].frames.place) / "camvid/fpn/logits").glob("c.*"))
    assert objects
    for path in objects:
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        path.write_bytes(content)
    with pytest.raises(CacheCorrupt, match="stream first, frame camvid_00"):
        load(data, processes=True)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_everybody_lets_the_step_end_first(data, sent):
    with Loader({"first": data["first"]}, {"first": 3}, seed=1, steps=6, processes=True) as loader:
        steps = iter(loader)
        found = [next(steps)]
        for child in multiprocessing.active_children():
            os.kill(child.pid, sent)
        found += steps
    assert_same(found, load({"first": data["first"]}, {"first": 3}, steps=6))


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_of_and_ends_the_others(data):
    def read_on(loader):
        for _ in loader:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    with (
        Loader(data, BATCHES, seed=0, steps=1000, processes=True) as loader,
        pytest.raises(ConfigError, match=r"process of the loader died.*lower train.threads"),
    ):
        read_on(loader)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_processes_end_with_a_trainer_that_is_killed(data, tmp_path):
    (tmp_path / "data.pickle").write_bytes(pickle.dumps(data["first"]))
    code = (
        "import os, pickle, signal, sys, multiprocessing\n"
        "from stillroom.stages.train.stream import Loader\n"
        "if __name__ == '__main__':\n"
        "    data = pickle.load(open(sys.argv[1], 'rb'))\n"
        "    loader = Loader({'first': data}, {'first': 3}, seed=0, steps=99, processes=True)\n"
        "    next(iter(loader))\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "script.py").write_text(code)
    asked = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "data.pickle")]
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True)
    children = [int(pid) for pid in done.stdout.split()]
    assert children
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_every_place_of_a_batch_holds_the_sample_of_its_frame(data):
    for step, batches in enumerate(load(data, steps=3)):
        for batch in batches:
            dataset, count = data[batch.stream], BATCHES[batch.stream]
            drawn = draws(7, 1, batch.stream, range(step * count, (step + 1) * count))
            for place, (epoch, frame) in enumerate(drawn):
                found, wanted = batch.sample(place), dataset.sample(epoch, frame)
                assert found.frame_id == wanted.frame_id
                assert torch.equal(found.image, wanted.image)
                assert torch.equal(found.mask, wanted.mask)
                assert (found.label is None) == (wanted.label is None)
                assert found.label is None or torch.equal(found.label, wanted.label)
                for key, value in wanted.artifacts.items():
                    assert torch.equal(found.artifacts[key], value)


@given(count=st.integers(0, 60), world=st.integers(1, 7))
def test_ranks_share_what_there_is_as_evenly_as_it_goes(count, world):
    shares = [share(count, rank, world) for rank in range(world)]
    assert [i for each in shares for i in each] == list(range(count))
    assert {len(each) for each in shares} <= {count // world, -(-count // world)}


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_have_the_batches_of_one_process(data, world):
    """At each step; so any number of them goes on with what another has begun."""
    batches = {"first": 5, "second": 3}
    ranks = [
        load(data, batches, steps=4, start_step=1, rank=rank, world_size=world)
        for rank in range(world)
    ]
    for whole, *parts in zip(load(data, batches, steps=4)[1:], *ranks, strict=True):
        for batch, *own in zip(whole, *parts, strict=True):
            assert [i for each in own for i in each.frame_ids] == batch.frame_ids
            assert torch.equal(torch.cat([each.images for each in own]), batch.images)
            assert all(each.frame_ids for each in own)
            starts = [each.rows.start for each in own]
            assert starts == [share(len(batch.images), r, world).start for r in range(world)]
            assert {each.rows.of for each in own} == {len(batch.images)}


def test_a_batch_that_is_less_than_a_frame_each_is_refused(data):
    with pytest.raises(ConfigError, match=r"streams\.second: a batch of 2 for 3 workers"):
        load(data, rank=0, world_size=3)


def test_memory_of_a_batch_serves_a_later_one_and_never_while_it_is_held(tmp_path, make_cache):
    frames = make_cache(tmp_path / "large", count=7, canvas=(96, 128)).artifact_set(
        "camvid", "frames"
    )
    data = {"first": CacheDataset("first", frames, {}, view=ViewConfig(flip=True))}
    options = {"seed": 1, "steps": 12, "threads": 1, "ahead": 0}
    held = load(data, {"first": 3}, **options)
    places, kept = set(), []
    with Loader(data, {"first": 3}, **options) as loader:
        for (batch,) in loader:
            places.add(batch.images.data_ptr())
            kept.append([replace(batch, images=batch.images.clone())])
    assert len({batch.images.data_ptr() for (batch,) in held}) == 12
    assert len(places) < 12
    assert_same(held, kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("processes", [False, True])
def test_batches_for_a_gpu_are_pinned(data, processes):
    for batches in load(data, pin=True, processes=processes):
        for batch in batches:
            assert batch.images.is_pinned()
            assert batch.mask.is_pinned()


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

    def fill(self, batch, place, epoch, frame):
        if frame == 2:
            raise self.error
        self.inner.fill(batch, place, epoch, frame)


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

    def fill(self, batch, place, epoch, frame):
        self.samples += 1
        self.inner.fill(batch, place, epoch, frame)


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
