"""One function over the shards of several sets: on threads (dask), or as tasks of a Ray cluster."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from stillroom.storage_specs.artifact_set import ArtifactSet

    Shards = list[tuple[ArtifactSet, int]]
    OnShard = Callable[[int, int], None]

Result = TypeVar("Result")
TASKS_AT_A_TIME = 1000
"""That Ray is given: every one takes the driver memory, and time whenever it waits."""


def over_shards(
    work: Callable[[ArtifactSet, int], Result],
    shards: Mapping[ArtifactSet, Iterable[int]],
    on_shard: OnShard = lambda done, total: None,
    *,
    address: str | None = None,
) -> dict[ArtifactSet, list[Result]]:
    """Call `work(set, shard)` for all shards; return the results by set, in the order of shards.

    Threads suffice: checksums, decompression and NumPy let go of the interpreter's lock.

    Args:
        on_shard: called with (shards done, shards in all), from several threads
        address: of a cluster whose machines all see the cache under the same path, or "local"

    Raises:
        ConfigError: nothing answers at that address.
    """
    pairs = [(target, shard) for target, numbers in shards.items() for shard in numbers]
    if address is None:
        results = _on_threads(work, pairs, on_shard)
    else:
        results = _on_ray(work, pairs, on_shard, address)
    found: dict[ArtifactSet, list[Result]] = {target: [] for target in shards}
    for (target, _), result in zip(pairs, results, strict=True):
        found[target].append(result)
    return found


def _on_threads(
    work: Callable[[ArtifactSet, int], Result], pairs: Shards, on_shard: OnShard
) -> Iterable[Result]:
    from dask.base import compute
    from dask.delayed import delayed

    done = itertools.count(1)

    def one(target: ArtifactSet, shard: int) -> Result:
        try:
            return work(target, shard)
        finally:
            on_shard(next(done), len(pairs))

    tasks = [delayed(one, pure=False)(*pair) for pair in pairs]
    results: tuple[Result, ...] = compute(*tasks, scheduler="threads")  # type: ignore[no-untyped-call]
    return results


def _on_ray(
    work: Callable[[ArtifactSet, int], Result], pairs: Shards, on_shard: OnShard, address: str
) -> Iterable[Result]:
    """Plain Ray tasks: ray.util.dask imports dask.dataframe, and with it pandas, at its top."""
    from stillroom.pipeline.cluster.connection import connected

    def one(target: ArtifactSet, shard: int) -> Result:  # Ray takes functions, not callables
        return work(target, shard)

    with connected(1, address) as ray:
        task = ray.remote(num_cpus=1, max_retries=3)(one)
        waiting: dict[Any, int] = {}
        results: dict[int, Result] = {}
        to_do = iter(enumerate(pairs))
        while len(results) < len(pairs):
            for place, pair in itertools.islice(to_do, TASKS_AT_A_TIME - len(waiting)):
                waiting[task.remote(*pair)] = place
            ray.wait(list(waiting), num_returns=1)
            finished, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
            for reference in finished:
                try:
                    results[waiting.pop(reference)] = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause or error) from error
                on_shard(len(results), len(pairs))
    return [results[place] for place in range(len(pairs))]
