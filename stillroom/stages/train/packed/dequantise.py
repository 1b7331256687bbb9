"""What steps of a codec stand for, as tensors on any device: the second half of its `decode`.

Prediction is undone before (`Codec.undo_prediction`). Values are those of `decode` to the bit where
that multiplies, adds and divides; two that take exponentials are within a few units in the last
place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from stillroom.storage_specs.codecs import floor, quantised, signed
from stillroom.storage_specs.codecs.kl import KNEE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


def _as_it_is(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    return steps


def _float(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    return steps.float()


def _byte(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    return steps.float().mul_(side["scale"]).add_(side["offset"])


def _parts_of(whole: int) -> Callable[..., Tensor]:
    def value(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
        values = steps.float()
        # CUDA multiplies by the reciprocal of a number that is not on the device: another rounding.
        return values.div_(values.new_full((), whole))

    return value


def _flow(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    return steps.float().mul_(1 / quantised.FLOW_STEPS)


def _kl(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    depth = _unsigned(steps).float().mul_(side["step"])
    if codec.predict == "median":
        depth = depth.div_(KNEE).expm1_().mul_(KNEE)  # divided by a power of two, which is exact
    return side["top"] - depth


def _fp8(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    return steps.view(torch.float8_e4m3fn).float().mul_(side["scale"])


def _log(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    number = _unsigned(steps)
    power = (number - 1).double().mul_(codec.log_ratio).exp_().mul_(codec.low).float()
    return torch.where(number > 0, power, 0.0)


def _signed(codec: Any, steps: Tensor, side: Mapping[str, Tensor]) -> Tensor:
    values = steps.float().sub_(signed.ZERO)
    return values.div_(values.new_full((), signed.ZERO))


def _unsigned(steps: Tensor) -> Tensor:
    """Steps of 16 bits, as int32: few operators take uint16."""
    return steps.int() & 0xFFFF


DEQUANTISE: dict[str, Callable[..., Tensor]] = {
    "raw": _as_it_is,
    "rgb": _as_it_is,
    "exact": _float,
    "half": _float,
    "byte": _byte,
    "unit": _parts_of(quantised.UNIT_STEPS),
    "floor": _parts_of(floor.STEPS),
    "flow": _flow,
    "kl": _kl,
    "fp8": _fp8,
    "log": _log,
    "signed": _signed,
}
"""By the codec's name: of the codec, its steps (B, C, h, w) and its sides (B, C, 1, 1).

Steps of 16 bits come as int16, whatever sign they have. `topk` is not there: it stores classes and
not the values of cells.
"""
