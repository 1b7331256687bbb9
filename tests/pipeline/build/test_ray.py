from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.build.actor_pool import NoWorker, RayWorker
from stillroom.pipeline.build.ray_runner import run_on_ray
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.cache.cache_shard import ShardReport, ShardWork
from stillroom.storage_specs.errors import CacheIncomplete, CacheUnwritable, ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

WORKS = [ShardWork("street", "frames", 0, ("frames",)), ShardWork("street", "tiny", 0, ("logits",))]


def on_ray(test: Any) -> Any:
    """Mark a test that starts a Ray; what Ray itself leaves open is not ours to mend."""
    for name in ("ResourceWarning", "FutureWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{name}")(test)
    return pytest.mark.slow(pytest.mark.ray(test))


def manifest_rows(folder: Path) -> list[dict[str, Any]]:
    cache = Cache.open(folder)
    rows = [row for pair in cache.sets() for row in cache.artifact_set(*pair).rows().to_pylist()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@on_ray
def test_ray_writes_the_bytes_that_a_plain_loop_writes(
    run_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    clips = [
        "sources.street.frames_per_clip=4", "flows={dis={kind='dis',preset='ultrafast'}}",
        "cache.pairs={offsets=[1]}", "sources.street.targets=['depth','normals']",
    ]  # fmt: skip
    inline = build(load_run(run_file, [*clips, "cache.path=inline.cache"]))
    on_ray = load_run(run_file, [*clips, "cache.path=ray.cache", "cache.workers=2"])
    report = build(on_ray, runner="ray")
    # 20 and 6 frames, each twice, and 6 pairs in each of 5 clips
    assert report.shards == 2 * (5 + 2) + 8
    assert report.pseudo_labelled() == inline.pseudo_labelled()
    assert artifact_bytes(Path("ray.cache")) == artifact_bytes(Path("inline.cache"))
    assert manifest_rows(Path("ray.cache")) == manifest_rows(Path("inline.cache"))


@on_ray
def test_no_array_goes_through_the_object_store(run_file: Path) -> None:
    import ray
    from ray._private.internal_api import node_stats

    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        (node,) = ray.nodes()
        where = (node["NodeManagerAddress"], node["NodeManagerPort"], False)
        before = node_stats(*where).store_stats.cumulative_created_bytes
        run = load_run(run_file, ["cache.canvas=[256, 256]", "cache.workers=2"])
        report = build(run, runner="ray")
        put = node_stats(*where).store_stats.cumulative_created_bytes - before
    finally:
        ray.shutdown()
    assert report.bytes / report.shards > 150_000  # what Ray would have put there
    assert put < 100_000


@on_ray
def test_a_long_name_of_the_folder_for_temporary_files_does_not_matter(
    run_file: Path, tmp_path: Path
) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "stillroom", "cache", "build", str(run_file), "--runner", "ray"],
        env={**os.environ, "TMPDIR": str(long)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@on_ray
def test_on_ray_a_shard_that_kills_its_worker_is_given_up_and_the_others_are_committed(
    run_file: Path,
) -> None:
    deadly = (
        "import os\n\ndef teacher(classes=9, seed=0):\n"
        "    network = Tiny(classes, seed)\n"
        "    inner = network.forward\n"
        "    def forward(images):\n"
        "        if len(images) > 1 and os.path.exists('deadly'):\n"
        "            os._exit(1)\n"
        "        return inner(images)\n"
        "    network.forward = forward\n"
        "    return network\n"
    )
    networks = Path("tiny_networks.py")
    networks.write_text(networks.read_text() + deadly)
    folder = str(Path.cwd())
    text = networks.read_text().replace("exists('deadly')", f"exists('{folder}/deadly')")
    networks.write_text(text)
    Path("deadly").touch()
    workers = "teachers.tiny.device=auto"  # which this process leaves to look at their teacher
    run = load_run(run_file, ['cache.sources=["street"]', "cache.shard_frames=5", workers])
    with pytest.raises(CacheIncomplete, match=r"(?s)2 shards failed three times.*worker died"):
        build(run, runner="ray")
    committed = Cache.open("street.cache").artifact_set("street", "frames").committed()
    assert committed == {0, 1}
    Path("deadly").unlink()
    assert build(run).shards == 2  # mended: only what was missing is computed


class FakeRay:
    """Ray as the runner sees it, without processes: what a call gives is told beforehand.

    said: by method of a worker, what its calls give one after the other; the last one for ever
    resources: of the cluster
    """

    def __init__(self, said: dict[str, list[Any]], **resources: float) -> None:
        self.said, self.resources = said, resources
        self.options: list[dict[str, Any]] = []  # of every actor that was started
        self.killed = self.waits = 0
        self.shards: list[ShardWork] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    available_resources = cluster_resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": None, "Alive": True, "Resources": self.resources}]

    def remote(self, **options: Any) -> Any:
        def start(kind: type) -> Any:
            assert kind is RayWorker
            return FakeMethod(self, "new", options)

        return start

    def wait(
        self, references: list[Any], num_returns: int, timeout: float
    ) -> tuple[list[Any], list[Any]]:
        self.waits += 1
        assert 0 < num_returns <= len(references)
        assert timeout >= 0
        done = [each for each in references if each.value is not NEVER][:num_returns]
        return done, [each for each in references if each not in done]

    def get(self, reference: Any) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def kill(self, _: Any) -> None:
        self.killed += 1


NEVER = object()


class FakeReference:
    def __init__(self, value: Any) -> None:
        self.value = value


class FakeMethod:
    def __init__(self, ray: FakeRay, name: str, options: dict[str, Any] | None = None) -> None:
        self.ray, self.name, self.options = ray, name, options

    def remote(self, *arguments: Any) -> Any:
        if self.name == "new":
            self.ray.options.append(self.options or {})
            return FakeHandle(self.ray)
        if self.name == "work":
            self.ray.shards.append(arguments[0])
        said = self.ray.said.get(self.name, [None])
        value = said.pop(0) if len(said) > 1 else said[0]
        return FakeReference(value(*arguments) if callable(value) else value)


class FakeHandle:
    def __init__(self, ray: FakeRay) -> None:
        self.work, self.ready = FakeMethod(ray, "work"), FakeMethod(ray, "ready")
        self.heartbeat = FakeMethod(ray, "heartbeat")


def done(work: ShardWork) -> ShardReport:
    return ShardReport(work, frames=4, bad=0, bytes=1, wall_seconds=1.0, produce_seconds=1.0)


def on_fake(
    monkeypatch: pytest.MonkeyPatch,
    run: Any,
    said: dict[str, list[Any]],
    works: list[ShardWork] = WORKS,
    listen: Callable[[Any], None] = lambda _: None,
    **resources: float,
) -> tuple[FakeRay, Any]:
    """The fake, and what `run_on_ray` gives or raises on it."""
    fake = FakeRay({"heartbeat": [({}, 0.0)], "work": [done], **said}, **resources)
    monkeypatch.setattr(
        "stillroom.pipeline.build.ray_runner.connected", lambda *_: contextlib.nullcontext(fake)
    )
    try:
        return fake, run_on_ray(run, list(works), None, listen)
    except Exception as error:
        return fake, error


def ray_errors() -> list[Exception]:
    from ray import exceptions

    return [
        exceptions.OutOfMemoryError("out of memory"),
        exceptions.NodeDiedError("node died"),
        exceptions.WorkerCrashedError(),
        exceptions.ActorUnschedulableError("nowhere"),
        exceptions.RuntimeEnvSetupError("no environment"),
    ]


@pytest.mark.parametrize("number", range(5))
def test_whatever_ray_says_of_a_lost_worker_its_shards_are_tried_again(
    number: int, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, run = ray_errors()[number], load_run(run_file)
    fake, gave = on_fake(monkeypatch, run, {"work": [error, done]}, CPU=2)
    assert gave == {}
    assert len(fake.options) == 2
    fake, gave = on_fake(monkeypatch, run, {"work": [error]}, CPU=2)
    assert set(gave) == set(WORKS)
    assert all(reason.startswith("worker died: ") for reason in gave.values())


def test_a_shard_whose_machine_leaves_the_cluster_has_not_failed(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import ActorUnavailableError, NodeDiedError

    gone, run = NodeDiedError("node died"), load_run(run_file)
    said = {"work": [gone, gone, gone, gone, done], "ready": ["spot", "spot", "spot", "spot", None]}
    fake, gave = on_fake(monkeypatch, run, said, WORKS[:1], CPU=2)
    assert gave == {}  # four times, where three failures give a shard up
    assert len(fake.options) == 5
    away = ActorUnavailableError("connection reset", b"0" * 16)  # nothing is known of its machine
    assert on_fake(monkeypatch, run, {"work": [*[away] * 4, done]}, WORKS[:1], CPU=2)[1] == {}
    # Yet a shard may be what its machines die of.
    fake, gave = on_fake(monkeypatch, run, {"work": [gone], "ready": ["spot"]}, WORKS[:1], CPU=2)
    assert gave == {WORKS[0]: "worker died: node died"}
    assert len(fake.shards) == 10 + 3


def test_a_shard_that_is_done_counts_though_its_worker_is_lost_with_the_next(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import WorkerCrashedError

    seen: list[ShardWork] = []
    works = [ShardWork("street", "tiny", shard, ("logits",)) for shard in range(3)]
    said = {"work": [WorkerCrashedError(), done]}
    fake, gave = on_fake(
        monkeypatch, load_run(run_file), said, works,
        listen=lambda event: seen.append(event.work) if event.report else None, CPU=2,
    )  # fmt: skip
    assert gave == {}
    assert sorted(work.shard for work in seen) == [0, 1, 2]  # each reported once
    assert [work.shard for work in fake.shards] == [0, 1, 2, 0]  # and one computed again


def test_hundreds_of_workers_cost_the_driver_few_calls(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [ShardWork("street", "tiny", shard, ("logits",)) for shard in range(3000)]
    run = load_run(run_file, ["teachers.tiny.device=cuda"])
    fake, gave = on_fake(monkeypatch, run, {}, works, CPU=401, GPU=400)
    assert (gave, len(fake.options)) == ({}, 400)
    assert len(fake.shards) == 3000
    assert fake.waits < 20  # all that has ended at a time, not a shard or a worker each


def test_a_worker_that_cannot_start_costs_no_shard_an_attempt(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import ActorDiedError, RayTaskError

    run = load_run(run_file)
    text = "Traceback\nModuleNotFoundError: stillroom"
    dead = ActorDiedError(RayTaskError("init", text, ImportError(), "p", 1, "127.0.0.1"))
    fake, gave = on_fake(monkeypatch, run, {"ready": [dead, dead, None]}, CPU=2)
    assert gave == {}
    assert len(fake.shards) == len(WORKS)
    fake, gave = on_fake(monkeypatch, run, {"ready": [dead]}, CPU=2)
    assert isinstance(gave, NoWorker)
    assert "3 attempts: ModuleNotFoundError: stillroom" in str(gave)
    assert not fake.shards
    full = RayTaskError("ready", "traceback", CacheUnwritable("no space"), "p", 1, "127.0.0.1")
    fake, gave = on_fake(monkeypatch, run, {"ready": [full]}, CPU=2)
    assert isinstance(gave, CacheUnwritable)
    assert (len(fake.options), fake.shards) == (1, [])


def test_no_more_workers_are_started_than_the_cluster_has_room_for(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(run_file, ["cache.workers=2"])
    for cpus, workers in ((0, 1), (1, 1), (2, 1), (3, 2), (64, 2)):
        fake, gave = on_fake(monkeypatch, run, {}, CPU=cpus)
        assert (gave, len(fake.options)) == ({}, workers)
    fake, _ = on_fake(monkeypatch, run, {}, CPU=8, GPU=1)  # its only teacher has device = "cpu"
    assert [options["num_gpus"] for options in fake.options] == [0, 0]
    run = load_run(run_file, ["cache.workers=2", "teachers.tiny.device=auto"])
    fake, _ = on_fake(monkeypatch, run, {}, CPU=8, GPU=1)
    assert [options["num_gpus"] for options in fake.options] == [0, 1]  # frames, then the teacher
    works = [WORKS[0], *(ShardWork("street", "tiny", shard, ("logits",)) for shard in range(9))]
    fake, _ = on_fake(monkeypatch, run, {}, works, CPU=8, GPU=1)
    assert [options["num_gpus"] for options in fake.options] == [0, 1, 1]  # one may come yet


class Growing(FakeRay):
    """A cluster whose GPUs come when it is looked at for the third time."""

    looks = 0

    def nodes(self) -> list[dict[str, Any]]:
        self.looks += 1
        gpus = 2 if self.looks > 2 else 0
        more = {"NodeID": "late", "Alive": True, "Resources": {"CPU": 5, "GPU": gpus}}
        return [*super().nodes(), more]


def test_gpus_that_come_late_are_used_and_asked_for_before(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.pipeline.build.actor_pool.LOOK_SECONDS", 0.0)
    works = [ShardWork("street", "tiny", shard, ("logits",)) for shard in range(30)]
    fake = Growing({"heartbeat": [({}, 0.0)], "work": [done]}, CPU=3)
    run = load_run(run_file, ["teachers.tiny.device=cuda", "cache.num_gpus=0.5"])
    monkeypatch.setattr(
        "stillroom.pipeline.build.ray_runner.connected", lambda *_: contextlib.nullcontext(fake)
    )
    assert run_on_ray(run, works, None, lambda _: None) == {}
    assert [options["num_gpus"] for options in fake.options] == [0.5] * 4
    # Of a machine that was yet to come nothing was known; those that came have their CPUs shared.
    assert [options["num_cpus"] for options in fake.options] == [1, 1, 1, 1]
    assert {work.shard for work in fake.shards} == set(range(30))


class Shrinking(FakeRay):
    """A cluster whose large machine is lost before anything has started there."""

    looks = 0

    def nodes(self) -> list[dict[str, Any]]:
        self.looks += 1
        gone = {"NodeID": "large", "Alive": self.looks < 3, "Resources": {"CPU": 9}}
        return [*super().nodes(), gone]


def test_a_worker_that_waits_for_a_lost_machine_asks_for_what_is_left(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.pipeline.build.actor_pool.LOOK_SECONDS", 0.0)
    said = {"heartbeat": [({}, 0.0)], "work": [done], "ready": [NEVER, None]}
    fake = Shrinking(said, CPU=3)
    monkeypatch.setattr(
        "stillroom.pipeline.build.ray_runner.connected", lambda *_: contextlib.nullcontext(fake)
    )
    assert run_on_ray(load_run(run_file), list(WORKS), None, lambda _: None) == {}
    assert [options["num_cpus"] for options in fake.options] == [8, 2]
    assert fake.killed == 2  # the one that waited, and at the end the other


def test_a_teacher_on_the_cpus_of_a_cluster_says_so(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for device, gpus, loud in (("auto", 0, True), ("auto", 1, False), ("cpu", 0, False)):
        caplog.clear()
        run = load_run(run_file, [f"teachers.tiny.device={device}"])
        on_fake(monkeypatch, run, {}, CPU=8, GPU=gpus)
        assert ("tiny RUNS ON CPUS" in caplog.text) == loud


@pytest.mark.parametrize(
    ("flow", "gpus"), [('kind="dis"', 0), ('kind="raft_small", weights="raft.pth"', 1)]
)
def test_flow_models_get_a_gpu_where_they_use_one(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, flow: str, gpus: int
) -> None:
    run = load_run(run_file, [f"flows.fast={{{flow}}}", "cache.pairs={offsets=[1]}"])
    works = [ShardWork("street", "fast", 0, ("flow",))]
    fake, _ = on_fake(monkeypatch, run, {}, works, CPU=8, GPU=1)
    assert [options["num_gpus"] for options in fake.options] == [gpus]


def test_a_worker_that_was_idle_for_long_is_not_replaced_when_it_is_fed(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(run_file, ["cache.shard_timeout=60"])
    said = {"heartbeat": [({}, 9999.0)], "work": [done]}
    fake, gave = on_fake(monkeypatch, run, said, CPU=2)
    assert (gave, len(fake.options)) == ({}, 1)
    run = load_run(run_file, ["cache.shard_timeout=0.2"])
    fake, gave = on_fake(monkeypatch, run, {**said, "work": [lambda _: NEVER]}, CPU=2)
    assert set(gave) == set(WORKS)
    assert all("no batch finished" in reason for reason in gave.values())


@on_ray
def test_what_stops_every_worker_on_ray_reaches_the_user_as_it_is(run_file: Path) -> None:
    with pytest.raises(CacheUnwritable, match=r"run\.toml/street\.cache"):
        build(load_run(run_file, ["cache.path=run.toml/street.cache"]), runner="ray")


@on_ray
def test_a_cluster_without_room_is_named_and_one_given_by_the_environment_is_used(
    run_file: Path,
) -> None:
    import ray

    context = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        command = [sys.executable, "-m", "stillroom", "cache", "build", str(run_file)]
        done = subprocess.run(
            [*command, "--runner", "ray"],
            env={**os.environ, "RAY_ADDRESS": context.address_info["address"]},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "raylet" not in done.stdout
        run = load_run(run_file, ["cache.path=other.cache", "cache.shard_timeout=3"])

        @ray.remote(num_cpus=2)
        class Greedy:
            def here(self) -> None: ...

        greedy = Greedy.remote()
        ray.get(greedy.here.remote())
        with pytest.raises(NoWorker, match=r"(?s)1 workers of 1 CPU each.*has 2 CPU.*free: 0 CPU"):
            build(run, runner="ray")
    finally:
        ray.shutdown()


def test_an_address_where_nothing_listens_is_refused_at_once(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = load_run(run_file)
        with pytest.raises(ConfigError, match=rf"{address}.*--address"):
            build(run, runner="ray", address=address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=rf"{address}.*RAY_ADDRESS"):
            build(run, runner="ray")
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        build(run, runner="ray", address="nonsense")
