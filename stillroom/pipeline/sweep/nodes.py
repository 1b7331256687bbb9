"""What every node of a cluster must see of a sweep, looked at before a trial is placed there."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillroom.pipeline.sweep.file import Sweep

SECONDS = 120.0  # a node starts a process and imports what opens a cache


def demand_shared(ray: Any, nodes: Sequence[Mapping[str, Any]], sweep: Sweep) -> None:
    """Open the cache on every node, and look for what this process has put into the folder.

    Raises:
        ConfigError: names each node that does not see one of them, or does not answer.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder = sweep.config.path.absolute()
    mark = folder / f".seen-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        asked = {
            ray.remote(lacking)
            .options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(str(mark), str(Path.cwd()), _absolute(sweep.run.cache.path)): node
            for node in nodes
        }
        faults = [
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {fault}"
            for reference, node in asked.items()
            for fault in _answer(ray, reference)
        ]
    finally:
        mark.unlink(missing_ok=True)
    if faults:
        listing = "\n".join(f"  {fault}" for fault in dict.fromkeys(faults))
        raise ConfigError(
            f"not every node sees what a trial needs\n{listing}\n  put the folder, `path` and "
            "cache.path on storage that all nodes mount at the same place (a cache may be in an "
            "object store)"
        )


def lacking(mark: str, folder: str, cache: str) -> list[str]:
    """Return what a node does not see of these; run there."""
    from stillroom.storage_specs.store import Cache

    found = []
    if not Path(mark).exists():
        found.append(f"no {Path(mark).parent}, or another one than the sweep's")
    if not Path(folder).is_dir():
        found.append(f"no {folder}, in which the sweep runs")
    try:
        Cache.open(cache)
    except StillroomError as error:
        found.append(str(error).splitlines()[0].partition(";")[0])
    return found


def _absolute(path: Path | str) -> str:
    return str(path) if "://" in str(path) else str(Path(path).absolute())


def _answer(ray: Any, reference: Any) -> list[str]:
    from ray.exceptions import RayError

    try:
        return list(ray.get(reference, timeout=SECONDS))
    except RayError as error:
        return [f"it cannot run this program: {str(error).strip().splitlines()[-1]}"]
