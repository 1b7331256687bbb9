"""A Ray that grows and shrinks; its workers, nodes, driver and all of it killed: the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BY_DRIVER, BY_OWN_RAY = 8, 2


def on_ray(test: Any, tier: Any = pytest.mark.soak) -> Any:
    """A process that is killed on purpose leaves pipes open here."""
    test = pytest.mark.filterwarnings("ignore::ResourceWarning")(test)
    return tier(pytest.mark.ray(test))


def batches() -> list[int]:
    """Process numbers of the workers, one a batch."""
    with contextlib.suppress(FileNotFoundError):
        return [int(line) for line in Path("batches").read_text().split()]
    return []


def files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def reached(folder: Path, moment: int, ended: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: files(folder) >= moment or ended()


@contextlib.contextmanager
def cluster(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Two nodes, and their address; `tell` adds a node, or takes the second one away."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    try:
        # Ray's daemons write to the same pipe.
        yield process, next(line.split()[1] for line in lines if line.startswith("address "))
    finally:
        process.stdin.close()
        process.wait(120)
        process.stdout.close()


def tell(process: subprocess.Popen[str], word: str, answer: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    assert f"{answer}\n" in iter(process.stdout.readline, "")


def start(run: Path, folder: str, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    arguments = ["cache", "build", str(run), "--set", f"cache.path={folder}", *more]
    with Path("said.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "stillroom", *arguments],
            stdout=said,
            stderr=said,
            text=True,
            env=environment,
        )


@on_ray
def test_a_killed_worker_and_a_lost_node_do_not_change_a_byte(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    forked: Callable[..., Any],
    marked: dict[str, str],
    wait_until: Callable[..., bool],
) -> None:
    assert forked("cache", "build", fault_run).wait() == 0
    whole = contents(Path("street.cache"))
    with cluster({**marked, "PAUSE": "1"}) as (process, address):
        for lose in ("worker", "node"):
            Path("batches").unlink(missing_ok=True)
            building = start(
                fault_run, f"{lose}.cache", marked, "--address", address, "--set", "cache.workers=2"
            )
            # Both workers are at work, one of them on the second node: the head has one CPU.
            assert wait_until(
                lambda building=building: len(set(batches())) == 2 or building.poll() is not None
            )
            assert building.poll() is None, Path("said.txt").read_text()
            if lose == "worker":
                os.kill(batches()[-1], signal.SIGKILL)
            else:
                tell(process, "lose", "lost")
            assert building.wait(300) == 0, Path("said.txt").read_text()
            # What the dead were writing, beside all that is whole, goes when a build next begins.
            swept = forked("cache", "build", fault_run, "--set", f"cache.path={lose}.cache")
            assert swept.wait() == 0
            assert contents(Path(f"{lose}.cache")) == whole, lose
            print(lose, len(set(batches())), "workers;", Path("said.txt").read_text())


@partial(on_ray, tier=pytest.mark.slow)
def test_a_cluster_that_grows_and_shrinks_is_used_as_it_is(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    forked: Callable[..., Any],
    marked: dict[str, str],
    wait_until: Callable[..., bool],
) -> None:
    settings = ["--set", "sources.street.clips=20", "--set", "teachers.tiny.device=auto"]
    assert forked("cache", "build", fault_run, *settings).wait() == 0
    whole = contents(Path("street.cache"))
    Path("batches").unlink()
    with cluster({**marked, "PAUSE": "2"}) as (process, address):
        # cache.workers is not given: a worker a GPU, whenever it comes
        building = start(fault_run, "other.cache", marked, "--address", address, *settings)

        def at_work(workers: int) -> bool:
            return (
                wait_until(lambda: len(set(batches())) >= workers or building.poll() is not None)
                and building.poll() is None
            )

        assert at_work(1), Path("said.txt").read_text()
        tell(process, "add", "added")
        assert at_work(2), Path("said.txt").read_text()
        first = batches()[0]
        tell(process, "lose", "lost")
        assert building.wait(300) == 0, Path("said.txt").read_text()
    by_worker = Counter(batches())
    assert len(by_worker) == 2
    assert by_worker[first] < by_worker.total() / 2
    said = Path("said.txt").read_text()
    assert "its machine is out of reach" in said
    assert "attempt 1" not in said
    swept = forked("cache", "build", fault_run, "--set", "cache.path=other.cache", *settings)
    assert swept.wait() == 0
    assert contents(Path("other.cache")) == whole


def gpus_asked_for(address: str) -> list[float]:
    """GPUs of each waiting request, as an autoscaler is told of them."""
    from ray._raylet import GcsClient
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(GcsClient(address=address))
    asked = [one.request.resources_bundle for one in state.pending_resource_requests]
    return [bundle["GPU"] for bundle in asked if "GPU" in bundle]


@partial(on_ray, tier=pytest.mark.slow)
def test_a_teacher_for_a_gpu_asks_an_autoscaler_for_one_and_starts_where_it_comes(
    fault_run: Path, marked: dict[str, str], wait_until: Callable[..., bool]
) -> None:
    import torch

    with cluster(marked) as (process, address):
        tell(process, "lose", "lost")  # now there is a head with a CPU, and no GPU
        wanted = ("--set", "teachers.tiny.device=cuda")
        building = start(fault_run, "late.cache", marked, "--address", address, *wanted)
        assert wait_until(lambda: gpus_asked_for(address) or building.poll() is not None)
        assert gpus_asked_for(address) == [1.0], Path("said.txt").read_text()
        tell(process, "add", "added")
        code = building.wait(300)
    said = Path("said.txt").read_text()
    assert "RUNS ON CPUS" not in said
    if torch.cuda.is_available():
        assert code == 0, said
    else:  # it is the worker that says so: on what was declared a GPU here
        assert (code, "teachers.tiny: device = 'cuda'" in said) == (2, True), said


@on_ray
def test_killed_drivers_leave_a_cluster_on_which_the_build_resumes(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    forked: Callable[..., Any],
    marked: dict[str, str],
    wait_until: Callable[..., bool],
) -> None:
    rng = random.Random(2)
    build = ["cache", "build", fault_run]
    assert forked(*build).wait() == 0
    whole, killed = contents(Path("street.cache")), []
    folder = Path("killed.cache")
    with cluster({**marked, "PAUSE": "0.05"}) as (_, address):
        arguments = [*build, "--set", f"cache.path={folder}", "--address", address]
        for number in range(BY_DRIVER):
            child = forked(*arguments)
            moment = number * len(whole) // BY_DRIVER
            wait_until(reached(folder, moment, lambda child=child: not child.running()))
            time.sleep(rng.random() * 0.05)
            child.kill()
            assert child.wait() == -9, child.said.read_text()
            killed.append(len([*(folder / "manifest").glob("*/*/*.parquet")]))
        child = forked(*arguments)
        assert child.wait() == 0, child.said.read_text()
        # A build with a Ray of its own does not mind that cluster.
        own = start(fault_run, "own.cache", marked, "--runner", "ray")
        assert own.wait(300) == 0, Path("said.txt").read_text()
    print(f"{len(killed)} kills, with so many shards committed: {killed}")
    assert contents(folder) == contents(Path("own.cache")) == whole


@on_ray
def test_a_killed_driver_with_a_ray_of_its_own_resumes(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    forked: Callable[..., Any],
    marked: dict[str, str],
    wait_until: Callable[..., bool],
) -> None:
    assert forked("cache", "build", fault_run).wait() == 0
    whole, folder = contents(Path("street.cache")), Path("killed.cache")
    for number in range(BY_OWN_RAY):
        building = start(fault_run, str(folder), {**marked, "PAUSE": "0.2"}, "--runner", "ray")
        moment = len(whole) * (number + 1) // (BY_OWN_RAY + 1)
        wait_until(reached(folder, moment, lambda building=building: building.poll() is not None))
        building.kill()
        assert building.wait() == -9, Path("said.txt").read_text()
    # Its workers may still be writing: the next build neither waits for them nor minds.
    child = forked("cache", "build", fault_run, "--set", f"cache.path={folder}")
    assert child.wait() == 0, child.said.read_text()
    assert contents(folder) == whole
