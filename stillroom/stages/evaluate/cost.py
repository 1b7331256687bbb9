"""What a model costs: parameters, FLOPs, and time a frame on this device."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import nn

    from stillroom.stages.evaluate.predict import Predictor


@dataclass(frozen=True)
class Speed:
    """Time a frame at batch 1, from a uint8 frame in host memory to its logits on the device.

    Without decoding, upsampling and argmax, which are the same for every model.

    Attributes:
        median_ms, p95_ms: latency in milliseconds over `runs` timed calls.
        frames_per_second: 1000 / median_ms.
        runs: timed calls, after `warm_up` untimed ones.
        device: name of the device, and the number of threads where it is a CPU.
    """

    median_ms: float
    p95_ms: float
    frames_per_second: float
    runs: int
    warm_up: int
    device: str


@dataclass(frozen=True)
class Cost:
    """What a model costs at one input size.

    Attributes:
        height, width: pixels of the frame.
        parameters: numbers learned, each counted once however often it is used.
        flops: floating-point operations of one frame's forward pass: convolutions and matrix
            products, a multiply-accumulate counted as 2. Papers that count it as 1 print half.
        speed: time on this device.
    """

    height: int
    width: int
    parameters: int
    flops: int
    speed: Speed

    def to_dict(self) -> dict[str, Any]:
        """The cost as plain JSON values."""
        return asdict(self)


def measure_cost(
    predictor: Predictor,
    module: nn.Module | None,
    size: tuple[int, int],
    *,
    runs: int = 20,
    idle: int = 0,
) -> Cost:
    """Measure a model: count its parameters and FLOPs, and time it at batch 1.

    Args:
        predictor: the model as it is evaluated.
        module: what holds its parameters; None for a bare callable, which counts as having none.
        size: (height, width) of the frame.
        runs: timed calls.
        idle: parameters of the module that its output does not depend on; left out of the count.
    """
    return Cost(
        height=size[0],
        width=size[1],
        parameters=0 if module is None else count_parameters(module) - idle,
        flops=count_flops(predictor, size),
        speed=measure_speed(predictor, size, runs=runs),
    )


def count_parameters(module: nn.Module) -> int:
    """Count the numbers that a module learns; a tensor used twice counts once, buffers never."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(predictor: Predictor, size: tuple[int, int]) -> int:
    """Count the operations of one frame's forward pass; a multiply-accumulate is 2.

    Convolutions, matrix products and attention count; normalisation, activation and interpolation,
    a percent or so in such networks, do not.
    """
    with _countable_attention(), FlopCounterMode(display=False) as counter:
        predictor(_black(size))
    return int(counter.get_total_flops())


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Have attention computed by plain matrix products: the counter sees 0 in the fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def measure_speed(
    predictor: Predictor, size: tuple[int, int], *, runs: int = 20, warm_up: int = 3
) -> Speed:
    """Time a model at batch 1 on the device where it is.

    Args:
        predictor: the model.
        size: (height, width) of the frame.
        runs: timed calls.
        warm_up: untimed calls before, at least one; kernels are chosen and memory is allocated.

    Raises:
        ConfigError: there is nothing to time.
    """
    if runs < 1 or warm_up < 1:
        raise ConfigError(f"expected runs >= 1 and warm_up >= 1, got {runs} and {warm_up}")
    frame = _black(size)
    device = predictor(frame)[0].device
    for _ in range(warm_up - 1):
        predictor(frame)
    _wait(device)
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        predictor(frame)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    median, p95 = np.percentile(np.asarray(seconds) * 1000, (50, 95)).tolist()
    return Speed(median, p95, 1000 / median, runs, warm_up, _name(device))


def _black(size: tuple[int, int]) -> NDArray[np.uint8]:
    if min(size) < 1:
        raise ConfigError(f"a frame needs a height and width above 0, got {size}")
    return np.zeros((1, *size, 3), np.uint8)


def _wait(device: torch.device) -> None:
    """Wait for a device that works behind our back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
