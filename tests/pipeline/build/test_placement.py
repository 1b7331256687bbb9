"""What workers ask Ray for: CPUs and shares of GPUs, on clusters of every shape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.build.cores import thread_counts
from stillroom.pipeline.build.placement import Node, by_device, nodes_of, placed
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.cache.cache_shard import ShardWork

if TYPE_CHECKING:
    from pathlib import Path


def cluster(*machines: tuple[int, int]) -> Any:
    """CPUs and GPUs of each machine, and one that is gone."""
    nodes = [{"Alive": True, "Resources": {"CPU": c, "GPU": g}} for c, g in machines]
    gone = {"Alive": False, "Resources": {"CPU": 99, "GPU": 99}}
    return SimpleNamespace(nodes=lambda: [*nodes, gone, {"Alive": True, "Resources": {}}])


@pytest.mark.parametrize(
    ("machines", "keys", "gpu", "room", "workers", "cpus"),
    [
        # one worker without a GPU takes what its threads can use, and one CPU stays free
        ([(64, 0)], [], False, 63, 1, 8),
        ([(2, 0)], [], False, 1, 1, 1),
        ([(1, 0)], [], False, 1, 1, 1),
        ([], [], False, 0, 1, 1),
        ([(64, 8)], ["cache.workers=3"], False, 63, 3, 8),
        ([(8, 0)], ["cache.workers=3"], False, 7, 3, 2),
        # on the smaller machine there is only one CPU
        ([(1, 0), (2, 0)], ["cache.workers=2"], False, 2, 2, 1),
        ([(4, 0), (4, 0)], ["cache.workers=2"], False, 7, 2, 3),
        # a worker a GPU; CPUs are shared among them
        ([(64, 8)], [], True, 8, 8, 7),
        ([(3, 0), (4, 2)], [], True, 2, 2, 1),
        ([(9, 2), (17, 2)], [], True, 4, 4, 4),
        ([(64, 2)], ["cache.num_gpus=0.5"], True, 4, 4, 8),
        ([(64, 2)], ["cache.num_gpus=0.3"], True, 6, 6, 8),
        ([(3, 8)], [], True, 2, 2, 1),
        ([(64, 8)], ["cache.workers=2", "cache.encoders=20"], True, 8, 2, 20),
        # there is none yet: Ray is asked for as many as were asked for
        ([(8, 0)], [], True, 0, 1, 1),
        ([(8, 0)], ["cache.workers=3", "cache.encoders=4"], True, 0, 3, 4),
    ],
)
def test_a_cluster_is_shared_among_the_workers_that_the_run_asks_for(
    run_file: Path,
    machines: list[tuple[int, int]],
    keys: list[str],
    gpu: bool,
    room: int,
    workers: int,
    cpus: int,
) -> None:
    found = placed(load_run(run_file, keys), nodes_of(cluster(*machines)), gpu=gpu)
    assert (found.room, found.workers, found.cpus) == (room, workers, cpus)
    assert found.gpus == (0 if not gpu else 0.5 if "=0.5" in str(keys) else found.gpus)
    assert str(found).startswith(f"{cpus} CPU")
    assert ("GPU" in str(found)) == gpu


@pytest.mark.parametrize(
    ("device", "gpus", "on_gpu", "lacks"),
    [
        ("cpu", 4, False, False),
        ("auto", 4, True, False),
        ("auto", 0, False, True),
        ("cuda", 4, True, False),
        ("cuda", 0, True, False),
    ],
)
def test_frames_never_wait_for_a_gpu_and_models_as_their_device_says(
    run_file: Path, device: str, gpus: int, on_gpu: bool, lacks: bool
) -> None:
    run = load_run(
        run_file,
        [f"teachers.tiny.device={device}", "flows={dis={kind='dis'}}", "cache.pairs={offsets=[1]}"],
    )
    works = [ShardWork("street", name, 0, ()) for name in ("frames", "tiny", "tiny.more", "dis")]
    without, with_gpu, lacking = by_device(run, works, [Node(8, gpus)])
    teachers = [work for work in works if work.set_name.startswith("tiny")]
    assert with_gpu == (teachers if on_gpu else [])
    assert without == [work for work in works if work not in with_gpu]
    assert lacking == (["tiny"] if lacks else [])


def test_threads_follow_the_cpus_of_a_worker_unless_the_run_file_says_otherwise(
    run_file: Path,
) -> None:
    cache = load_run(run_file).cache
    assert [thread_counts(cache, cores) for cores in (1, 2, 6, 64)] == [
        (2, 1), (2, 2), (6, 6), (8, 8),
    ]  # fmt: skip
    stated = load_run(run_file, ["cache.encoders=3", "cache.decoders=1"]).cache
    assert thread_counts(stated, 64) == (1, 3)
    assert thread_counts(load_run(run_file, ["cache.encoders=12"]).cache, 2) == (12, 12)
