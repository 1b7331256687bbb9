"""Stage one in this process: a few shards at a time around one model."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import groupby, islice
from typing import TYPE_CHECKING

from stillroom.pipeline.build.cores import SHARDS_IN_FLIGHT, cores_here, thread_counts
from stillroom.pipeline.build.report import BuildEvent
from stillroom.pipeline.build.worker import ShardWorker
from stillroom.stages.cache.shard_threads import ShardThreads
from stillroom.stages.torch_state import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stillroom.pipeline.build.model_loader import ModelLoader
    from stillroom.pipeline.build.report import Listener
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork

LOG = logging.getLogger(__name__)


def run_inline(
    opened: OpenedRun, works: list[ShardWork], listen: Listener, models: ModelLoader | None = None
) -> None:
    """Work the shards off in this process.

    The first failure ends the build: here a traceback serves better than a retry.

    Args:
        models: as for `ShardWorker`
    """
    stop = threading.Event()

    def give_up_if_stopped() -> None:
        if stop.is_set():
            raise _Stopped

    def cached(work: ShardWork) -> ShardReport:
        def on_frames(frames: int) -> None:
            give_up_if_stopped()
            listen(BuildEvent(work, frames=frames))

        return worker.work(work, on_frames, give_up_if_stopped)

    # What this process does next, training perhaps, has its own number of threads.
    with (
        threads(opened.run.cache.threads),
        ShardThreads(*thread_counts(opened.run.cache, cores_here())) as beside,
        ThreadPoolExecutor(SHARDS_IN_FLIGHT, "shard") as pool,
    ):
        worker = ShardWorker(opened, beside, models)
        try:
            # All of one teacher's shards end before the next teacher takes its memory.
            for _, group in groupby(works, key=lambda work: work.set_name):
                for report in _few_at_a_time(pool, cached, group):
                    listen(BuildEvent(report.work, report=report))
        except BaseException as error:
            stop.set()  # shards in other threads are given up before their next batch
            if isinstance(error, KeyboardInterrupt):  # whoever asked to stop is kept waiting
                LOG.warning(
                    "stopping: the batch in hand is finished first; what is committed stays"
                )
            raise


class _Stopped(Exception):
    """Another shard failed or the user interrupted: this one is given up, uncommitted."""


def _few_at_a_time(
    pool: ThreadPoolExecutor, cached: Callable[[ShardWork], ShardReport], works: Iterable[ShardWork]
) -> Iterator[ShardReport]:
    waiting = iter(works)
    running = {pool.submit(cached, work) for work in islice(waiting, SHARDS_IN_FLIGHT)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
        running |= {pool.submit(cached, work) for work in islice(waiting, len(done))}
