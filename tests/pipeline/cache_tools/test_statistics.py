"""`cache stats` on a whole small cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.statistics import StatsRequest, measure_stats
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.evaluate.cache_stats import THRESHOLDS, CacheStats
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.store import Cache

LAYER = "features/penultimate"


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_layer_may_be_named_alone(run_file: Path) -> None:
    build(load_run(run_file))
    for features, out in ((LAYER, "long.npz"), ("penultimate", "short.npz")):
        measure_stats(Path("street.cache"), StatsRequest(features=features, out=Path(out)))
    assert Path("short.npz").read_bytes() == Path("long.npz").read_bytes()


def test_features_of_a_cache_are_float64_numpys(run_file: Path) -> None:
    build(load_run(run_file))
    folder = Path("street.cache")
    for name in ("f.npz", "f.safetensors"):
        measure_stats(folder, StatsRequest(features=LAYER, out=Path(name)))
    cache = Cache.open(folder)
    said, kept = cache.artifact_set("street", "tiny"), cache.artifact_set("street", "frames")
    vectors = np.stack([said.read(LAYER, i) for i in range(10)]).astype(np.float64)
    label = np.stack([kept.read("labels", i)[2::4, 2::4] for i in range(10)])
    with np.load("f.npz", allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        assert about["sets"]["street/tiny"]["fingerprint"] == said.fingerprint
        assert about["sets"]["street/tiny"]["classes_from"] == "labels"
        assert about["sets"]["more/tiny"]["classes_from"] == "pseudo_label"
        flat = vectors.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found["street/tiny/mean"], flat.reshape(-1, 6).mean(0))
        np.testing.assert_allclose(found["street/tiny/variance"], flat.reshape(-1, 6).var(0))
        seen = np.unique(label[label != 255]).tolist()
        for index in seen:
            mine = flat[label == index]
            assert found["street/tiny/class_count"][index] == len(mine)
            np.testing.assert_allclose(found["street/tiny/class_mean"][index], mine.mean(0))
            np.testing.assert_allclose(
                found["street/tiny/class_variance"][index], mine.var(0), atol=1e-12
            )
        from safetensors.numpy import load_file

        other = load_file("f.safetensors")
        assert set(other) == set(found.files) - {"about"}
        for name, array in other.items():
            np.testing.assert_array_equal(array, found[name])


def test_kept_pixels_are_those_that_have_a_pseudo_label(run_file: Path) -> None:
    run = load_run(run_file, ["cache.threshold=0.5", 'cache.preset="exact"'])
    build(run)
    found = measure_stats(run.cache.path, StatsRequest("street")).sets[0]
    assert found.stats.kept[0] == found.stats.pseudo_labels[:255].sum()


def test_an_extension_with_the_confidence_of_pixels_tells_what_builds_keep(run_file: Path) -> None:
    Path("sure_network.py").write_text(
        "from tiny_networks import Tiny\n\n\n"
        "class Sure(Tiny):\n"
        "    def forward(self, images):\n"
        "        return {'logits': 12 * super().forward(images)['logits']}\n\n\n"
        "def teacher():\n    return Sure(9, 0)\n"
    )
    sure = ['teachers.tiny.target="sure_network:teacher"', 'cache.sources=["street"]']

    def built(artifacts: str, threshold: float, path: str, extend: bool = False) -> CacheStats:
        settings = [f"cache.artifacts=[{artifacts}]", f"cache.threshold={threshold}"]
        run = load_run(run_file, [*sure, *settings, f"cache.path={path}"])
        build(run, extend=extend)
        return measure_stats(run.cache.path, StatsRequest("street")).sets[0].stats

    held = '"logits", "pseudo_label"'
    before = built(held, 0.5, "low.cache")
    found = built(f'{held}, "pixel_confidence"', 0.5, "low.cache", extend=True)
    kept = dict(zip(THRESHOLDS, found.kept.tolist(), strict=True))
    for threshold in (0.5, 0.6, 0.75):
        labels = built('"pseudo_label"', threshold, f"{threshold}.cache").pseudo_labels
        assert 0 < kept[threshold] == labels[:255].sum()
    assert found.right.any()
    assert found.kept.tolist() != before.kept.tolist()  # of logits as the codec keeps them


def test_statistics_do_not_depend_on_sharding(run_file: Path) -> None:
    found = []
    for frames in (1, 4, 64):
        run = load_run(run_file, [f"cache.shard_frames={frames}", f'cache.path="{frames}.cache"'])
        build(run)
        found.append(measure_stats(run.cache.path, StatsRequest()).sets[0].to_dict())
        found[-1].pop("fingerprint")
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_counts_what_threads_count(run_file: Path) -> None:
    build(load_run(run_file))
    here = measure_stats(Path("street.cache"), StatsRequest())
    there = measure_stats(Path("street.cache"), StatsRequest(), address="local")
    assert [one.to_dict() for one in here.sets] == [one.to_dict() for one in there.sets]


def test_the_command_prints_tables_or_json_and_draws(run_file: Path) -> None:
    stillroom("cache", "build", run_file)
    said = stillroom("cache", "stats", run_file, "--plot", "stats.png")
    assert said.exit_code == 0, said.stderr
    assert "right among the kept" in said.stdout
    assert Path("stats.png").read_bytes().startswith(b"\x89PNG")
    asked = stillroom("cache", "stats", "street.cache", "--source", "street", "--json")
    (document,) = json.loads(asked.stdout)["sets"]
    assert document["thresholds"][0]["accuracy"] is None or document["thresholds"][0]["kept"] >= 0


def test_what_cannot_be_counted_is_said(run_file: Path) -> None:
    with pytest.raises(CacheIncomplete):
        measure_stats(Path("street.cache"), StatsRequest())
    build(load_run(run_file))
    folder = Path("street.cache")
    for options, words in (
        ({"features": LAYER}, "belong together"),
        ({"features": "logits", "out": Path("f.npz")}, "no 'features/logits' in street"),
        ({"features": "features/x", "out": Path("f.npz")}, "it holds features/penultimate"),
        ({"features": LAYER, "out": Path("f.pkl")}, r"\.npz or \.safetensors"),
    ):
        with pytest.raises(ConfigError, match=words):
            measure_stats(folder, StatsRequest(**options))
    with pytest.raises(CacheIncomplete, match="it holds more/frames, "):
        measure_stats(folder, StatsRequest("nowhere"))
