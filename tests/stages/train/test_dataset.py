from __future__ import annotations

import pytest
import torch

from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.open_dataset import choose, open_dataset
from stillroom.stages.train.photometric import PhotometricConfig
from stillroom.stages.train.settings import StreamConfig, TrainConfig
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError

NEEDS = frozenset({"fpn/logits", "fpn/confidence", "fpn/pseudo_label"})
MOVING = ViewConfig(crop=(16, 20), scale=(0.7, 1.6), flip=True)


def dataset(cache, needs=NEEDS, **options):
    source = options.pop("source", "camvid")
    frames = cache.artifact_set(source, "frames")
    options = {"out_stride": 4, "view": MOVING, **options}
    teachers = {"fpn": cache.artifact_set(source, "fpn")}
    return CacheDataset("stream", frames, teachers, needs=needs, **options)


def same(one, other):
    assert one.frame_id == other.frame_id
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.label, other.label)
    assert torch.equal(one.mask, other.mask)
    assert one.artifacts.keys() == other.artifacts.keys()
    for key, value in one.artifacts.items():
        assert torch.equal(value, other.artifacts[key])


@pytest.mark.parametrize("crop", [None, (16, 20)])
def test_frame_label_and_artifacts_follow_one_view(tmp_path, make_cache, crop):
    # At stride 1 and scale 1 a view only moves cells, so that everything must agree exactly.
    cache = make_cache(tmp_path / "cache", stride=1)
    view = ViewConfig(crop=crop, flip=True)
    data = dataset(cache, view=view, out_stride=1)
    for place in range(len(data)):
        sample = data.sample(0, place)
        assert torch.equal(sample.artifacts["fpn/logits"].argmax(0), sample.label)
        assert torch.equal(sample.artifacts["fpn/pseudo_label"], sample.label)
        assert torch.equal((sample.image / 60).floor().amin(0).long(), sample.label)


def test_a_sample_has_the_shapes_of_a_batch_without_its_first_axis(tmp_path, make_cache):
    sample = dataset(make_cache(tmp_path / "cache")).sample(0, 0)
    assert sample.image.shape == (3, 16, 20)
    assert sample.image.dtype == torch.float32
    assert sample.label.shape == (16, 20)
    assert sample.label.dtype == sample.artifacts["fpn/pseudo_label"].dtype == torch.int64
    assert sample.mask.shape == (1, 4, 5)
    assert sample.artifacts["fpn/logits"].shape == (4, 4, 5)
    assert sample.artifacts["fpn/confidence"].shape == (1, 4, 5)
    assert sample.artifacts["fpn/confidence"][sample.mask].mean() == pytest.approx(0.8, abs=1e-6)


def test_a_sample_depends_on_epoch_and_frame_and_on_nothing_else(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache")
    jitter = PhotometricConfig(brightness=0.2)
    first, second = (dataset(cache, jitter=jitter, seed=3) for _ in range(2))
    wanted = first.sample(2, 5)
    for place in range(4):
        second.sample(0, place)
    torch.manual_seed(99)
    same(second.sample(2, 5), wanted)
    assert not torch.equal(first.sample(3, 5).image, wanted.image)
    assert not torch.equal(dataset(cache, jitter=jitter, seed=4).sample(2, 5).image, wanted.image)


def test_jitter_changes_the_students_input_only(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache")
    plain = dataset(cache).sample(0, 1)
    lit = dataset(cache, jitter=PhotometricConfig(brightness=0.5)).sample(0, 1)
    assert not torch.equal(lit.image, plain.image)
    assert torch.equal(lit.label, plain.label)
    for key, value in plain.artifacts.items():
        assert torch.equal(lit.artifacts[key], value)


def test_every_frame_of_every_epoch_has_a_light_of_its_own(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache")
    still = dataset(cache, view=ViewConfig())
    lit = dataset(cache, view=ViewConfig(), jitter=PhotometricConfig(brightness=0.2))
    factors = [
        float(lit.sample(*where).image.mean() / still.sample(*where).image.mean())
        for where in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({round(factor, 4) for factor in factors}) == 3


def test_padding_is_masked(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache", valid=(24, 20))
    sample = dataset(cache, view=ViewConfig()).sample(0, 0)
    assert sample.mask[:, :, :5].all()
    assert not sample.mask[:, :, 5:].any()


def test_frames_bad_in_any_set_are_left_out_and_told(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache", bad=(2,), teacher_bad=(2, 7))
    data = dataset(cache)
    assert list(data.indices) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert data.skipped == {"camvid_002": "frames: truncated", "camvid_007": "fpn: truncated"}
    assert len(dataset(cache, needs=frozenset())) == 9  # the teacher's bad row is not read


def test_no_usable_frame_is_an_error(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache", bad=(2, 3))
    with pytest.raises(ConfigError, match="none of the 2 frames"):
        dataset(cache, indices=[2, 3])


def test_an_unfinished_cache_is_refused(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache", shards=[0, 2])
    with pytest.raises(CacheIncomplete, match=r"2 of 3 shards.*cache build"):
        dataset(cache)


def test_labels_that_are_not_there_are_refused(tmp_path, make_cache):
    cache = make_cache(tmp_path / "cache", labelled=False)
    with pytest.raises(ConfigError, match=r"has no labels.*labelled = false"):
        dataset(cache)
    assert dataset(cache, labelled=False).sample(0, 0).label is None


@pytest.mark.parametrize("key", ["fpn/flow", "fpm/logits"])
def test_an_artifact_that_is_not_there_is_refused(tmp_path, make_cache, key):
    with pytest.raises(ConfigError, match=f"needs '{key}'.*fpn/logits, fpn/confidence"):
        dataset(make_cache(tmp_path / "cache"), needs=frozenset({key}))


def test_every_and_complement_share_a_source(tmp_path, make_cache):
    kept = choose(10, StreamConfig(batch=1, every=4))
    rest = choose(10, StreamConfig(batch=1, every=4, complement=True))
    assert kept == [0, 4, 8]
    assert sorted(kept + rest) == list(range(10))
    settings = TrainConfig.model_validate(
        {
            "path": tmp_path / "run",
            "steps": 1,
            "streams": {
                "some": {"source": "camvid", "batch": 1, "every": 4},
                "rest": {
                    "source": "camvid",
                    "batch": 1,
                    "every": 4,
                    "complement": True,
                    "labelled": False,
                },
            },
        }
    )
    cache = make_cache(tmp_path / "cache")
    some, others = (open_dataset(cache, name, settings, NEEDS, 4) for name in settings.streams)
    assert (len(some), len(others)) == (3, 7)
    assert others.sample(0, 0).label is None
    assert set(some.fingerprints) == {"camvid/frames", "camvid/fpn"}


@pytest.mark.parametrize("tile", [(8, 8), (5, 100)])
def test_samples_from_tiles_are_those_from_whole_frames(tmp_path, make_cache, tile):
    whole = dataset(make_cache(tmp_path / "whole"))
    cut = dataset(make_cache(tmp_path / "cut", tile=tile))
    assert cut.frames.arrays["frames"].tile is not None
    for epoch in range(3):
        for place in range(len(whole)):
            same(cut.sample(epoch, place), whole.sample(epoch, place))


def test_a_crop_reads_no_more_of_a_tiled_frame_than_it_shows(tmp_path, make_cache, monkeypatch):
    cut = dataset(make_cache(tmp_path / "cut", tile=(8, 8)), view=ViewConfig(crop=(8, 8)))
    areas = []
    read_window = type(cut.frames).read_window

    def watched(self, artifact, index, rows, columns):
        if artifact == "frames":
            areas.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return read_window(self, artifact, index, rows, columns)

    monkeypatch.setattr(type(cut.frames), "read_window", watched)
    cut.sample(0, 0)
    (area,) = areas
    assert area <= 9 * 9
