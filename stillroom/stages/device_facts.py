"""What torch sees of this machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DeviceFacts:
    """What torch sees.

    Attributes:
        built_for: CUDA's version that this torch was built for; "" of a build for CPUs
        gpus: name and bytes of memory of each
        threads: that torch takes on the CPU
        torchvision: why it cannot be imported beside this torch; "" where it can
    """

    built_for: str
    gpus: tuple[tuple[str, int], ...]
    threads: int
    torchvision: str


def device_facts() -> DeviceFacts:
    """Ask torch and torchvision."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    try:
        importlib.import_module("torchvision")
        why = ""
    except (ImportError, RuntimeError) as error:
        why = str(error).splitlines()[0]
    return DeviceFacts(
        built_for=torch.version.cuda or "",
        gpus=tuple((one.name, one.total_memory) for one in found),
        threads=torch.get_num_threads(),
        torchvision=why,
    )
