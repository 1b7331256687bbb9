"""`cache fidelity` on a whole small cache."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.fidelity import FidelityRequest, measure_fidelity
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, ConfigError


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_cache_is_within_its_bounds_and_exact_loses_nothing(run_file: Path) -> None:
    run = load_run(run_file)
    build(run)
    told: list[tuple[int, int]] = []
    street, more = measure_fidelity(
        run, FidelityRequest(3, codecs=True), lambda *each: told.append(each)
    )
    assert (street.source, more.source) == ("street", "more")
    assert told == [(done, 6) for done in range(1, 7)]
    by_name = {one.artifact: one for one in street.artifacts}
    assert set(by_name) == set(run.cache.artifacts)
    assert 0 < by_name["logits"].of_bound <= 1.01
    assert by_name["pseudo_label"].differing == 0
    others = {(one.artifact, one.codec): one for one in street.others}
    assert others["logits", "exact"].max_error == 0
    assert others["logits", "exact"].kl == 0
    assert others["logits", "half"].kl < by_name["logits"].kl
    assert others["logits", "exact"].bytes > by_name["logits"].bytes
    views = {one.view: one for one in street.views}
    assert views["as it is"].kl == pytest.approx(by_name["logits"].kl)
    assert views["flip"].live is not None
    assert more.views[0].live is None
    assert len(street.recommendation) == 2


def test_frames_come_from_the_source_where_the_cache_keeps_none(run_file: Path) -> None:
    run = load_run(run_file, ["cache.frames=false", "cache.path=bare.cache"])
    build(run)
    street, _ = measure_fidelity(run, FidelityRequest(2))
    assert street.frames == 2
    assert street.views[0].live is None


def test_a_cache_of_another_teacher_is_refused(run_file: Path) -> None:
    build(load_run(run_file))
    other = load_run(run_file, ["teachers.tiny.options={seed=3}"])
    with pytest.raises(CacheMismatch, match="teacher"):
        measure_fidelity(other, FidelityRequest())


def test_what_cannot_be_compared_is_said(run_file: Path) -> None:
    with pytest.raises(CacheIncomplete):
        measure_fidelity(load_run(run_file), FidelityRequest())
    with pytest.raises(ConfigError, match="street, more"):
        measure_fidelity(load_run(run_file), FidelityRequest(source="nowhere"))
    bare = ["teachers={}", "terms=[{name='cross_entropy'}]"]
    with pytest.raises(ConfigError, match="no teacher"):
        measure_fidelity(load_run(run_file, bare), FidelityRequest())


def test_the_command_prints_tables_or_json_and_draws(run_file: Path) -> None:
    stillroom("cache", "build", run_file)
    said = stillroom("cache", "fidelity", run_file, "--frames", "2", "--codecs", "--plot", "m.png")
    assert said.exit_code == 0, said.stderr
    assert "(half)" in said.stdout
    assert "train.view.flip" in said.stdout
    assert Path("m-street-tiny.png").read_bytes().startswith(b"\x89PNG")
    asked = stillroom("cache", "fidelity", run_file, "--frames", "1", "--source", "more", "--json")
    (document,) = json.loads(asked.stdout)["sets"]
    assert document["source"] == "more"
    assert document["views"][0]["live"] is None


def test_a_teacher_of_one_size_is_compared_without_crops(
    run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_file.parent / "one_size.py").write_text(
        "import torch\n"
        "def teacher(height, width):\n"
        "    def network(images):\n"
        "        assert images.shape[2:] == (height, width), 'made for one size'\n"
        "        return images[:, [0, 1, 2] * 3, ::4, ::4]\n"
        "    return network\n"
    )
    height, width = load_run(run_file).cache.canvas
    pad = math.gcd(height, width)
    run = load_run(
        run_file,
        [
            'teachers.tiny={kind="python", target="one_size:teacher", device="cpu", '
            f"options={{height={height}, width={width}}}, pad={pad}}}",
            'cache.artifacts=["logits"]',
        ],
    )
    build(run)
    street, *_ = measure_fidelity(run, FidelityRequest(2))
    assert "crop" not in {one.view for one in street.views}
    assert {"scale 0.5", "flip"} <= {one.view for one in street.views}
    assert "view 'crop' is left out" in caplog.text
