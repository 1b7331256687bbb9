"""What a build asks of an object store: what the plan knows is not asked for again by shard."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import obstore
import pytest

from stillroom.pipeline.build.plan import plan_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.build.worker import ShardWorker
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.cache.shard_threads import ShardThreads

if TYPE_CHECKING:
    from pathlib import Path

OPERATIONS = {  # obstore's function -> what is counted
    "list_with_delimiter": "list", "get": "get", "head": "exists", "put": "put", "delete": "delete",
}  # fmt: skip
FEW = 'cache.artifacts=["logits"]'
FLOWS = [
    "flows={dis={kind='dis',preset='ultrafast'}}", "cache.pairs={offsets=[1]}",
    "sources.street.frames_per_clip=4",
]  # fmt: skip
STRANGER = 'teachers.stranger={kind="python", target="tiny_networks:teacher", options={seed=9}}'


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Requests to object stores, by name."""
    found: Counter[str] = Counter()

    def counting(name: str) -> Any:
        inner = getattr(obstore, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            found[OPERATIONS[name]] += 1
            return inner(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(obstore, name, counting(name))
    return found


def by_shard(run_file: Path, changes: list[str], counts: Counter[str]) -> dict[str, list[Any]]:
    """Operations of one worker, shard after shard, by set."""
    opened = open_run(load_run(run_file, changes))
    counts.clear()
    plans = plan_build(opened, extend=True)
    found: dict[str, list[Any]] = defaultdict(list)
    found["plan"].append(dict(counts))
    worker = ShardWorker(opened, ShardThreads(1, 1))
    for work in [work for plan in plans for work in plan.works()]:
        counts.clear()
        worker.work(work)
        found[f"{work.source}/{work.set_name}"].append(dict(counts))
    return found


def test_a_further_shard_of_a_set_is_read_twice_and_written_and_nothing_is_listed(
    run_file: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    changes = [f"cache.path=memory://{tmp_path.name}", "cache.shard_frames=2", *FLOWS]
    found = by_shard(run_file, changes, counts)
    del found["plan"]
    assert set(found) == {
        "street/frames", "more/frames", "street/tiny", "more/tiny", "street/dis",
    }  # fmt: skip
    for name, (first, *others) in found.items():
        assert len(others) >= 2
        assert others == [others[0]] * len(others), name
        # whether the set is still that of the plan, and whether somebody else committed the shard
        assert others[0] == {"get": 2, "put": others[0]["put"]}, name
        assert first["list"] <= 1, name


@pytest.mark.parametrize("extended", [False, True])
def test_what_else_the_cache_holds_costs_a_worker_nothing(
    extended: bool, run_file: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    found = []
    for place in (f"memory://small-{tmp_path.name}", f"memory://large-{tmp_path.name}"):
        changes = [f"cache.path={place}", "cache.shard_frames=2"]
        if "large" in place:
            build(load_run(run_file, [*changes, STRANGER, 'cache.sources=["more"]']))
        street = [*changes, 'cache.sources=["street"]']
        if extended:
            build(load_run(run_file, [*street, FEW]))
        found.append(by_shard(run_file, street, counts))
    small, large = found
    del small["plan"], large["plan"]
    assert small == large
    assert len(small) == (1 if extended else 2)


def test_a_plan_lists_the_cache_once_however_many_sources_and_teachers_there_are(
    run_file: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    changes = [f"cache.path=memory://{tmp_path.name}", "cache.shard_frames=8", STRANGER]
    build(load_run(run_file, changes))
    opened = open_run(load_run(run_file, changes))
    counts.clear()
    assert not any(plan.missing for plan in plan_build(opened))
    # the root, each source and its manifest, each set's records: to find the sets; then, of each
    # set, its records again, for what is committed
    assert counts["list"] == (2 + 2 * 2 + 6) + 6
