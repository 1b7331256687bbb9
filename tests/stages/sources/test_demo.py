from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.scenes.classes import CLASSES
from stillroom.stages.scenes.rng import Rng, wave
from stillroom.stages.scenes.scene import DRAWING, build_scene
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.sources.open import SourceConfig, open_source
from stillroom.storage_specs.errors import ConfigError, FrameError

# Of frames 0, 13 and 63 of the default config. A change that moves them must raise `DRAWING`.
GOLDEN = ["8fe40e8bfbcde3e4", "48de760204d2fd7c", "39e16a482f3d6ede"]
SMALL = DemoConfig(clips=3, frames_per_clip=4, height=64, width=96)


def digest(source: DemoSource, index: int) -> str:
    frame = source.load(index)
    assert frame.label is not None
    return hashlib.sha256(frame.image.tobytes() + frame.label.tobytes()).hexdigest()[:16]


def test_a_demo_source_counts_names_and_places_its_frames() -> None:
    source = open_source(SMALL)
    assert len(source) == len(source.frame_ids) == len(set(source.frame_ids)) == 12
    assert source.frame_ids[6] == "clip0001_02"
    assert source.position(6) == ("clip0001", 2)
    frame = source.load(6)
    assert frame.frame_id == "clip0001_02"
    assert (frame.image.shape, frame.image.dtype) == ((64, 96, 3), np.uint8)
    with pytest.raises(IndexError):
        source.load(12)


def test_the_same_seed_gives_the_same_bytes_on_every_machine() -> None:
    source = DemoSource(DemoConfig())
    assert [digest(source, index) for index in (0, 13, 63)] == GOLDEN


def test_the_bytes_do_not_depend_on_the_processors_vector_units() -> None:
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    present = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
    if not present:
        pytest.skip("this processor has no vector units that numpy could leave unused")
    script = (
        "import hashlib; from stillroom.stages.sources.demo import DemoConfig, DemoSource;"
        "frame = DemoSource(DemoConfig()).load(13);"
        "data = frame.image.tobytes() + frame.label.tobytes();"
        "print(hashlib.sha256(data).hexdigest()[:16])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(present)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == GOLDEN[1]


def test_frames_do_not_depend_on_order_threads_or_what_was_drawn_before() -> None:
    source = DemoSource(SMALL)
    forward = [digest(source, index) for index in range(12)]
    build_scene.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda index: digest(source, index), reversed(range(12))))
    assert again[::-1] == forward
    assert len(set(forward)) == 12


def test_a_clip_does_not_depend_on_how_many_there_are() -> None:
    more = DemoSource(SMALL.model_copy(update={"clips": 9, "frames_per_clip": 7}))
    assert digest(DemoSource(SMALL), 2 * 4 + 3) == digest(more, 2 * 7 + 3)


def test_another_seed_gives_other_clips() -> None:
    other = DemoSource(SMALL.model_copy(update={"seed": 1}))
    assert digest(other, 0) != digest(DemoSource(SMALL), 0)


def test_every_class_appears_and_nothing_else() -> None:
    source = DemoSource(DemoConfig(clips=10, frames_per_clip=1, height=96, width=144))
    counts = np.zeros(256, int)
    for index in range(len(source)):
        label = source.load(index).label
        assert label is not None
        counts += np.bincount(label.ravel(), minlength=256)
    assert source.classes is not None
    share = counts / counts.sum()
    assert set(np.flatnonzero(counts)) == set(range(len(source.classes)))
    assert share[: len(source.classes)].max() < 0.6
    assert share[: len(source.classes)].min() > 0.0005


def test_a_class_cannot_be_told_by_its_colour_alone() -> None:
    source = DemoSource(DemoConfig(clips=16, frames_per_clip=1, height=64, width=96))
    frames = [source.load(index) for index in range(16)]
    pixels = np.concatenate([frame.image.reshape(-1, 3) >> 5 for frame in frames])
    labels = np.concatenate([frame.label.ravel() for frame in frames if frame.label is not None])
    codes = pixels @ np.array([64, 8, 1])
    table = np.zeros((512, 9), int)
    np.add.at(table, (codes, labels), 1)
    # even a table fitted to these very frames confuses most classes
    best = table.argmax(axis=1)[codes]
    iou = [
        ((best == k) & (labels == k)).sum() / ((best == k) | (labels == k)).sum() for k in range(9)
    ]
    assert np.mean(iou) < 0.35


def test_hidden_labels_leave_the_same_images() -> None:
    hidden = DemoSource(SMALL.model_copy(update={"labelled": False}))
    assert hidden.classes is None
    assert hidden.load(5).label is None
    np.testing.assert_array_equal(hidden.load(5).image, DemoSource(SMALL).load(5).image)


def test_sparse_labels_are_those_of_the_middle_and_the_rest_is_ignored() -> None:
    sparse = DemoSource(DemoConfig(clips=2, frames_per_clip=7, height=32, width=48, label_every=3))
    full = DemoSource(DemoConfig(clips=2, frames_per_clip=7, height=32, width=48))
    marked = [index for index in range(14) if sparse.labelled(index)]
    assert [sparse.position(index)[1] for index in marked] == [1, 4, 1, 4]
    assert all(full.labelled(index) for index in range(14))
    for index in (1, 2):
        ours, theirs = sparse.load(index), full.load(index)
        np.testing.assert_array_equal(ours.image, theirs.image)
        assert ours.label is not None
        assert theirs.label is not None
        expected = theirs.label if index in marked else np.full_like(theirs.label, 255)
        np.testing.assert_array_equal(ours.label, expected)
    assert sparse.identity() == {**full.identity(), "label_every": 3}


def test_the_identity_is_what_it_was_before_labels_could_be_sparse() -> None:
    assert DemoSource(DemoConfig()).identity() == {
        "kind": "demo", "clips": 8, "frames_per_clip": 8, "seed": 0, "height": 128, "width": 192,
        "labelled": True, "drawing": DRAWING, "classes": list(CLASSES),
    }  # fmt: skip


def test_labels_so_sparse_that_there_are_none_are_refused() -> None:
    with pytest.raises(ValidationError, match="leaves clips of 4 frames without a label"):
        DemoConfig(frames_per_clip=4, label_every=5)
    with pytest.raises(ValidationError, match="labelled = false hides them"):
        DemoConfig(label_every=2, labelled=False)
    every = DemoSource(DemoConfig(clips=1, frames_per_clip=4, label_every=4))
    assert [every.labelled(index) for index in range(4)] == [False, False, True, False]
    hidden = DemoSource(SMALL.model_copy(update={"labelled": False}))
    assert not any(hidden.labelled(index) for index in range(12))


def test_the_identity_survives_json_and_tells_configs_apart() -> None:
    identity = DemoSource(SMALL).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["kind"] == "demo"
    others = [
        DemoSource(SMALL.model_copy(update={key: value})).identity()
        for key, value in {"seed": 1, "clips": 4, "height": 65, "labelled": False}.items()
    ]
    assert identity not in others


def test_a_source_travels_to_another_process() -> None:
    source = DemoSource(SMALL)
    assert digest(pickle.loads(pickle.dumps(source)), 3) == digest(source, 3)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (200, 40), (17, 120)])
def test_odd_shapes_draw(height: int, width: int) -> None:
    source = DemoSource(DemoConfig(clips=1, frames_per_clip=2, height=height, width=width))
    assert source.load(1).image.shape == (height, width, 3)
    flow, seen = source.flow(0)
    assert flow.shape == (2, height, width)
    assert seen.shape == (height, width)
    assert np.isfinite(flow).all()


def test_the_last_frame_of_a_clip_has_no_flow() -> None:
    with pytest.raises(FrameError, match="clip0000_03: the last frame"):
        DemoSource(SMALL).flow(3)


@pytest.mark.parametrize(
    "field", [{"clips": 0}, {"height": 8}, {"seed": -1}, {"frames_per_clip": 61}, {"clip": 3}]
)
def test_a_config_out_of_range_is_refused(field: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        DemoConfig(**field)


def test_a_section_of_a_run_file_becomes_the_config_of_its_kind() -> None:
    config = TypeAdapter(SourceConfig).validate_python({"kind": "demo", "clips": 2})
    assert config == DemoConfig(clips=2)


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="ade20k, bdd100k, boxes, camvid, cityscapes, cityscapes_sequence, clips"
    ):
        open_source(DemoConfig().model_copy(update={"kind": "movie"}))


def test_draws_are_the_generators_raw_bits() -> None:
    # the stream that numpy promises never to change: PCG64 seeded by SeedSequence
    raw = int(np.random.PCG64(np.random.SeedSequence((3, 4))).random_raw())
    assert Rng(3, 4).unit() == (raw >> 11) / 2**53
    assert Rng(3, 4).octets(3).tolist() == [raw & 255, raw >> 8 & 255, raw >> 16 & 255]


def test_the_wave_is_periodic_smooth_and_bounded() -> None:
    phases = np.arange(-200, 200) / 100
    values = np.array([wave(phase) for phase in phases])
    assert np.abs(values).max() == 1
    np.testing.assert_allclose(values, np.sin(2 * np.pi * phases), atol=0.06)
