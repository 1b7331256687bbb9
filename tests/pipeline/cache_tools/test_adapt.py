"""`cache adapt`: codes beside the features, by an auto-encoder that is trained once and kept."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.plan import plan_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools import adapt as adapt_module
from stillroom.pipeline.cache_tools.adapt import CodeReport, adapt_cache
from stillroom.pipeline.cache_tools.copy_cache import copy_cache
from stillroom.pipeline.cache_tools.fidelity import FidelityRequest, measure_fidelity
from stillroom.pipeline.cache_tools.transcode import Change, transcode_cache
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.pipeline.training import train_run
from stillroom.stages.cache.autoencoder_file import from_bytes, weights_sha256
from stillroom.storage_specs.errors import (
    CacheIncomplete,
    CacheMismatch,
    ConfigError,
    WeightsError,
)
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.artifact_set import ArtifactSet

STREET = Path("street.cache")
CODE = "code/penultimate"


@pytest.fixture
def run_document(run_document: dict[str, Any]) -> dict[str, Any]:
    """Features of 6 channels, 8 x 12 cells at stride 4; codes of 4 channels, 4 x 6 at stride 8."""
    run_document["adapt"] = {
        "tiny": {"channels": 4, "strides": [2, 1, 1], "epochs": 8, "batch": 4},
    }
    run_document["terms"] = [
        {"name": "cross_entropy"},
        {"name": "adaptation", "teacher": "tiny"},
        {"name": "affinity", "teacher": "tiny"},
    ]
    return run_document


@pytest.fixture(scope="module")
def stash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches that several tests begin with, made by the first of them."""
    return tmp_path_factory.mktemp("stash")


@pytest.fixture
def built(run_file: Path, stash: Path) -> Path:
    """A run file whose cache is built."""
    if not (stash / "built").exists():
        build(load_run(run_file))
        shutil.copytree(STREET, stash / "built")
    else:
        shutil.copytree(stash / "built", STREET)
    return run_file


@pytest.fixture
def adapted(built: Path, stash: Path) -> Path:
    """The same, with codes."""
    if not (stash / "adapted").exists():
        adapt_cache(load_run(built))
        shutil.copytree(STREET, stash / "adapted")
    else:
        shutil.rmtree(STREET)
        shutil.copytree(stash / "adapted", STREET)
    return built


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def codes_of(cache: str | Path = STREET, source: str = "street") -> ArtifactSet:
    (found,) = (one for one in Cache.open(cache).teacher_sets(source, "tiny") if CODE in one.arrays)
    return found


def weights_of(cache: str | Path = STREET) -> Path:
    (found,) = (Path(cache) / "manifest").glob("*.safetensors")
    return found


def sound(cache: str | Path = STREET) -> bool:
    return verify_cache(cache).is_sound


def only(reports: list[CodeReport]) -> CodeReport:
    (one,) = reports
    return one


def test_codes_are_what_the_kept_auto_encoder_says_of_the_cached_features(built: Path) -> None:
    run = load_run(built)
    report = only(adapt_cache(run))
    assert report.trained
    assert [(one.source, one.frames, one.bad, one.shards, one.already) for one in report.sources
            ] == [("street", 10, 0, 3, 0), ("more", 6, 0, 2, 0)]  # fmt: skip
    assert re.fullmatch(r"tiny\.[0-9a-f]{8}", report.set_name)
    model, about = from_bytes(weights_of().read_bytes(), run.adapt["tiny"], "")
    assert weights_of().name == f"{report.set_name}.safetensors"
    for source in ("street", "more"):
        codes = codes_of(source=source)
        spec = codes.arrays[CODE]
        assert (spec.shape, spec.attributes) == ((4, 4, 6), {"stride": 8})
        assert spec.codec.name == "byte"
        features = Cache.open(STREET).artifact_set(source, "tiny")
        made = codes.identity["adapt"]
        assert made["weights"] == weights_sha256(model) == report.weights
        assert made["features"] == features.fingerprint
        assert (made["channels"], made["layer"], made["seed"]) == (4, "features/penultimate", 0)
        assert set(made["trained_on"]) == {"street", "more"} == set(about["trained_on"])
        for index in range(codes.count):
            given = torch.from_numpy(features.read("features/penultimate", index))[None]
            with torch.no_grad():
                expected = model.encode(given)[0].numpy()
            found = codes.read(CODE, index)
            assert (np.abs(found - expected) <= spec.codec.bound(expected) + 1e-6).all()
        mine, theirs = (one.rows().to_pydict() for one in (codes, features))
        for column in ("index", "frame_id", "status", "valid_height", "valid_width", "crc32c"):
            assert mine[column] == theirs[column]
    assert sound()


def test_running_it_again_does_nothing_and_says_so(
    built: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    first = stillroom("cache", "adapt", built)
    assert first.exit_code == 0, first.stderr
    assert "trained now" in first.stdout
    before = artifact_bytes(STREET)
    again = stillroom("cache", "adapt", built)
    assert f"nothing to do: all codes are in {STREET.absolute()}" in again.stdout
    assert "trained before" in again.stdout
    assert artifact_bytes(STREET) == before
    share = (
        r"loses \d+\.\d\d% of the features' variance in 96 numbers a frame; a PCA of "
        r"each position's channels \d+\.\d\d% in 96 \(1 a position\); on 16 frames"
    )
    assert re.search(share, first.stdout)
    assert re.search(share, again.stdout)
    document = json.loads(stillroom("cache", "adapt", built, "--json").stdout)
    (code,) = document["codes"]
    assert 0 < code["measures"]["relative_mse"] < 1
    assert 0 < code["measures"]["pca_relative_mse"] < 1
    assert code["sources"][0]["code_bytes"] * 2 < code["sources"][0]["features_bytes"]
    assert build(load_run(built)).shards == 0, "a build has nothing to do with codes"
    assert plan_build(open_run(load_run(built)), extend=True)


def test_two_runs_leave_the_same_bytes(
    built: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    shutil.copytree(STREET, "other.cache")
    adapt_cache(load_run(built, ['cache.path="other.cache"']))
    torch.randn(5)  # what happened before does not matter
    adapt_cache(load_run(built))
    assert artifact_bytes(STREET) == artifact_bytes(Path("other.cache"))
    assert weights_of().read_bytes() == weights_of("other.cache").read_bytes()
    seeded = load_run(built, ["adapt.tiny.seed=1", 'adapt.tiny.name="seeded"'])
    assert only(adapt_cache(seeded)).weights != codes_of().identity["adapt"]["weights"]


def test_an_interrupted_writing_goes_on_with_the_same_auto_encoder(
    built: Path,
    monkeypatch: pytest.MonkeyPatch,
    artifact_bytes: Callable[[Path], dict[str, str]],
) -> None:
    shutil.copytree(STREET, "whole.cache")
    adapt_cache(load_run(built, ['cache.path="whole.cache"']))

    def stop_at(stage: str, done: int) -> Callable[[str, int, int], None]:
        def told(now: str, so_far: int, total: int) -> None:
            if now == stage and so_far >= done:
                raise KeyboardInterrupt

        return told

    run = load_run(built)
    with pytest.raises(KeyboardInterrupt):
        adapt_cache(run, stop_at("tiny: train", 7))
    assert not list(STREET.glob("manifest/*.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        adapt_cache(run, stop_at("tiny: write street", 8))
    assert sorted(codes_of().committed()) == [0, 1]
    with pytest.raises(CacheIncomplete, match="run `stillroom cache adapt` to add the rest"):
        train_run(run)

    def no_training(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(adapt_module, "train_autoencoder", no_training)
    report = only(adapt_cache(run))
    assert not report.trained
    assert [(one.shards, one.already) for one in report.sources] == [(1, 2), (2, 0)]
    assert artifact_bytes(STREET) == artifact_bytes(Path("whole.cache"))


def test_an_auto_encoder_is_trained_twice_as_long_until_it_beats_a_pca(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, measure, lengths = adapt_module.train_autoencoder, adapt_module.measure, list[int]()
    beaten_at = 4

    def watched(*given: Any) -> Any:
        lengths.append(given[-1])
        return train(*given)

    def judged(*given: Any) -> Any:
        return replace(measure(*given), pca_relative_mse=float(lengths[-1] >= beaten_at))

    monkeypatch.setattr(adapt_module, "train_autoencoder", watched)
    monkeypatch.setattr(adapt_module, "measure", judged)
    longer = ["adapt.tiny.epochs=1", "adapt.tiny.beat_pca=true"]
    found = only(adapt_cache(load_run(built, [*longer, 'adapt.tiny.name="longer"'])))
    assert lengths == [1, 2, 4]
    alike = only(adapt_cache(load_run(built, ["adapt.tiny.epochs=4", 'adapt.tiny.name="alike"'])))
    assert (alike.weights, lengths[3:]) == (found.weights, [1])
    beaten_at = 99
    never = only(adapt_cache(load_run(built, [*longer, 'adapt.tiny.name="never"'])))
    assert lengths[4:] == [1, 2, 4, 8, 16]
    assert never.trained


def test_bad_frames_stay_bad_and_are_not_trained_on(run_file: Path) -> None:
    path = run_file.with_name("bad.toml")
    text = run_file.read_text().replace("tiny_networks:teacher", "tiny_networks:sometimes_nan")
    path.write_text(text)
    run = load_run(path, ["cache.max_bad_fraction=1"])
    build(run)
    features = Cache.open(STREET).artifact_set("street", "tiny")
    bad = set(range(10)) - set(features.usable().tolist())
    assert 0 < len(bad) < 10
    report = only(adapt_cache(run))
    assert report.sources[0].bad == len(bad)
    assert report.measures is not None
    assert report.measures.frames == 16 - len(bad) - report.sources[1].bad
    assert set(codes_of().usable().tolist()) == set(features.usable().tolist())
    reasons = {row["reason"] for row in codes_of().rows().to_pylist()} - {""}
    assert all("not finite" in reason for reason in reasons)
    assert sound()


def test_a_student_learns_from_codes_under_the_run_file_that_made_them(built: Path) -> None:
    run = load_run(built)
    with pytest.raises(
        ConfigError, match=r"section \[adapt.tiny\] and run `stillroom cache adapt`"
    ):
        train_run(run)
    name = only(adapt_cache(run)).set_name
    result = train_run(run)
    for stream in ("street", "more"):
        assert result.losses[f"{stream}/adaptation/tiny"] > 0
        assert result.losses[f"{stream}/affinity/tiny"] > 0
    read = json.loads(Path("run/fingerprints.json").read_text())
    assert read[f"street/{name}"] == codes_of().fingerprint
    with pytest.raises(CacheMismatch, match=r"adapt.channels\s+cache 4\s+run 8"):
        train_run(load_run(built, ["adapt.tiny.channels=8", 'train.path="other"']))
    with pytest.raises(CacheMismatch, match="teacher"):
        train_run(load_run(built, ["teachers.tiny.options={seed=3}", 'train.path="other"']))
    # a run file that says nothing of how they were made takes them as they are
    text = built.read_text()
    silent = built.with_name("silent.toml")
    silent.write_text("\n".join(x for x in text.splitlines() if not x.startswith("adapt")))
    train_run(load_run(silent, ['train.path="silent"', "train.steps=2"]))


def test_codes_of_another_kind_stand_beside_under_another_name(adapted: Path) -> None:
    with pytest.raises(CacheMismatch, match=r"(?s)adapt.channels\s+cache 4\s+run 2.*name = \"penu"):
        adapt_cache(load_run(adapted, ["adapt.tiny.channels=2"]))
    with pytest.raises(CacheMismatch, match="codec"):
        adapt_cache(load_run(adapted, ['cache.codecs={code="half"}']))
    changes = ["adapt.tiny.channels=3", "adapt.tiny.strides=[2, 1, 2]", 'adapt.tiny.name="small"']
    run = load_run(adapted, [*changes, 'terms.1.teacher_layer="small"'])
    report = only(adapt_cache(run))
    small = Cache.open(STREET).artifact_set("street", report.set_name)
    assert small.arrays["code/small"].shape == (3, 2, 3)
    assert small.arrays["code/small"].attributes == {"stride": 16}
    assert codes_of().arrays[CODE].shape == (4, 4, 6)
    assert train_run(run).losses["street/adaptation/tiny"] > 0
    assert sound()


def test_a_source_that_is_added_gets_codes_of_the_same_auto_encoder(built: Path) -> None:
    one = load_run(built, ['cache.sources=["street"]', 'cache.path="s.cache"'])
    build(one)
    first = only(adapt_cache(one))
    both = load_run(built, ['cache.path="s.cache"'])
    build(both)
    second = only(adapt_cache(both))
    assert (second.trained, second.weights) == (False, first.weights)
    assert [source.shards for source in second.sources] == [0, 2]
    weights_of("s.cache").unlink()
    codes_of("s.cache", "more").discard(0)
    with pytest.raises(CacheIncomplete, match=r"is not here, and another would write other codes"):
        adapt_cache(both)
    codes_of("s.cache", "more")
    adapt_cache(load_run(built, ['cache.path="s.cache"', 'adapt.tiny.name="again"']))


def test_features_that_are_not_cached_are_asked_for_by_the_command_that_caches_them(
    run_file: Path,
) -> None:
    build(load_run(run_file, ['cache.artifacts=["logits"]']))
    with pytest.raises(
        ConfigError, match=r"does not list it: add it there and run `stillroom cache"
    ):
        adapt_cache(load_run(run_file, ['cache.artifacts=["logits"]']))
    run = load_run(run_file)
    with pytest.raises(CacheIncomplete, match="not cached on street; run `stillroom cache extend`"):
        adapt_cache(run)
    build(run, extend=True)
    extended = [one for one in Cache.open(STREET).teacher_sets("street", "tiny")
                if "features/penultimate" in one.arrays]  # fmt: skip
    extended[0].discard(1)
    with pytest.raises(CacheIncomplete, match="2 of 3 shards are committed; run `stillroom cache"):
        adapt_cache(run)
    build(run, extend=True)
    assert only(adapt_cache(run)).trained
    with pytest.raises(CacheIncomplete, match="there is no cache here"):
        adapt_cache(load_run(run_file, ['cache.path="none.cache"']))
    with pytest.raises(CacheMismatch, match="teacher"):
        adapt_cache(load_run(run_file, ["teachers.tiny.options={seed=3}"]))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["adapt.tiny.epoch=3"], r"adapt.tiny.epoch: unknown key; did you mean 'epochs'"),
        (["adapt.tiny.strides=[2, 4, 2]"], r"adapt.tiny.strides"),
        (["adapt.tiny.epochs=0"], r"adapt.tiny.epochs"),
        (['adapt.tiny.layer="../x"'], r"adapt.tiny.layer: letters, digits"),
        (["adapt.tini={}"], r"adapt.tini: no teacher 'tini' in this file; did you mean 'tiny'"),
        (['cache.artifacts=["logits", "code/penultimate"]'], r"run `stillroom cache adapt`"),
    ],
)
def test_a_wrong_section_is_refused_naming_the_key(
    run_file: Path, overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_run(run_file, overrides)


def test_a_run_without_a_section_is_told_how_it_looks(built: Path) -> None:
    with pytest.raises(ConfigError, match=r"add a section \[adapt.<teacher>\].*teachers.*tiny"):
        adapt_cache(load_run(built, ["adapt={}"]))


def test_an_auto_encoder_that_diverges_stops_and_writes_nothing(built: Path) -> None:
    with pytest.raises(ConfigError, match=r"diverged: its loss is .* lower lr \(1e\+30\)"):
        adapt_cache(load_run(built, ["adapt.tiny.lr=1e30"]))
    assert len(Cache.open(STREET).teacher_sets("street", "tiny")) == 1
    assert not list(STREET.glob("manifest/*.safetensors"))


def test_a_damaged_auto_encoder_is_noticed_where_it_is_needed(adapted: Path) -> None:
    run = load_run(adapted)
    path, content = weights_of(), weights_of().read_bytes()
    path.write_bytes(content[:-100])
    assert adapt_cache(run)[0].measures is None, "nothing is left to write, so it does not matter"
    codes_of().discard(0)
    with pytest.raises(WeightsError, match="or damaged"):
        adapt_cache(run)
    flipped = bytearray(content)
    flipped[-10] ^= 4
    path.write_bytes(bytes(flipped))
    with pytest.raises(WeightsError, match=r"not the auto-encoder that wrote code/penultimate on"):
        adapt_cache(run)
    path.write_bytes(content)
    adapt_cache(run)
    assert sound()


def test_a_damaged_code_is_found_withdrawn_and_made_again(
    adapted: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    before, name = artifact_bytes(STREET), codes_of().name
    for damaged in (f"street/{name}/{CODE}/c.1.0.0.0", f"street/{name}/zarr.json"):
        path = STREET / damaged
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
        assert not sound()
        verify_cache(STREET, repair=True)
        adapt_cache(load_run(adapted))
        assert artifact_bytes(STREET) == before
        assert sound()


def test_every_other_command_takes_codes_as_part_of_the_cache(adapted: Path) -> None:
    name = codes_of().name
    for arguments in (
        ("info", STREET), ("verify", STREET), ("preview", STREET, "--out", "p.png"),
        ("stats", STREET), ("stats", adapted), ("build", adapted), ("build", adapted, "--dry-run"),
        ("extend", adapted), ("size", adapted), ("fidelity", adapted, "--frames", "1"),
    ):  # fmt: skip
        done = stillroom("cache", *arguments)
        assert done.exit_code == 0, (arguments, done.stderr, done.exception)
    shown = stillroom("cache", "info", STREET).stdout
    assert re.search(rf"street/{re.escape(name)}/{CODE}\s+4x4x6\s+byte", shown), shown
    assert "complete and sound" in stillroom("cache", "verify", STREET).stdout
    assert {one.teacher for one in measure_fidelity(load_run(adapted), FidelityRequest(1))} == {
        "tiny"
    }


def test_a_copy_has_codes_and_their_auto_encoder_and_goes_on(adapted: Path) -> None:
    copy_cache(STREET, "copy.cache")
    assert weights_of("copy.cache").read_bytes() == weights_of().read_bytes()
    there = load_run(adapted, ['cache.path="copy.cache"'])
    assert not only(adapt_cache(there)).trained
    codes_of("copy.cache").discard(2)
    report = only(adapt_cache(there))
    assert (report.trained, report.sources[0].shards) == (False, 1)
    assert sound("copy.cache")


@pytest.mark.parametrize(
    "change", [Change("compact", shard_frames=4), Change(codecs={"code": "half"})]
)
def test_a_transcoded_cache_keeps_its_codes_and_trains(adapted: Path, change: Change) -> None:
    transcode_cache(STREET, "small.cache", change)
    wanted = ['cache.path="small.cache"', 'train.path="small"']
    wanted += ['cache.preset="compact"'] if change.preset else ['cache.codecs={code="half"}']
    there = load_run(adapted, wanted)
    codes = codes_of("small.cache")
    for index in (0, 9):
        old = codes_of().read(CODE, index)
        assert np.abs(codes.read(CODE, index) - old).max() <= 0.02 * (np.abs(old).max() + 1)
    assert sound("small.cache")
    assert train_run(there).losses["street/adaptation/tiny"] > 0
