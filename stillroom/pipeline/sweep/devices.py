"""Which GPU of this machine each of the students that are trained at a time gets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stillroom.stages.torch_state import gpu_count
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.pipeline.sweep.sweep_settings import SweepConfig

# CUDA_VISIBLE_DEVICES of a student's process; None leaves it what it is.
Place = str | None


def places(config: SweepConfig, gpus: list[str], cpus: int) -> Sequence[Place]:
    """Return a place for each of the students that are trained at a time on this machine.

    Args:
        gpus: of this machine, as CUDA_VISIBLE_DEVICES names them
        cpus: of this machine

    Raises:
        ConfigError: a student asks for more than there is.
    """
    share, room = config.gpus_per_student, config.parallel
    if config.cpus_per_student is not None:
        if config.cpus_per_student > cpus:
            raise ConfigError(
                f"cpus_per_student = {config.cpus_per_student}: this machine has {cpus}"
            )
        room = min(room or cpus, cpus // config.cpus_per_student)
    if not share:
        return _spread([] if share is not None else gpus, room or 1, hidden=share is not None)
    if not gpus:
        raise ConfigError(
            f"gpus_per_student = {share:g}: torch sees no GPU on this machine; leave it out, or "
            "train on a cluster: --address HOST:PORT"
        )
    return [*gpus * per_gpu(share)][:room]


def _spread(gpus: list[str], count: int, *, hidden: bool) -> list[Place]:
    nowhere = "" if hidden else None
    return [gpus[number % len(gpus)] if gpus else nowhere for number in range(count)]


def per_gpu(share: float) -> int:
    """Return how many students that take such a share fit on a GPU."""
    return int(1 / share + 1e-9)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = gpu_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(count)]
    return [name.strip() for name in named.split(",")][:count]
