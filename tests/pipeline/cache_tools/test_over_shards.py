"""One function over many shards gives the same on threads and on Ray, in the order asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.over_shards import over_shards
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet


def named(target: ArtifactSet, shard: int) -> tuple[str, str, int]:
    return target.source, target.name, shard


def opened(run_file: Path) -> list[ArtifactSet]:
    run = load_run(run_file)
    build(run)
    cache = Cache.open(run.cache.path.absolute())
    return [cache.artifact_set(*pair) for pair in cache.sets()]


def all_shards(targets: list[ArtifactSet]) -> dict[ArtifactSet, range]:
    return {target: range(target.shards) for target in targets}


def test_results_come_by_set_in_the_order_of_the_shards_and_every_shard_is_counted(
    run_file: Path,
) -> None:
    targets = opened(run_file)
    total = sum(target.shards for target in targets)
    counted: list[tuple[int, int]] = []
    shards = {target: range(target.shards - 1, -1, -1) for target in targets}
    found = over_shards(named, shards, lambda done, total: counted.append((done, total)))
    assert found == {
        target: [named(target, shard) for shard in order] for target, order in shards.items()
    }
    assert sorted(counted) == [(done, total) for done in range(1, total + 1)]
    none: dict[ArtifactSet, list[int]] = {target: [] for target in targets}
    assert over_shards(named, none) == none


def test_a_failing_shard_raises_its_own_error(run_file: Path) -> None:
    def fail(target: ArtifactSet, shard: int) -> None:
        raise ConfigError(f"{target.name} {shard}")

    with pytest.raises(ConfigError, match="frames 0"):
        over_shards(fail, {opened(run_file)[0]: [0]})


@pytest.mark.slow
@pytest.mark.ray
def test_ray_gives_what_threads_give_and_hands_on_errors(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.pipeline.cache_tools.over_shards.TASKS_AT_A_TIME", 2)
    targets = opened(run_file)
    shards = all_shards(targets)

    def fail(target: ArtifactSet, shard: int) -> None:
        raise ConfigError(f"{target.name} {shard}")

    def name(target: ArtifactSet, shard: int) -> tuple[str, str, int]:
        return target.source, target.name, shard  # a closure travels by value

    assert over_shards(name, shards, address="local") == over_shards(named, shards)
    with pytest.raises(ConfigError, match="frames 0"):
        over_shards(fail, {targets[0]: [0]}, address="local")
    victim = Path(targets[0].place) / "street/tiny/logits/c.1.0.0.0"
    content = bytearray(victim.read_bytes())
    content[40] ^= 4
    victim.write_bytes(content)
    report = verify_cache(targets[0].place, address="local")
    assert {fault.shard for fault in report.faults} == {1}
