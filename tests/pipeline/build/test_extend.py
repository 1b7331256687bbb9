"""`cache extend`: what a cache lacks is computed, what it has is left alone, all is seen as one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.plan import plan_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.fidelity import FidelityRequest, measure_fidelity
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.pipeline.training import train_run
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.layout import check_names
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

FEW = 'cache.artifacts=["features/penultimate", "confidence"]'
STREET = Path("street.cache")


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_an_extension_holds_just_what_was_missing_and_training_reads_it(
    run_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    build(load_run(run_file, [FEW]))
    before = artifact_bytes(STREET)
    run = load_run(run_file)
    with pytest.raises(CacheMismatch, match=r"logits, pseudo_label\s+run `stillroom cache extend`"):
        build(run)
    report = build(run, extend=True)
    assert (report.shards, report.frames) == (5, 16), "frames and labels are not written again"
    after = artifact_bytes(STREET)
    assert {path: after[path] for path in before} == before
    own, more = Cache.open(STREET).teacher_sets("street", "tiny")
    assert own.name == "tiny"
    assert re.fullmatch(r"tiny\.[0-9a-f]{8}", more.name)
    assert set(more.arrays) == {"logits", "pseudo_label"}
    assert more.identity["teacher"] == own.identity["teacher"]
    assert build(run).shards == 0, "build and extend are at one now"
    assert build(run, extend=True).shards == 0
    assert verify_cache(STREET).is_sound

    whole = load_run(run_file, ['cache.path="whole.cache"'])
    build(whole)
    at_once = Cache.open("whole.cache").artifact_set("street", "tiny")
    for index in range(10):
        np.testing.assert_array_equal(
            more.read("logits", index), at_once.read("logits", index)
        )  # fmt: skip
    trained = train_run(run)
    again = train_run(load_run(run_file, ['cache.path="whole.cache"', 'train.path="other"']))
    assert trained.losses == again.losses
    found = measure_fidelity(run, FidelityRequest(1, "street"))
    assert [one.teacher for one in found] == ["tiny", more.name]


def test_extensions_add_up_and_the_original_run_still_fits(run_file: Path) -> None:
    one = load_run(run_file, ['cache.artifacts=["logits"]'])
    build(one)
    two = load_run(run_file, ['cache.artifacts=["logits", "confidence"]'])
    build(two, extend=True)
    three = load_run(run_file)
    plans = {plan.set_name: plan.artifacts for plan in plan_build(open_run(three), extend=True)}
    assert sorted(plans.values(), key=len)[-1] == ("pseudo_label", "features/penultimate")
    build(three, extend=True)
    assert len(Cache.open(STREET).teacher_sets("street", "tiny")) == 3
    for run in (one, two, three):
        assert build(run).shards == 0
    names = {name for _, name in Cache.open(STREET).sets()}
    build(load_run(run_file, ['cache.path="b.cache"', 'cache.artifacts=["logits"]']))
    build(load_run(run_file, ['cache.path="b.cache"', 'cache.artifacts=["logits", "confidence"]']),
          extend=True)  # fmt: skip
    assert {name for _, name in Cache.open("b.cache").sets()} < names, "names follow from content"


def test_another_teacher_threshold_or_codec_is_refused_as_ever(run_file: Path) -> None:
    build(load_run(run_file, ['cache.artifacts=["logits"]']))
    for change, field in (
        ("teachers.tiny.options={seed=3}", "teacher"),
        ('cache.codecs={logits="half"}', "logits"),
        ("cache.shard_frames=3", "shard_frames"),
    ):
        with pytest.raises(CacheMismatch, match=field):
            build(load_run(run_file, [change]), extend=True)
    build(load_run(run_file), extend=True)
    with pytest.raises(CacheMismatch, match="threshold"):
        build(load_run(run_file, ["cache.threshold=0.5"]), extend=True)


def test_a_new_teacher_or_source_is_a_new_set_for_build_and_extend(run_file: Path) -> None:
    build(load_run(run_file, ['cache.sources=["street"]']))
    run = load_run(
        run_file,
        ['teachers.other={kind="python", target="tiny_networks:teacher", options={seed=9}}'],
    )
    assert build(run, extend=True).frames == 6 + 6 + 10 + 6
    assert build(run).shards == 0


def test_a_killed_extension_goes_on(run_file: Path) -> None:
    build(load_run(run_file, [FEW]))
    run = load_run(run_file)
    build(run, extend=True)
    _, more = Cache.open(STREET).teacher_sets("street", "tiny")
    more.discard(1)
    assert [plan.missing for plan in plan_build(open_run(run)) if plan.missing] == [(1,)]
    assert build(run, extend=True).shards == 1


def test_a_teachers_own_set_is_made_again_beside_its_extension(run_file: Path) -> None:
    build(load_run(run_file, [FEW]))
    run = load_run(run_file)
    build(run, extend=True)
    group = STREET / "street/tiny/zarr.json"
    before = Cache.open(STREET).artifact_set("street", "tiny").fingerprint
    group.write_bytes(b"?" + group.read_bytes())
    assert verify_cache(STREET, repair=True).repaired
    assert build(run).frames == 10
    assert Cache.open(STREET).artifact_set("street", "tiny").fingerprint == before
    assert verify_cache(STREET).is_sound


@pytest.mark.slow
@pytest.mark.ray
def test_ray_extends_to_the_same_bytes(
    run_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    for name, runner in (("a.cache", "inline"), ("b.cache", "ray")):
        build(load_run(run_file, [FEW, f'cache.path="{name}"']))
        build(load_run(run_file, [f'cache.path="{name}"']), extend=True, runner=runner)
    assert artifact_bytes(Path("a.cache")) == artifact_bytes(Path("b.cache"))


def test_the_commands_see_the_union(run_file: Path) -> None:
    stillroom("cache", "build", run_file, "--set", FEW)
    refused = stillroom("cache", "build", run_file)
    assert refused.exit_code == 2
    assert "stillroom cache extend" in refused.stderr
    planned = stillroom("cache", "extend", run_file, "--dry-run")
    assert "nothing written" in planned.stdout, planned.stderr
    assert "logits" in planned.stdout
    assert "confidence" not in planned.stdout
    said = stillroom("cache", "extend", run_file)
    assert said.exit_code == 0, said.stderr
    assert re.search(r"street/tiny\.[0-9a-f]{8}/logits", stillroom(
        "cache", "info", STREET).stdout)  # fmt: skip
    drawn = stillroom("cache", "preview", STREET, "--out", "p.png").stdout.split()
    assert [Path(each).name for each in drawn] == ["p-more-tiny.png", "p-street-tiny.png"]
    assert "complete and sound" in stillroom("cache", "verify", STREET).stdout


def test_names_with_a_dot_are_the_caches_own(run_file: Path) -> None:
    check_names("street", "tiny.0123abcd")
    for name in (
        "frames.0123abcd",
        "tiny.0123",
        "tiny.0123abcd.0123abcd",
        ".0123abcd",
        "a.0123ABCD",
    ):
        with pytest.raises(ConfigError):
            check_names("street", name)
    with pytest.raises(ConfigError):
        check_names("tiny.0123abcd", "tiny")
    with pytest.raises(ConfigError, match="the cache's to choose"):
        load_run(run_file, ['teachers={"a.0123abcd"={kind="python", target="x:y"}}', "terms=[]"])
