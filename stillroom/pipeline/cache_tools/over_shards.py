"""One function over many shards: on threads here (dask), or as tasks of a Ray cluster."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stillroom.storage_specs.artifact_set import ArtifactSet

Result = TypeVar("Result")
Claim = tuple["ArtifactSet", int]


def claims_of(targets: Sequence[ArtifactSet]) -> list[Claim]:
    """Every shard of the sets, committed or not."""
    return [(target, shard) for target in targets for shard in range(target.shards)]


def over_shards(
    work: Callable[[ArtifactSet, int], Result],
    claims: Sequence[Claim],
    on_shard: Callable[[int, int], None] = lambda done, total: None,
    *,
    ray_address: str | None = None,
) -> list[Result]:
    """`work(set, shard)` of every claim, in the order of the claims.

    Threads suffice: checksums, decompression and NumPy let go of the interpreter's lock.

    on_shard: told (shards done, shards in all), from several threads
    ray_address: of a cluster whose machines all see the cache under the same path, or "local"

    Raises:
        ConfigError: nothing answers at that address.
    """
    if ray_address is not None:
        return _on_ray(work, claims, on_shard, ray_address)
    from dask.base import compute
    from dask.delayed import delayed

    done = itertools.count(1)

    def one(target: ArtifactSet, shard: int) -> Result:
        try:
            return work(target, shard)
        finally:
            on_shard(next(done), len(claims))

    tasks = [delayed(one, pure=False)(target, shard) for target, shard in claims]
    results: tuple[Result, ...] = compute(*tasks, scheduler="threads")  # type: ignore[no-untyped-call]
    return list(results)


def _on_ray(
    work: Callable[[ArtifactSet, int], Result],
    claims: Sequence[Claim],
    on_shard: Callable[[int, int], None],
    address: str,
) -> list[Result]:
    """Plain Ray tasks: ray.util.dask imports dask.dataframe, and with it pandas, at its top."""
    from stillroom.pipeline.cluster.connection import connected

    def one(target: ArtifactSet, shard: int) -> Result:  # Ray takes functions, not callables
        return work(target, shard)

    with connected(1, address) as ray:
        task = ray.remote(num_cpus=1, max_retries=3)(one)
        waiting: dict[Any, int] = {
            task.remote(target, shard): place for place, (target, shard) in enumerate(claims)
        }
        results: dict[int, Result] = {}
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1)
            for reference in finished:
                try:
                    results[waiting.pop(reference)] = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause or error) from error
                on_shard(len(results), len(claims))
    return [results[place] for place in range(len(claims))]
