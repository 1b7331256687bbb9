"""What a worker asks Ray for, and how many workers a cluster has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.cores import most_cores
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardWork


@dataclass(frozen=True)
class Node:
    """CPUs and GPUs of a machine, free or not."""

    cpus: int
    gpus: int

    def room(self, cpus: int, gpus: float) -> int:
        """How many workers fit that take so much each; a share of a GPU lies on one GPU."""
        workers = self.cpus // cpus
        return min(workers, self.gpus * int(1 / gpus)) if gpus else workers


def nodes_of(ray: Any) -> list[Node]:
    """Return the machines of a cluster as it is now; one CPU, if there are several, stays free."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Node(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in alive]
    nodes.sort(key=lambda node: node.cpus)
    if sum(node.cpus for node in nodes) > 1:
        nodes[-1] = Node(nodes[-1].cpus - 1, nodes[-1].gpus)
    return nodes


@dataclass(frozen=True)
class Placement:
    """What every worker of some shards asks for.

    Attributes:
        room: how many the cluster has room for as it is
        workers: how many there are to be: at least one, and with a GPU all that the run asks for,
            since Ray may bring machines for them
    """

    room: int
    workers: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{gpus}"


def placed(run: RunConfig, nodes: Sequence[Node], *, gpu: bool) -> Placement:
    """Share a cluster among as many workers as the run asks for: one a share of a GPU, or one."""
    gpus = run.cache.num_gpus if gpu else 0.0
    room = sum(node.room(1, gpus) for node in nodes)
    asked = run.cache.workers or (room if gpu else 1)
    # of a machine that is yet to come nothing is known
    cpus = most_cores(run.cache) if room else run.cache.encoders or 1
    while room and sum(node.room(cpus, gpus) for node in nodes) < min(asked, room):
        cpus -= 1
    return Placement(room, max(1, asked if gpu else min(asked, room)), cpus, gpus)


def by_device(
    run: RunConfig, works: Sequence[ShardWork], nodes: Sequence[Node]
) -> tuple[list[ShardWork], list[ShardWork], list[str]]:
    """Tell the shards of frames, labels and models on a CPU from those of models on a GPU.

    Returns:
        both, and the models that would use a GPU if the cluster had one
    """
    devices = {name: run.teacher(name).device for name in run.teachers}
    devices |= {name: flow.device for name, flow in run.flows.items()}
    some = any(node.gpus for node in nodes)
    without: list[ShardWork] = []
    on_gpus: list[ShardWork] = []
    for work in works:
        device = devices.get(teacher_of(work.set_name), "cpu")
        (on_gpus if device == "cuda" or (device == "auto" and some) else without).append(work)
    lacking = {teacher_of(work.set_name) for work in without}
    return without, on_gpus, sorted(name for name in lacking if devices.get(name) == "auto")
