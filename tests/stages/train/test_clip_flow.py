"""Exact flow of drawn clips through the whole path: cached, read, viewed, warped."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stillroom.stages.cache.cache_shard import ShardJob, ShardWork, cache_shard
from stillroom.stages.cache.inputs import FrameInputs, PairInputs
from stillroom.stages.cache.producers import frames_and_targets
from stillroom.stages.cache.shard_threads import ShardThreads, Turn
from stillroom.stages.geometry import apply_artifact
from stillroom.stages.scenes.scene import build_scene
from stillroom.stages.scenes.scene_flow import flow_between
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.sources.pairs import PairsConfig, plan_pairs
from stillroom.stages.train.clip_flow import CachedFlow
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.order import draws
from stillroom.stages.train.packed.packed_dataset import PackedDataset
from stillroom.stages.train.photometric import PhotometricConfig
from stillroom.stages.train.stream import Loader
from stillroom.stages.view import ViewConfig
from stillroom.stages.warp import warp, warp_labels
from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import CacheCorrupt, CacheIncomplete, ConfigError, FrameError
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.store import Cache

HEIGHT, WIDTH = 96, 128
DEMO = DemoConfig(
    clips=2, frames_per_clip=6, seed=3, height=HEIGHT, width=WIDTH, targets=("depth",)
)
SHARD_FRAMES = 16
MIRRORED = torch.tensor([-1.0, 1.0])[:, None, None]  # u of the other sign
VIEWS = {
    "as it is": ViewConfig(),
    "crop": ViewConfig(crop=(64, 80)),
    "smaller": ViewConfig(crop=(48, 64), scale=(0.5, 0.5)),
    "larger": ViewConfig(crop=(64, 80), scale=(1.7, 1.7)),
    "mirrored": ViewConfig(crop=(64, 80), scale=(0.6, 1.8), flip=True),
}


@dataclass
class Exact:
    """What a flow model of drawn clips could know at best."""

    spoil: str = ""  # "first > second": not finite there

    def __call__(self, pairs):
        return [{"flow": self._flow(pair)} for pair in pairs]

    def _flow(self, pair):
        (clip, time), (_, other) = (each.frame_id.split("_") for each in (pair.frame, pair.partner))
        scene = build_scene(DEMO.seed, int(clip[4:]), HEIGHT, WIDTH)
        flow, _ = flow_between(scene, int(time), int(other))
        if pair.frame_id == self.spoil:
            flow[:, 0, 0] = np.nan
        return flow


def build(folder, config, exact, source=None):
    """A cache with the frames and the exact flow of the drawn clips."""
    source = source or DemoSource(DEMO)
    cache = Cache.create(folder)
    pairs = PairInputs(source, (HEIGHT, WIDTH), plan_pairs(source, config))
    raw = {"name": "none"}
    sets = {
        "frames": (
            FrameInputs(source, (HEIGHT, WIDTH)), frames_and_targets,
            [ArraySpec("frames", (HEIGHT, WIDTH, 3), codec_from_dict("raw"), raw, {"stride": 1}),
             ArraySpec("labels", (HEIGHT, WIDTH), codec_from_dict("raw"), raw, {"stride": 1}),
             ArraySpec("depth", (HEIGHT, WIDTH), codec_from_dict("log"), raw, {"stride": 1})],
        ),
        "exact": (
            pairs, exact,
            [ArraySpec("flow", (2, HEIGHT, WIDTH), codec_from_dict("flow"), raw, {"stride": 1})],
        ),
    }  # fmt: skip
    for name, (items, produce, arrays) in sets.items():
        target = cache.define("street", name, {}, len(items), SHARD_FRAMES, arrays)
        with ShardThreads(1, 1) as threads:
            for shard in range(target.shards):
                work = ShardWork("street", name, shard, ())
                cache_shard(ShardJob(work, items, produce, target, 4, Turn(), threads))
    return cache


EVERY = PairsConfig(of="all", offsets=(1, 2), draws=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return build(tmp_path_factory.mktemp("clips") / "c.cache", EVERY, Exact())


def dataset(cache, view=None, **options):
    flow = CachedFlow(cache.artifact_set("street", "exact"), options.pop("draws", None))
    frames = cache.artifact_set("street", "frames")
    return CacheDataset("street", frames, {}, view=view, flow=flow, **options)


@pytest.mark.parametrize("packed", [False, True])
def test_every_frame_of_a_triplet_has_its_own_depth_on_their_one_view(cache, packed):
    view = ViewConfig(crop=(64, 80), scale=(2.0, 2.0), flip=True)
    clips = dataset(cache, view, needs=frozenset({"depth"}), out_stride=4)
    batch = (PackedDataset(clips) if packed else clips).empty(2)
    for place in range(2):
        (PackedDataset(clips) if packed else clips).fill(batch, place, 0, 3 * place)
    batch = batch.unpacked() if packed else batch
    source = DemoSource(DEMO)
    for place in range(2):
        for shown, sample in zip(
            clips.shown(0, 3 * place), batch.triplet(place).samples, strict=True
        ):
            assert sample.frame_id == shown.frame_id
            true = torch.from_numpy(source.load(shown.index).targets["depth"])
            expected = apply_artifact(shown.view, true, ARTIFACTS["depth"])
            torch.testing.assert_close(sample.targets["depth"], expected, rtol=2e-4, atol=0)
            assert 0 < sample.targets["depth"].max() < 500  # half of what lies at most 1000 m away


def test_clips_tell_the_pixels_that_show_the_frame_whatever_the_students_grid(cache):
    view = ViewConfig(crop=(64, 80), scale=(0.5, 0.5))  # half of what it shows is no canvas
    clips = dataset(cache, view, out_stride=16)
    for place in range(len(clips)):
        for sample in clips.sample(0, place).samples:
            assert sample.masks.keys() == {1}
            assert torch.equal(sample.masks[1][0], sample.label != 255)
            assert 0 < sample.masks[1].sum() < sample.masks[1].numel()


def interior(label):
    """(H, W) bool: the pixels with one label all around, two pixels far: outlines are halves."""
    padded = nn.functional.pad(label[None, None].float(), (2, 2, 2, 2), value=-1)
    most, least = (nn.functional.max_pool2d(sign * padded, 5, stride=1) for sign in (1, -1))
    return (most == -least)[0, 0] & (label != 255)


def agreement(samples, trusted, side, flow):
    """Share of the trusted pixels whose label is that of the neighbour, where the flow points."""
    itself, other = samples[0].label, samples[1 + side].label
    found = warp_labels(other[None], flow)[0]
    inner = warp_labels(interior(other)[None].to(torch.uint8), flow)[0] == 1
    counts = trusted[0] & inner & interior(itself)
    assert counts.float().mean() > 0.2
    return (found == itself)[counts].float().mean().item()


@pytest.mark.parametrize("name", VIEWS)
def test_labels_and_pixels_land_where_the_flow_of_a_view_says(cache, name):
    clips = dataset(cache, VIEWS[name])
    errors = {"exact": [], "none": [], "mirrored": []}
    for place in range(len(clips)):
        for epoch in range(2):
            triplet = clips.sample(epoch, place)
            for side in (0, 1):
                flow = triplet.flow[side : side + 1]
                assert agreement(triplet.samples, triplet.visible[side], side, flow) == 1
                trusted, other = triplet.visible[side, 0], triplet.samples[1 + side].image
                for kind, by in (
                    ("exact", flow),
                    ("none", 0 * flow),
                    ("mirrored", flow * MIRRORED),
                ):
                    gap = (warp(other[None], by)[0] - triplet.samples[0].image).abs()
                    errors[kind].append(gap[:, trusted].mean().item())
    exact, none, mirrored = (np.mean(errors[kind]) for kind in errors)
    assert exact < 0.75 * none
    assert exact < 0.75 * mirrored


def test_the_flow_of_a_view_that_changes_nothing_is_the_exact_one(cache):
    clips = dataset(cache)
    triplet = clips.sample(0, 0)
    ids = [sample.frame_id for sample in triplet.samples]
    for side, other in enumerate(ids[1:]):
        (clip, time), (_, then) = (each.split("_") for each in (ids[0], other))
        scene = build_scene(DEMO.seed, int(clip[4:]), HEIGHT, WIDTH)
        exact, seen = flow_between(scene, int(time), int(then))
        assert np.abs(triplet.flow[side].numpy() - exact).max() <= 1 / 128
        # The check there and back knows of what is hidden, but for the outlines.
        trusted = triplet.visible[side, 0].numpy()
        assert (trusted[seen]).mean() > 0.99
        assert trusted[~seen].mean() < 0.9


def test_triplets_are_before_and_after_and_change_with_the_epoch(cache):
    clips = dataset(cache)
    seen = set()
    for epoch in range(12):
        before, after = (
            int(sample.frame_id[-2:]) - 2 for sample in clips.sample(epoch, 1).samples[1:]
        )
        assert clips.sample(epoch, 1).samples[0].frame_id == "clip0000_02"
        assert before < 0 < after
        seen.add((before, after))
    assert seen == {(-2, 1), (-2, 2), (-1, 1), (-1, 2)}
    again = dataset(cache)
    one, other = clips.sample(5, 1), again.sample(5, 1)
    assert torch.equal(one.flow, other.flow)
    assert [a.frame_id for a in one.samples] == [b.frame_id for b in other.samples]


def test_a_subset_of_the_draws_may_be_used_and_no_more_than_are_cached(cache):
    first = dataset(cache, draws=1)
    for place in range(len(first)):
        ids = {tuple(s.frame_id for s in first.sample(e, place).samples) for e in range(8)}
        assert len(ids) == 1
    with pytest.raises(ConfigError, match=r"draws = 3, and .* holds 2 a side; take fewer, or"):
        dataset(cache, draws=3)


def test_the_three_frames_of_a_triplet_are_jittered_alike(cache):
    jitter = PhotometricConfig(brightness=0.4)
    plain, changed = dataset(cache).sample(0, 2), dataset(cache, jitter=jitter).sample(0, 2)
    factors = []
    for before, after in zip(plain.samples, changed.samples, strict=True):
        bright = (before.image > 20) & (before.image < 150) & (after.image < 250)
        factors.append((after.image[bright] / before.image[bright]).median().item())
    assert factors[0] == pytest.approx(factors[1], abs=1e-3)
    assert factors[0] == pytest.approx(factors[2], abs=1e-3)
    assert factors[0] != pytest.approx(1, abs=1e-2)


def assert_packed_the_same(clips, count=2):
    """What is unpacked of the first triplets is what the host makes of them."""
    plain, packed = clips.empty(count), PackedDataset(clips).empty(count)
    packed.slots.fill_(0xAB)  # as memory is that has served before
    for place in range(count):
        clips.fill(plain, place, 1, place)
        PackedDataset(clips).fill(packed, place, 1, place)
    found = packed.unpacked()
    assert found.frame_ids == plain.frame_ids
    assert torch.equal(found.images, plain.images)
    assert torch.equal(found.labels, plain.labels)
    for name in ("frames", "pairs", "flow", "visible"):
        assert torch.equal(getattr(found.triplets, name), getattr(plain.triplets, name)), name


@pytest.mark.parametrize("view", VIEWS)
def test_packed_triplets_unpack_to_those_of_the_host(cache, view):
    jitter = PhotometricConfig(saturation=0.4)
    assert_packed_the_same(dataset(cache, VIEWS[view], jitter=jitter, out_stride=4))


def test_a_batch_holds_the_frames_then_those_before_then_those_after(cache):
    clips = dataset(cache, VIEWS["mirrored"])
    with Loader({"street": clips}, {"street": 3}, seed=0, steps=2) as loader:
        for step, (batch,) in enumerate(loader):
            triplets = batch.triplets
            assert batch.images.shape == (9, 3, 64, 80)
            assert triplets.frames.tolist() == [[3, 0, 6], [4, 1, 7], [5, 2, 8]]
            assert triplets.pairs.tolist() == [[0, 3], [1, 4], [2, 5], [0, 6], [1, 7], [2, 8]]
            assert triplets.flow.shape == (6, 2, 64, 80)
            times = [int(frame_id[-2:]) for frame_id in batch.frame_ids]
            for before, itself, after in triplets.frames.tolist():
                assert times[before] < times[itself] < times[after]
                assert len({batch.frame_ids[k][:8] for k in (before, itself, after)}) == 1
            for pair, flow, trusted in zip(
                triplets.pairs, triplets.flow, triplets.visible, strict=True
            ):
                samples = [SimpleNamespace(label=batch.labels[place]) for place in pair]
                assert agreement(samples, trusted, 0, flow[None]) == 1
            assert batch.to("cpu").triplets.flow is not None
            for place in range(3):  # as the batch of one triplet has them
                drawn = draws(len(clips), 0, "street", range(3 * step, 3 * step + 3))[place]
                found, wanted = batch.triplet(place), clips.sample(*drawn)
                assert torch.equal(found.flow, wanted.flow)
                assert torch.equal(found.visible, wanted.visible)
                for one, other in zip(found.samples, wanted.samples, strict=True):
                    assert one.frame_id == other.frame_id
                    assert torch.equal(one.image, other.image)


def test_a_bad_pair_and_a_bad_frame_leave_out_what_needs_them(tmp_path):
    class Torn(DemoSource):
        def load(self, index):
            if self.frame_ids[index] == "clip0001_03":
                raise FrameError("clip0001_03: torn")
            return super().load(index)

    one = PairsConfig(of="all", offsets=(1,))
    exact = Exact(spoil="clip0000_02 > clip0000_03")
    cache = build(tmp_path / "c.cache", one, exact, Torn(DEMO))
    clips = dataset(cache)
    there = [clips.frame_ids[index] for index in clips.indices]
    # of the first clip 02 lost its only way to 03; of the second 03 is torn, 02 and 04 beside it
    assert there == [f"clip0000_0{t}" for t in (1, 3, 4)] + ["clip0001_01"]
    assert "not finite in 2" in clips.skipped["clip0000_02 > clip0000_03"]
    assert "torn" in clips.skipped["clip0001_02 > clip0001_03"]
    # The way back from 03 is whole, but there is nothing to hold it against.
    assert clips.sample(0, 1).visible.any()
    assert_packed_the_same(clips, len(clips))


def test_without_the_way_back_all_that_stays_in_the_frame_is_trusted(tmp_path):
    """Of one labelled frame a clip, so that no pair is by chance another's way back."""
    sparse = DemoSource(DEMO.model_copy(update={"label_every": 6}))
    trusted = []
    for back in (False, True):
        config = PairsConfig(offsets=(1,), back=back)
        cache = build(tmp_path / f"{back}.cache", config, Exact(), sparse)
        clips = dataset(cache)
        assert [clips.frame_ids[index] for index in clips.indices] == ["clip0000_03", "clip0001_03"]
        assert_packed_the_same(clips)
        triplet = clips.sample(0, 0)
        x = torch.arange(WIDTH) + triplet.flow[:, 0]
        y = torch.arange(HEIGHT)[:, None] + triplet.flow[:, 1]
        inside = (x >= 0) & (x <= WIDTH - 1) & (y >= 0) & (y <= HEIGHT - 1)
        trusted.append(triplet.visible[:, 0])
        assert not (trusted[-1] & ~inside).any()
    without, with_it = trusted
    assert torch.equal(without, inside)
    assert with_it.sum() < without.sum()  # what is hidden is known only there and back


def test_frames_that_fill_the_canvas_differently_have_no_motion_between_them(tmp_path):
    class Cut(DemoSource):
        def load(self, index):
            frame = super().load(index)
            if self.frame_ids[index] != "clip0000_02":
                return frame
            return type(frame)(frame.frame_id, frame.image[:60], frame.label[:60])

    cache = build(tmp_path / "c.cache", PairsConfig(of="all", offsets=(1,)), Exact(), Cut(DEMO))
    rows = cache.artifact_set("street", "exact").rows().to_pylist()
    bad = {row["frame_id"]: row["reason"] for row in rows if row["status"] == "bad"}
    assert set(bad) == {"clip0000_01", "clip0000_02", "clip0000_03"}
    assert "fill 96x128 and 60x128 pixels of the canvas" in bad["clip0000_01"]


def test_displacements_beyond_the_codec_are_cut_and_counted(tmp_path):
    source = DemoSource(DEMO)
    plan = plan_pairs(source, PairsConfig(of="all", offsets=(1,)))
    items = PairInputs(source, (HEIGHT, WIDTH), plan, limit=10.0)
    flow = np.zeros((2, HEIGHT, WIDTH), np.float32)
    flow[0, 0, :5], flow[1, 0, 3:7] = 10.0, -10.0
    row = items.finished_row(0, items.load(0), {"flow": flow})
    assert (row.clipped, row.draw, row.partner) == (7, None, "clip0000_01")


def test_flow_in_another_shards_place_is_refused_before_it_is_learned_from(tmp_path):
    made = build(tmp_path / "c.cache", EVERY, Exact()).artifact_set("street", "exact")
    (stored,) = made.definition.stored(made.arrays["flow"])
    one, other = (tmp_path / "c.cache" / stored.object_path(shard) for shard in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert one.stat().st_size == other.stat().st_size
    with pytest.raises(CacheCorrupt, match=r"flow.*shard 0 .*may be another object.*--repair"):
        dataset(Cache.open(tmp_path / "c.cache")).sample(0, 0)


def test_a_set_that_lacks_shards_or_holds_no_pairs_is_refused(cache, tmp_path):
    with pytest.raises(ConfigError, match="holds no pairs of frames"):
        CachedFlow(cache.artifact_set("street", "frames"))
    part = build(tmp_path / "c.cache", EVERY, Exact())
    part.artifact_set("street", "exact").discard(1)
    with pytest.raises(CacheIncomplete, match=r"2 of 3 shards are committed"):
        dataset(Cache.open(part.path))
