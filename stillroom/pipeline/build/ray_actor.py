"""What runs in a Ray actor: a ShardWorker, made when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillroom.pipeline.build.worker import ShardWorker
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork


class RayWorker:
    """Its constructor cannot fail: of that Ray would hand on only the text of a traceback."""

    def __init__(self, run: RunConfig) -> None:
        self._run = run
        self._worker: ShardWorker | None = None

    def ready(self) -> None:
        """Open the sources and the cache; no shard may be given before this has returned.

        Raises:
            StillroomError: one that concerns every shard (the cache cannot be written, say).
        """
        from stillroom.pipeline.build.worker import ShardWorker
        from stillroom.pipeline.run_file.opened_run import open_run

        self._worker = ShardWorker(open_run(self._run))

    def work(self, work: ShardWork) -> ShardReport:
        """As `ShardWorker.work`."""
        return self._opened().work(work)

    def heartbeat(self) -> tuple[dict[ShardWork, int], float]:
        """As `ShardWorker.heartbeat`."""
        return self._opened().heartbeat()

    def _opened(self) -> ShardWorker:
        if self._worker is None:
            raise RuntimeError("RayWorker.ready has not been called")
        return self._worker
