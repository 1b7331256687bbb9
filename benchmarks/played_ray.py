"""A Ray that one process plays, in a time of its own: workers without their processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stillroom.stages.cache.cache_shard import ShardReport, ShardWork

SHARD_FRAMES = 50
SHARD_SECONDS = 60.0  # of a teacher, in the time that is played


def play_ray(workers: int) -> Any:
    """Return what takes the place of the module `ray`, and of `time`, in the driver."""
    return _PlayedRay(workers)


class _PlayedRay:
    """Ray as the driver sees it, whose workers take time that this class tells.

    Attributes:
        now: seconds since it began; `monotonic` of the driver
        calls: how often each was made, and how many references were waited for
    """

    def __init__(self, workers: int) -> None:
        self.now = 0.0
        self.calls: Counter[str] = Counter()
        full, rest = divmod(workers, 8)
        gpus = [8] * full + [rest] * bool(rest)
        self._nodes = [{"CPU": 8.0 * each + 1, "GPU": float(each)} for each in gpus]

    def monotonic(self) -> float:
        return self.now

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": None, "Alive": True, "Resources": each} for each in self._nodes]

    def remote(self, *kinds: type, **_: Any) -> Any:
        return _PlayedClass(self) if kinds else lambda kind: _PlayedClass(self)

    def wait(
        self, references: list[Any], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        self.calls["waits"] += 1
        self.calls["references waited for"] += len(references)
        soonest = min(each.at for each in references)
        self.now = max(self.now, min(soonest, self.now + (timeout or 0.0)))
        done = [each for each in references if each.at <= self.now][:num_returns]
        taken = set(map(id, done))
        return done, [each for each in references if id(each) not in taken]

    def get(self, reference: Any) -> Any:
        self.calls["gets"] += 1
        return reference.value

    def kill(self, _: Any) -> None:
        pass


class _PlayedClass:
    def __init__(self, ray: _PlayedRay) -> None:
        self.ray = ray

    def options(self, **_: Any) -> _PlayedClass:
        return self

    def remote(self, *_: Any) -> _PlayedActor:
        return _PlayedActor(self.ray)


class _PlayedActor:
    def __init__(self, ray: _PlayedRay) -> None:
        self.free = ray.now
        self.ready = _PlayedMethod(lambda: _Reference(ray, 10.0, None))
        self.heartbeat = _PlayedMethod(lambda: _Reference(ray, 0.002, ({}, 0.0)))
        self.work = _PlayedMethod(self._work)
        self._ray = ray

    def _work(self, work: ShardWork) -> _Reference:
        # Workers are not in step: shards differ by up to a tenth.
        seconds = SHARD_SECONDS * (0.95 + work.shard * 7919 % 1000 / 10_000)
        self.free = max(self._ray.now, self.free) + seconds
        report = ShardReport(work, SHARD_FRAMES, 0, 1 << 20, seconds, seconds)
        return _Reference(self._ray, self.free - self._ray.now, report)


class _PlayedMethod:
    def __init__(self, call: Any) -> None:
        self.call = call

    def remote(self, *arguments: Any) -> _Reference:
        return self.call(*arguments)


class _Reference:
    __slots__ = ("at", "value")

    def __init__(self, ray: _PlayedRay, seconds: float, value: Any) -> None:
        ray.calls["calls of actors"] += 1
        self.at, self.value = ray.now + seconds, value
