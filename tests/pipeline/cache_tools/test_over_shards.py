"""One function over many shards gives the same on threads and on Ray, in the order asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.over_shards import claims_of, over_shards
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


def test_results_come_in_the_order_of_the_claims_and_every_shard_is_told(run_file: Path) -> None:
    claims = claims_of(opened(run_file))
    told: list[tuple[int, int]] = []
    found = over_shards(named, claims, lambda done, total: told.append((done, total)))
    assert found == [(target.source, target.name, shard) for target, shard in claims]
    assert sorted(told) == [(done, len(claims)) for done in range(1, len(claims) + 1)]


def test_a_failing_shard_raises_its_own_error(run_file: Path) -> None:
    def fail(target: ArtifactSet, shard: int) -> None:
        raise ConfigError(f"{target.name} {shard}")

    with pytest.raises(ConfigError, match="frames 0"):
        over_shards(fail, claims_of(opened(run_file))[:1])


@pytest.mark.slow
@pytest.mark.ray
def test_ray_gives_what_threads_give_and_hands_on_errors(run_file: Path) -> None:
    claims = claims_of(opened(run_file))

    def fail(target: ArtifactSet, shard: int) -> None:
        raise ConfigError(f"{target.name} {shard}")

    def name(target: ArtifactSet, shard: int) -> tuple[str, str, int]:
        return target.source, target.name, shard  # a closure travels by value

    assert over_shards(name, claims, ray_address="local") == over_shards(named, claims)
    with pytest.raises(ConfigError, match="frames 0"):
        over_shards(fail, claims[:1], ray_address="local")
    victim = Path(claims[0][0].place) / "street/tiny/logits/c.1.0.0.0"
    content = bytearray(victim.read_bytes())
    content[40] ^= 4
    victim.write_bytes(content)
    report = verify_cache(claims[0][0].place, ray_address="local")
    assert {fault.shard for fault in report.faults} == {1}
