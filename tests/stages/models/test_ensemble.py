"""Teachers that are the mean of others, from the section to the cache and to a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillroom.pipeline.build.estimate import estimate_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_model
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

COARSE = """
import torch
from torch import nn


class Coarse(nn.Module):
    def __init__(self, classes=9):
        super().__init__()
        torch.manual_seed(5)
        self.body = nn.Conv2d(3, classes, 8, 8)

    def forward(self, images):
        return {"logits": self.body(images), "features": {"wide": self.body(images)}}


def depth(images):
    return {"depth": images[:, 0].abs()}


def depth_teacher():
    return depth
"""
FRAMES = np.random.default_rng(2).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
TEACHERS = """teachers={
  one={kind="python", target="tiny_networks:teacher", device="cpu"},
  two={kind="python", target="tiny_networks:teacher", device="cpu", options={seed=3}, flip=true},
  coarse={kind="python", target="coarse_networks:Coarse", device="cpu", pad=8},
  flat={kind="python", target="coarse_networks:depth_teacher", device="cpu"},
  other={kind="python", target="tiny_networks:teacher", device="cpu", classes=4,
    options={classes=4}},
  both={kind="ensemble", MEMBERS}}""".replace("\n", "")


@pytest.fixture
def run_of(run_file: Path) -> Any:
    Path("coarse_networks.py").write_text(COARSE)

    def made(members: str, *overrides: str) -> Any:
        only = 'cache.teachers=["both"]'
        terms = 'terms=[{name="pixelwise_kl", teacher="both"}]'
        return load_run(run_file, [TEACHERS.replace("MEMBERS", members), only, terms, *overrides])

    return made


def said(run: Any, name: str) -> dict[str, torch.Tensor]:
    return build_teacher(run.teacher(name), (32, 48))(FRAMES)


def test_probabilities_are_averaged_by_weight(run_of: Any) -> None:
    run = run_of("members={one=2, two=1}")
    one, two, both = (said(run, name) for name in ("one", "two", "both"))
    mean = (2 * one["logits"].softmax(1) + two["logits"].softmax(1)) / 3
    torch.testing.assert_close(both["logits"].exp(), mean, atol=1e-6, rtol=1e-5)
    assert torch.equal(both["features/penultimate"], one["features/penultimate"])
    assert build_teacher(run.teacher("both"), (32, 48)).num_classes == 9


def test_logits_are_averaged_on_the_finest_grid(run_of: Any) -> None:
    run = run_of('members=["coarse", "two"], average="logits", features="two"')
    coarse, two, both = (said(run, name) for name in ("coarse", "two", "both"))
    finer = F.interpolate(coarse["logits"], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(both["logits"], (finer + two["logits"]) / 2, atol=1e-5, rtol=0)
    assert set(both) == {"logits", "features/penultimate"}
    assert torch.equal(both["features/penultimate"], two["features/penultimate"])


def test_an_ensemble_looks_several_times_as_any_teacher(run_of: Any) -> None:
    run = run_of('members=["one"], flip=true')
    mirrored = build_teacher(run.teacher("one").model_copy(update={"flip": True}), (32, 48))
    torch.testing.assert_close(
        said(run, "both")["logits"], mirrored(FRAMES)["logits"], atol=2e-5, rtol=0
    )


def test_members_of_mere_numbers_do_not_hide_that_the_others_names_differ(run_of: Any) -> None:
    def run(*orders: str) -> Any:
        named = [
            f"teachers.{k}.classes={list(o)}"
            for k, o in zip(("two", "coarse"), orders, strict=True)
        ]
        return run_of('members=["one", "two", "coarse"]', "teachers.one.classes=9", *named)

    both = run("abcdefghi", "abcdefghi").teacher("both")
    assert both.class_names() == tuple("abcdefghi")
    assert build_teacher(both, (32, 48)).classes == tuple("abcdefghi")
    with pytest.raises(ConfigError, match=r"the same classes.*\n.*one  0, 1.*\n.*two  b, a, c"):
        run("bacdefghi", "abcdefghi").teacher("both")


def test_its_identity_is_its_members(run_of: Any) -> None:
    run = run_of('members={one=2, two=1}, features="two"')
    known = run.teacher("both").identity()
    assert known.keys() == {"kind", "average", "features", "members", "device"}
    assert known["features"] == 1
    assert [one["weight"] for one in known["members"]] == [2.0, 1.0]
    assert known["members"][1]["flip"] is True
    assert not any("device" in one for one in known["members"])
    assert known["device"] == "cpu"  # as both say
    placed = run.teacher("both").model_copy(update={"device": "cuda"}).built_from()
    assert {one.device for one in placed.values()} == {"cuda"}


def test_members_keep_their_own_device_where_a_student_trains_on_another(run_of: Any) -> None:
    def devices(*overrides: str) -> dict[str, str]:
        both = run_of('members=["one", "two"]', "teachers.two.device=auto", *overrides)
        placed = both.teacher("both").placed("cuda").built_from()
        return {name: one.device for name, one in placed.items()}

    assert devices() == {"one": "cpu", "two": "cuda"}
    assert devices("teachers.both.device=cpu") == {"one": "cpu", "two": "cpu"}
    assert devices("teachers.one.device=auto") == {"one": "cuda", "two": "cuda"}


def test_an_ensemble_is_sized_built_resumed_and_scored_as_any_teacher(run_of: Any) -> None:
    run = run_of('members=["one", "coarse"]')
    planned = {one.plan.set_name: one.bytes for one in estimate_build(run).sets}
    assert planned.keys() == {"frames", "both"}
    assert min(planned["both"].values()) > 0
    build(run)
    both = Cache.open("street.cache").artifact_set("street", "both")
    before = both.read("logits", 5)
    assert both.discard(1)
    build(run)
    assert np.array_equal(both.read("logits", 5), before)
    found = evaluate_model(run, "teacher:both", EvaluationOptions(limit=2))
    assert found.result.frames == 2


def test_a_cache_of_an_ensemble_is_refused_when_a_member_changes(run_of: Any) -> None:
    build(run_of('members=["one", "two"]'))
    assert {name for _, name in Cache.open("street.cache").sets()} == {"frames", "both"}
    for members in ("members={one=1, two=3}", 'members=["one", "coarse"]'):
        with pytest.raises(CacheMismatch, match=r"teacher\.members"):
            build(run_of(members))
    with pytest.raises(CacheMismatch, match=r"teacher\.members\[1\]\.options\.seed"):
        build(run_of('members=["one", "two"]', "teachers.two.options.seed=4"))
    cached, online = (
        train_run(run_of('members=["one", "two"]', "train.view={}", *how)).losses
        for how in ([], ["train.teacher=online", "train.path=online"])
    )
    assert online == pytest.approx(cached, rel=1e-3)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ('members=["one", "tow"]', r"both\.members: no such section, teachers\.tow; did you mean"),
        ('members=["both"]', "'both' is an ensemble; name its members instead"),
        ('members=["one", "one"]', "named twice"),
        ("members={one=0}", "greater than 0"),
        ("members=[]", "at least 1 item"),
        ('members=["one", "two"], features="coarse"', "'coarse' is no member; known: one, two"),
        ('members=["one", "two"], pad=8', "pad: an ensemble has no network of its own"),
        (
            'members=["one", "other"]',
            "both.members: expected teachers of the same",
        ),
        ('members=["one", "flat"]', "teachers.both: member 'flat' gives depth"),
    ],
)
def test_what_is_no_ensemble_is_refused(run_of: Any, members: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(run_of(members))
