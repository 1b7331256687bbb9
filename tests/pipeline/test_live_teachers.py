"""Teachers in the step: what they say of the student's views, beside what a cache holds of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import check_terms, prepare_job, train_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.train import run_folder
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.live_set import live_set
from stillroom.stages.train.live_teachers import LiveTeachers
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.stages.train.job import Progress

EXACT = [
    'cache.preset="exact"',
    'cache.artifacts=["logits", "pseudo_label", "confidence", "pixel_confidence", '
    '"features/penultimate"]',
    'terms=[{name="cross_entropy", teacher="tiny", threshold=0.26}, '
    '{name="pixelwise_kl", teacher="tiny"},'
    '{name="fitnet", teacher="tiny"}]',
    "train.streams={street={batch=3}, more={batch=2}}",
    "train.checkpoint_every=100",
    "train.gradients_every=0",
]
ONLINE, HYBRID = 'train.teacher="online"', 'train.teacher="hybrid"'
FRAMES = "cache.teachers=[]"
WHOLE = "train.view={}"

Losses = list[dict[str, float]]


def losses(run_file: Path, *overrides: str, steps: int = 6) -> Losses:
    """Every term of every step."""
    found: Losses = []

    def note(progress: Progress) -> None:
        found.append({"loss": progress.loss, **progress.terms})

    train_run(load_run(run_file, [*EXACT, f"train.steps={steps}", *overrides]), note)
    return found


def assert_alike(one: Losses, other: Losses) -> None:
    assert len(one) == len(other) > 0
    for mine, theirs in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.fixture
def frames(run_file: Path) -> Path:
    """A cache of frames and labels alone."""
    build(load_run(run_file, [*EXACT, FRAMES]))
    assert {name for _, name in Cache.open("street.cache").sets()} == {"frames"}
    return run_file


def test_on_whole_frames_losses_are_those_of_an_exact_cache(frames: Path) -> None:
    online = losses(frames, WHOLE, FRAMES, ONLINE, "train.path=online", steps=50)
    build(load_run(frames, EXACT))
    cached = losses(frames, WHOLE, steps=50)
    assert set(cached[0]) >= {
        "street/fitnet/tiny", "more/cross_entropy/tiny", "more/pixelwise_kl/tiny",
    }  # fmt: skip
    assert_alike(online, cached)
    assert len({round(one["loss"], 4) for one in online}) > 40


def test_jitter_and_pasting_are_for_the_student_alone(frames: Path) -> None:
    jitter = "train.jitter={brightness=0.5, contrast=0.5}"
    changed = [WHOLE, jitter, 'train.streams.more.mix="classmix"']
    online = losses(frames, *changed, ONLINE, "train.path=online")
    build(load_run(frames, EXACT))
    assert_alike(online, losses(frames, *changed))


@pytest.mark.parametrize("how", ["train.decode=device", 'train.loader="processes"'])
def test_hybrid_takes_from_the_cache_the_shards_that_are_there(run_file: Path, how: str) -> None:
    build(load_run(run_file, EXACT))
    cached = losses(run_file, WHOLE)
    one = Cache.open("street.cache").artifact_set("street", "tiny")
    assert one.discard(1)  # of three
    for folder in ("more/tiny", "manifest/more/tiny"):
        shutil.rmtree(Path("street.cache", folder))
    job = prepare_job(load_run(run_file, [*EXACT, WHOLE, HYBRID]))
    street, more = job.streams.values()
    assert {read.frame_ids for read in more.live.values()} == {None}
    assert {read.frame_ids for read in street.live.values()} == {frozenset(street.frame_ids[4:8])}
    assert_alike(losses(run_file, WHOLE, HYBRID, how, "train.path=hybrid"), cached)


def test_a_run_resumes_online_and_says_that_it_was(
    frames: Path,
) -> None:
    views = ["train.view={crop=[16, 24], scale=[0.75, 1.5], flip=true}", ONLINE]
    whole = losses(frames, *views, "train.accumulate=2")

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    resumed = load_run(frames, [*EXACT, *views, "train.accumulate=2", "train.path=again"])
    with pytest.raises(KeyboardInterrupt):
        train_run(resumed, stop)
    rest: Losses = []
    train_run(resumed, lambda progress: rest.append({"loss": progress.loss, **progress.terms}))
    assert rest == whole[3:]
    known = run_folder.read_json(Path("again/fingerprints.json"))
    assert known.keys() == {"street/frames", "street/tiny", "more/frames", "more/tiny"}
    assert run_folder.read_json(Path("again/config.json"))["train"]["teacher"] == "online"
    longer = ["train.path=again", "train.accumulate=2"]
    with pytest.raises(CacheMismatch, match="street/tiny"):  # the teacher is another one
        losses(frames, *views, *longer, "teachers.tiny.options={seed=3}")


def test_a_hybrid_run_that_is_resumed_takes_what_has_come_to_the_cache(frames: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    run = load_run(frames, [*EXACT, WHOLE, HYBRID])
    with pytest.raises(KeyboardInterrupt):
        train_run(run, stop)
    build(load_run(frames, EXACT))
    assert Cache.open("street.cache").artifact_set("street", "tiny").discard(2)
    street, more = prepare_job(run).streams.values()
    assert {read.frame_ids for read in street.live.values()} == {frozenset(street.frame_ids[8:])}
    assert more.live == {}
    rest: Losses = []
    train_run(run, lambda progress: rest.append({"loss": progress.loss, **progress.terms}))
    assert_alike(rest, losses(frames, WHOLE, ONLINE, "train.path=online")[3:])


def test_terms_are_checked_with_live_teachers(frames: Path) -> None:
    found = check_terms(load_run(frames, [*EXACT, ONLINE]), steps=2)
    again: Losses = losses(frames, ONLINE, steps=6)
    for term in found.terms:
        assert term.values == pytest.approx(
            [step[f"{term.stream}/{term.label}"] for step in again[:2]], abs=1e-5
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['terms=[{name="adaptation", teacher="tiny", weight=1}]'], "code.* from a cache alone"),
        (['terms=[{name="fitnet", teacher="tiny", teacher_layer="x"}]'], "no such output; known"),
        (["train.teacher=sometimes"], "'online' or 'hybrid'"),
        (['cache.teachers=["tidy"]'], "no such section, teachers.tidy; did you mean"),
        (["cache.frames=false", FRAMES], "nothing to cache"),
    ],
)
def test_what_cannot_be_live_is_refused(frames: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses(frames, ONLINE, *overrides)


def test_cached_is_what_is_left_out(frames: Path) -> None:
    run = load_run(frames, ["train.teacher=cached"])
    assert run.train is not None
    assert run.train.teacher is None


DEEP = """
import torch
from torch import nn


def teacher():
    torch.manual_seed(0)
    body, head = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 9, 1)

    def forward(images):
        features = body(images).relu()
        depth = 5 * features[:, 0] * (features[:, 1] > 0.3)
        layers = {"fine": features.repeat_interleave(2, 2).repeat_interleave(2, 3)}
        return {"logits": 3 * head(features), "features": layers, "depth": depth}

    return forward
"""


def test_every_artifact_is_that_of_the_cache_padding_and_other_grids_too(run_file: Path) -> None:
    Path("deep_networks.py").write_text(DEEP)
    artifacts = [
        "logits", "pseudo_label", "confidence", "pixel_confidence", "depth", "features/fine",
    ]  # fmt: skip
    run = load_run(
        run_file,
        [
            'teachers={deep={kind="python", target="deep_networks:teacher", device="cpu"}}',
            f"cache.artifacts={artifacts}".replace("'", '"'),
            'cache.preset="exact"',
            "cache.canvas=[46, 56]",  # frames are 37 x 56 there
            'terms=[{name="cross_entropy"}]',
        ],
    )
    build(run)
    frames, held = (
        Cache.open("street.cache").artifact_set("street", of) for of in ("frames", "deep")
    )
    teacher = build_teacher(run.teacher("deep"), (46, 56))
    live = live_set("deep", teacher, artifacts, (46, 56), run.cache.threshold)
    keys = {f"deep/{artifact}" for artifact in artifacts}
    needs = frozenset(keys | {"deep/logits@8", "deep/features/fine@1", "deep/depth@2"})
    cached, own = (
        CacheDataset("street", frames, {one.name: one}, needs=needs, out_stride=4)
        for one in (held, live)
    )
    wanted, batch = (each.empty(5) for each in (cached, own))
    for place in range(5):
        cached.fill(wanted, place, 0, place)
        own.fill(batch, place, 0, place)
    assert batch.artifacts == {}
    made = LiveTeachers({"deep": teacher}, {"street": own}, run.cache.threshold, 2)(batch).artifacts
    assert made.keys() == wanted.artifacts.keys() == needs
    for name, values in wanted.artifacts.items():
        assert made[name].dtype == values.dtype
        torch.testing.assert_close(made[name], values, atol=1e-5, rtol=1e-5, msg=name)
    below = 37  # the first row of padding
    assert (made["deep/pseudo_label"][:, below:] == 255).all()
    assert (made["deep/pseudo_label"][:, :below] != 255).any()
    assert not made["deep/depth"][:, :, 10:].any()
    assert made["deep/depth"][:, :, :9].any()
