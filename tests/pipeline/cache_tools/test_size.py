"""`cache size` against what a build then takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.size import plan_size
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.store import Cache


def test_each_tier_is_what_a_build_of_it_takes(run_file: Path) -> None:
    plan = plan_size(load_run(run_file, ["sources.street.clips=2"]))  # 4 frames: all are sampled
    assert not Path("street.cache").exists()
    assert plan.total("exact") > plan.total("fast")
    for tier in plan.tiers:
        run = load_run(
            run_file,
            ["sources.street.clips=2", f'cache.preset="{tier}"', f'cache.path="{tier}.cache"'],
        )
        build(run)
        cache = Cache.open(run.cache.path)
        for one in plan.sets:
            target = cache.artifact_set(one.source, one.set_name)
            assert one.shards[tier] == target.shards
            if one.source == "street":
                sizes = target.sizes()
                assert one.bytes[tier] == pytest.approx(sizes, rel=1e-9)


def test_the_command_needs_no_cache_and_leaves_none(run_file: Path) -> None:
    said = CliRunner().invoke(main, ["cache", "size", str(run_file)])
    assert said.exit_code == 0, said.stderr
    assert "nothing written" in said.stdout
    assert not Path("street.cache").exists()
    options = ["--json", "--set", 'cache.codecs={logits="half"}']
    asked = CliRunner().invoke(main, ["cache", "size", str(run_file), *options])
    document = json.loads(asked.stdout)
    assert set(document["bytes"]) == {"fast", "compact", "exact"}
