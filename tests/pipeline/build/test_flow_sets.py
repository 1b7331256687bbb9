"""From a run file with a flow model to cached flow and a student of clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
import zarr

from stillroom.commands.show.caches import estimate
from stillroom.pipeline.build.estimate import estimate_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.info import describe_cache
from stillroom.pipeline.cache_tools.preview import draw_preview
from stillroom.pipeline.cache_tools.size import plan_size
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.pipeline.training import check_terms, prepare_job, train_run
from stillroom.stages.models.flow.dis import DisConfig
from stillroom.stages.models.flow.flow_model import build_flow_model
from stillroom.stages.train.loop import train
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache
from tests.conftest import as_toml

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.pipeline.run_file.sections import RunConfig

PAIRS = {"of": "all", "offsets": [1, 2], "draws": 2}


@pytest.fixture
def clip_file(run_file: Path, run_document: dict[str, Any]) -> Path:
    """Two clips of five frames, one label in each, and the flow between all near frames."""
    street = run_document["sources"]["street"]
    run_document["sources"] = {
        "street": {**street, "clips": 2, "frames_per_clip": 5, "label_every": 5}
    }
    run_document["flows"] = {"dis": {"kind": "dis", "preset": "ultrafast"}}
    run_document["cache"]["pairs"] = PAIRS
    run_document["train"]["streams"] = {"street": {"batch": 1, "triplets": "dis"}}
    run_document["terms"] = [
        {"name": "cross_entropy"},
        {"name": "pixelwise_kl", "teacher": "tiny"},
        {"name": "temporal"},
        {"name": "pairwise_frame", "teacher": "tiny"},
        {"name": "multi_frame", "teacher": "tiny", "weight": 0.1, "patch": 2},
    ]
    run_file.write_text(as_toml(run_document))
    return run_file


def test_flow_is_planned_built_resumed_and_verified_as_any_other_set(
    clip_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    run = load_run(clip_file)
    # of 5 frames 1, 2 and 3 have both sides: 3 + 4 + 3 ways there, of which 6 are also ways back
    estimated = estimate_build(run)
    planned = {(one.plan.source, one.plan.set_name): one for one in estimated.sets}
    flow_set = planned["street", "dis"]
    assert (flow_set.plan.frames, flow_set.plan.shards) == (28, 7)
    assert flow_set.bytes["flow"] > 0
    assert estimated.to_dict()["lonely_frames"] == {"street": 4}  # the ends of two clips
    shown = map(str, estimate(estimated))
    assert any("street: 4 of 10 frames have no neighbour" in part for part in shown)
    assert "dis" in {one.set_name for one in plan_size(run).sets}

    assert build(run).shards == 3 + 3 + 7
    whole = artifact_bytes(Path("street.cache"))
    flow = Cache.open("street.cache").artifact_set("street", "dis")
    flow.discard(3)
    assert build(run).shards == 1
    assert build(run).shards == 0
    assert artifact_bytes(Path("street.cache")) == whole
    assert not verify_cache(Path("street.cache")).faults
    info = next(one for one in describe_cache(Path("street.cache")) if one.set_name == "dis")
    assert (info.frames, info.committed_frames, info.bad) == (28, 28, {})


def test_draws_that_are_left_out_are_all_or_those_that_a_cache_has(clip_file: Path) -> None:
    def draws(run: RunConfig) -> int | None:
        pairs = open_run(run).run.cache.pairs
        return None if pairs is None else pairs.draws

    left_out = load_run(clip_file, ["cache.pairs={of='all', offsets=[1, 2]}"])
    assert draws(left_out) == 2
    assert draws(load_run(clip_file, ["cache.pairs.draws=1"])) == 1
    build(load_run(clip_file, ["cache.pairs.draws=1"]))  # as the default once was
    assert draws(left_out) == 1
    assert build(left_out).shards == 0
    fresh = left_out.cache.model_copy(update={"path": Path("fresh.cache")})
    build(left_out.model_copy(update={"cache": fresh}))
    cache = Cache.open("fresh.cache")
    assert cache.artifact_set("street", "dis").identity["pairs"]["draws"] == 2
    assert len(cache.artifact_set("street", "dis").rows()) == 28


def test_what_is_cached_is_the_models_flow_and_any_zarr_reader_opens_it(clip_file: Path) -> None:
    run = load_run(clip_file, ["cache.codecs.flow='flow'"])
    build(run)
    cache = Cache.open("street.cache")
    frames, flow = (cache.artifact_set("street", name) for name in ("frames", "dis"))
    rows = flow.rows().to_pylist()
    ids = frames.rows()["frame_id"].to_pylist()
    model = build_flow_model(DisConfig(preset="ultrafast"))
    plain = zarr.open_array("street.cache/street/dis/flow", mode="r")
    assert plain.shape == (28, 2, 32, 48)
    for row in rows[::9]:
        one, other = (
            frames.read("frames", ids.index(row[key]))[None] for key in ("frame_id", "partner")
        )
        expected = model.flow(one, other)[0].numpy()
        assert np.abs(flow.read("flow", row["index"]) - expected).max() <= 1 / 128
        assert np.abs(plain[row["index"]] / 64 - expected).max() <= 1 / 128
        assert int(row["partner"][-2:]) - int(row["frame_id"][-2:]) == row["offset"]


def test_a_flipped_byte_of_flow_is_found_and_named_and_a_rebuild_heals_it(
    clip_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    run = load_run(clip_file)
    build(run)
    whole = artifact_bytes(Path("street.cache"))
    hit = sorted(Path("street.cache/street/dis/flow").glob("c.2.*"))[0]
    content = bytearray(hit.read_bytes())
    content[len(content) // 2] ^= 4
    hit.write_bytes(content)
    faults = [str(fault) for fault in verify_cache(Path("street.cache")).faults]
    assert len(faults) == 1
    assert "street/dis/flow" in faults[0]
    verify_cache(Path("street.cache"), repair=True)
    assert build(run).shards == 1
    assert artifact_bytes(Path("street.cache")) == whole


def test_a_preview_draws_the_cached_flow_of_some_pairs(clip_file: Path) -> None:
    build(load_run(clip_file, ["teachers={}", "terms=[{name='cross_entropy'}]"]))
    assert draw_preview("street.cache", None, 3, Path("flow.png")) == [Path("flow.png")]
    few = cv2.imread("flow.png").shape
    draw_preview("street.cache", "street", 1, Path("one.png"))
    assert cv2.imread("one.png").shape[0] < few[0]
    for shard in range(3):
        Cache.open("street.cache").artifact_set("street", "frames").discard(shard)
    with pytest.raises(CacheIncomplete, match="street/dis: no pair is committed yet"):
        draw_preview("street.cache", None, 3, Path("flow.png"))


def test_a_student_learns_from_triplets_and_a_resumed_run_repeats(clip_file: Path) -> None:
    run = load_run(clip_file)
    build(run)
    found = check_terms(run, 2)
    assert [one.label for one in found.terms] == [
        "cross_entropy", "pixelwise_kl/tiny", "temporal", "pairwise_frame/tiny",
        "multi_frame/tiny",
    ]  # fmt: skip
    for one in found.terms:
        assert all(np.isfinite(one.values))
        assert max(one.gradients) > 0, one.label
    result = train_run(run)
    assert result.steps == 6

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    again = load_run(clip_file, ["train.path=again"])
    with pytest.raises(KeyboardInterrupt):
        train(prepare_job(again, stop))
    train_run(again)
    one, other = (torch.load(f"{name}/last.pt", weights_only=True) for name in ("run", "again"))
    for name, value in one["student"].items():
        assert torch.equal(value, other["student"][name]), name


def test_a_teacher_is_trained_with_the_temporal_loss_and_no_teacher(clip_file: Path) -> None:
    terms = 'terms=[{name="cross_entropy"},{name="temporal",weight=1.0}]'
    run = load_run(clip_file, [terms, "teachers={}", "cache.path=heavy.cache"])
    build(run)
    assert train_run(run).steps == 6
    assert Path("run/model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("cache.pairs.offsets=[1,3]", "pairs.offsets"),
        ("cache.pairs.draws=1", "pairs.draws"),
        ("flows.dis.preset='fast'", "flow_model.preset"),
    ],
)
def test_other_pairs_or_another_model_are_no_match_for_what_is_cached(
    clip_file: Path, change: str, field: str
) -> None:
    build(load_run(clip_file))
    for attempt in (build, train_run):
        with pytest.raises(CacheMismatch, match=field):
            attempt(load_run(clip_file, [change]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["cache.pairs.offsets=[7]"], r"none of the sources street has a frame with neighbours .*"
         r"offsets \[7\] \(10 frames of clips lack one side\)"),
        (["flows={}"], r"cache.pairs: the run has no model of motion; add a section \[flows"),
        (["cache.flows=['disk']"], r"cache.flows: no such section, flows.disk; did you mean 'dis'"),
        (["train.streams.street.draws=3"], r"draws = 3, and .* holds 2 a side"),
        (["train.streams.street.triplets='raft'"], r"triplets = 'raft' is no model of motion whose "
         r"flow this run caches \(dis\)"),
        (["train.streams.street.triplets='tiny'"], r"triplets = 'tiny' is no model of motion"),
        (["train.streams={street={batch=1}}"], "triplets"),
    ],
)  # fmt: skip
def test_what_a_run_of_clips_lacks_is_said(
    clip_file: Path, changes: list[str], message: str
) -> None:
    def attempt() -> None:
        run = load_run(clip_file, changes)
        build(run)
        train_run(run)

    with pytest.raises(ConfigError, match=message):
        attempt()


def test_without_its_flow_a_student_of_clips_is_told_to_build(clip_file: Path) -> None:
    run = load_run(clip_file)
    still = run.model_copy(
        update={"flows": {}, "cache": run.cache.model_copy(update={"pairs": None})}
    )
    build(still)
    with pytest.raises(CacheIncomplete, match=r"no set 'dis' on 'street'.*stillroom cache build"):
        train_run(run)
    assert build(run).shards == 7
    assert train_run(run).steps == 6
