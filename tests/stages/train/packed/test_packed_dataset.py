"""A packed frame that is unpacked is the frame that the host decodes and brings to its view.

Every artifact with every codec that may store it, through any view: labels, masks and what is of
equal steps to the bit; codecs that take an exponential within a few units in the last place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.packed.packed_dataset import PackedDataset
from stillroom.stages.train.photometric import PhotometricConfig
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.codecs.table import CODECS
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.shards.tiles import fitted_tile
from stillroom.storage_specs.store import Cache

CANVAS, COUNT, STRIDE, CLASSES = (40, 56), 4, 4, 101
TARGETS = {"depth", "normals", "boxes"}
FILMED = ("image", "vector")  # frames, and flow, which no stream of single frames reads


def codecs_of(artifact):
    """Every codec of an artifact with each of its predictors."""
    for name in artifact.codecs:
        for example in CODECS[name].examples:
            if not {"budget", "low", "k"} & example.options.keys():
                yield CODECS[name](**example.options)


def spec_of(artifact, codec, tile, target=False):
    shape = {"channel": CLASSES, "y": CANVAS[0], "x": CANVAS[1], "rgb": 3, "xyz": 3}
    shape |= {"box": 6, "corners": 5}
    stride = 1
    if artifact.has_stride and not target:
        stride = STRIDE
        shape |= {"y": -(-CANVAS[0] // stride), "x": -(-CANVAS[1] // stride)}
    name = f"{artifact.name}/deep" if artifact.layered else artifact.name
    made = ArraySpec(
        name, tuple(shape[axis] for axis in artifact.axes), codec, attributes={"stride": stride}
    )
    if tile and artifact.has_map and codec.tileable:
        return replace(made, tile=fitted_tile((8, 8), made.shape, artifact.axes))
    return made


def values_of(spec, rng):
    kind = spec.kind
    if kind.dtype == "uint8":
        return rng.integers(0, 256 if kind.geometry == "image" else 20, spec.shape, dtype=np.uint8)
    if "confidence" in kind.name:
        return rng.random(spec.shape, dtype=np.float32)
    if kind.geometry == "boxes":
        corner, size = rng.uniform(0, 36, (6, 2)), rng.uniform(2, 20, (6, 2))
        return np.hstack([corner, corner + size, np.ones((6, 1))]).astype(np.float32)
    values = rng.normal(0, 7, spec.shape).astype(np.float32)
    if kind.geometry == "direction":
        hole = rng.random(spec.shape[1:]) < 0.3
        return np.where(hole, 0, values / np.linalg.norm(values, axis=0)).astype(np.float32)
    if kind.geometry == "depth":
        return np.where(rng.random(spec.shape) < 0.7, np.abs(values) + 1, 0).astype(np.float32)
    return values


def define(cache, name, specs):
    made = cache.define("street", name, {"of": name}, COUNT, 3, specs)
    rng = np.random.default_rng(len(name))
    for shard in range(made.shards):
        writer = made.writer(shard)
        for index in made.shard_range(shard):
            row = FrameRow(
                index, f"frame{index}", valid_height=CANVAS[0] - 5, valid_width=CANVAS[1]
            )
            writer.put(row, {spec.artifact: values_of(spec, rng) for spec in specs})
        writer.commit()
    return made


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "tiles"])
def sets(request, tmp_path_factory):
    """The set of frames, and a set a codec: named by it."""
    cache = Cache.create(tmp_path_factory.mktemp("packed") / "cache")
    tile, teachers = request.param, {}
    labels = spec_of(ARTIFACTS["labels"], CODECS["raw"](), tile)
    photo = CODECS["raw" if tile else "rgb"]()
    depth = spec_of(ARTIFACTS["depth"], CODECS["exact"](), tile, target=True)
    normals = spec_of(ARTIFACTS["normals"], CODECS["signed"](), tile, target=True)
    boxes = spec_of(ARTIFACTS["boxes"], CODECS["exact"](), tile, target=True)
    photos = spec_of(ARTIFACTS["frames"], photo, tile)
    frames = define(cache, "frames", [photos, labels, depth, normals, boxes])
    for artifact in ARTIFACTS.values():
        if artifact.made_by == "source" or artifact.geometry in FILMED:
            continue
        for number, codec in enumerate(codecs_of(artifact)):
            name = f"{artifact.name}_{codec.name}{number}"
            teachers[name] = define(cache, name, [spec_of(artifact, codec, tile)])
    return frames, teachers


def both(sets, view, **options):
    """The same stream, decoded here and packed."""
    frames, teachers = sets
    needs = {f"{name}/{artifact}" for name, one in teachers.items() for artifact in one.arrays}
    more = {f"{need}@16" for need in needs if "deep" in need} | TARGETS
    made = CacheDataset(
        "street", frames, teachers, needs=frozenset(needs | more), view=view, **options
    )
    return made, PackedDataset(made)


def filled(dataset, epoch):
    batch = dataset.empty(COUNT)
    for place in range(COUNT):
        dataset.fill(batch, place, epoch, place)
    return batch


def exponential(name):
    return "_kl" in name or "_log" in name


def assert_same(found, expected):
    assert (found.stream, found.labelled, found.frame_ids) == (
        expected.stream,
        expected.labelled,
        expected.frame_ids,
    )
    for one, other in ((found.labels, expected.labels), (found.mask, expected.mask)):
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other))
    assert list(found.masks) == list(expected.masks)
    for stride, mask in expected.masks.items():
        assert torch.equal(found.masks[stride], mask)
    assert set(found.targets) == set(expected.targets) == TARGETS
    for name, values in expected.targets.items():
        assert torch.equal(found.targets[name], values)
    assert list(found.artifacts) == list(expected.artifacts)
    for name, values in expected.artifacts.items():
        assert found.artifacts[name].dtype == values.dtype
        tolerance = 2e-5 if exponential(name) else 0
        torch.testing.assert_close(
            found.artifacts[name], values, rtol=tolerance / 10, atol=tolerance, msg=name
        )


@given(
    crop=st.none() | st.tuples(st.integers(1, 70), st.integers(1, 90)),
    scale=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)).map(sorted) | st.just((1.0, 1.0)),
    flip=st.booleans(),
    out_stride=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 9),
)
def test_what_is_unpacked_is_what_the_host_makes(sets, crop, scale, flip, out_stride, seed):
    view = ViewConfig(crop=crop, scale=tuple(scale), flip=flip)
    plain, packed = both(sets, view, out_stride=out_stride, seed=seed)
    expected, found = filled(plain, seed), filled(packed, seed).unpacked()
    assert_same(found, expected)
    assert found.images.dtype == torch.float32
    assert torch.equal(found.images, expected.images)


def test_jitter_is_the_host_s_but_for_the_order_of_a_sum(sets):
    view = ViewConfig(crop=(30, 44), scale=(0.5, 1.5), flip=True)
    for lit, most in (("brightness", 0), ("saturation", 0), ("contrast", 1e-3)):
        jitter = PhotometricConfig(**{lit: 0.6})
        plain, packed = both(sets, view, jitter=jitter, out_stride=4)
        expected, found = filled(plain, 1), filled(packed, 1).unpacked()
        unlit = filled(both(sets, view, out_stride=4)[0], 1)
        assert (expected.images - unlit.images).abs().max() > 1
        assert (found.images - expected.images).abs().max() <= most, lit


def test_a_frame_of_which_nothing_is_shown_stays_black(sets):
    view = ViewConfig(crop=(5, 5), scale=(0.01, 0.01))  # a window far larger than the canvas
    plain, packed = both(sets, view, jitter=PhotometricConfig(contrast=0.5), out_stride=4)
    found = [filled(packed, epoch).unpacked() for epoch in range(3)]
    assert not any(batch.images.isnan().any() for batch in found)
    for epoch, batch in enumerate(found):
        assert_same(batch, filled(plain, epoch))


def test_only_what_a_view_needs_is_used_of_a_slot(sets):
    small, large = (both(sets, ViewConfig(crop=(16, 16), scale=(s, s)))[1] for s in (4, 0.5))
    few, many = (filled(packed, 0).bytes_used() for packed in (small, large))
    assert max(few) < min(many)
    assert max(many) <= large.empty(1).slots.shape[1]


def test_what_no_device_decodes_is_named_and_comes_decoded(sets, caplog):
    packed = both(sets, ViewConfig(crop=(16, 16)))[1]
    packed.tell()
    (line,) = caplog.messages
    assert line.startswith("stream street: the host decodes logits_topk")
    assert "codec topk" in line


def test_an_unlabelled_stream_has_no_labels_in_its_slots(sets):
    view = ViewConfig(crop=(24, 24), flip=True)
    plain, packed = both(sets, view, labelled=False)
    found = filled(packed, 2).unpacked()
    assert found.labels is None
    assert_same(found, filled(plain, 2))
