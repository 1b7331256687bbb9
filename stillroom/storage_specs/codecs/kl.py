"""Logits in steps as coarse as a budget of KL divergence allows.

Two distributions must survive: softmax over classes at each pixel, which pixel-wise terms compare,
and softmax over positions in each channel, which channel-wise terms compare. With small errors of
variance v at every logit both divergences are half of sum(weight * v), weights p (1 - p) of the
first and p of the second. Uniform steps d make errors of variance d^2 / 12. So each channel's step
follows in closed form from its weights, and the budget is then measured and kept, not hoped for.

Step q of channel c has the value top[c] - q * step[c]; or, where size counts more than speed,
top[c] - KNEE * expm1(q * step[c] / KNEE): such steps grow below the channel's greatest value, where
neither softmax has weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stillroom.storage_specs.codecs.codec import (
    Array,
    Codec,
    Encoded,
    Example,
    Side,
    check_channels,
    finite_float32,
    per_channel,
)
from stillroom.storage_specs.codecs.prediction import differences_of, steps_of
from stillroom.storage_specs.errors import ArtifactError, ConfigError
from stillroom.storage_specs.fidelity import SPATIAL_TEMPERATURE, pixel_kl, spatial_kl

if TYPE_CHECKING:
    from numpy.typing import NDArray

KNEE = 4.0
"""Logits below the channel's greatest at which a step is twice as wide as there."""
MOST_STEPS = 65535
ATTEMPTS = 6


@dataclass(frozen=True)
class KL(Codec):
    """Predicted uint16 steps whose mean pixel and spatial KL stay within `budget`.

    Attributes:
        budget: nats, for each of `fidelity.pixel_kl` and `fidelity.spatial_kl` of every frame
        predict: "median", with steps that grow, is a tenth smaller; "above", with equal steps,
            decodes four times as fast
    """

    budget: float = 5e-5
    predict: Literal["above", "median"] = "median"

    name: ClassVar[str] = "kl"
    stored: ClassVar[str] = "<u2"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(-80, 80),
        Example(-80, 80, {"predict": "above"}),
        Example(-80, 80, {"budget": 1e-2}),
    )

    def __post_init__(self) -> None:
        number = isinstance(self.budget, (int, float)) and not isinstance(self.budget, bool)
        if not (number and 1e-9 <= self.budget <= 1):
            raise ConfigError(f"codec 'kl': budget = {self.budget!r}; expected 1e-9 to 1 nats")
        if self.predict not in ("above", "median"):
            raise ConfigError(f"codec 'kl': predict = {self.predict!r}; known: 'above', 'median'")

    @property
    def _knee(self) -> float:
        return np.inf if self.predict == "above" else KNEE

    @property
    def tileable(self) -> bool:
        """No: steps are predicted from their neighbours."""
        return False

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Of each channel its greatest value, its finest step, and the number of its last step."""
        return {"top": shape[:1], "step": shape[:1], "last": shape[:1]}

    def encode(self, x: Array) -> Encoded:
        """Quantise within the budget; ArtifactError where 16 bits cannot hold it."""
        steps, side = self._quantised(finite_float32(x))
        return Encoded(differences_of(steps, self.predict), side)

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each step."""
        from stillroom.storage_specs.codecs.kernels import undo_above, undo_median

        made = np.empty(values.shape, np.float32) if out is None else out
        if self.predict == "above":
            undo_above(values, side["top"], side["step"], made)
        else:
            undo_median(values, _table(side), 0xFFFF, made)
        return made

    def undo_prediction(self, values: Array) -> Array:
        """The steps."""
        return steps_of(values, self.predict)

    def bound(self, x: Array) -> NDArray[np.float32]:
        """Half a step at each value, and float32 rounding: the shape of `x`."""
        floats = finite_float32(x)
        _, side = self._quantised(floats)
        top, step = (per_channel(side[name].astype(np.float64), floats) for name in ("top", "step"))
        depth = top - floats
        half = step / 2 + 0 * depth
        if self.predict == "median":
            half = (KNEE + depth) * np.expm1(step / (2 * KNEE))
        rounding = (np.abs(top) + 2 * depth + KNEE) * 2.0**-20
        return np.asarray(np.nextafter((half + rounding).astype(np.float32), np.float32(np.inf)))

    def _quantised(
        self, floats: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint16], dict[str, NDArray[np.float32]]]:
        """Steps below each channel's top, (C, h, w) uint16, and the side arrays."""
        from stillroom.storage_specs.codecs.kl_kernels import nearest_steps

        check_channels(floats, self.name)
        if floats.size == 0:
            nothing = np.zeros(len(floats), np.float32)
            empty = np.zeros(floats.shape, np.uint16)
            return empty, {"top": nothing, "step": nothing, "last": nothing}
        flat = np.ascontiguousarray(floats.reshape(len(floats), -1))
        top, low = flat.max(axis=1), flat.min(axis=1)
        even, highest = self._even(flat, top)
        depth = highest.astype(np.float64) - self._even(low[:, None], top)[0][:, 0]
        finest = np.maximum(depth / MOST_STEPS, 1e-30)
        step = _planned(*_costs(flat, top, low, self._knee), self.budget)
        for _ in range(ATTEMPTS):
            step = np.maximum(step, finest).astype(np.float32)
            steps = np.empty(flat.shape, np.uint16)
            nearest_steps(even, highest, step, MOST_STEPS, steps)
            side = {"top": top, "step": step, "last": steps.max(axis=1).astype(np.float32)}
            worst = _divergence(flat, self._kept(steps, side))
            if worst <= self.budget:
                return steps.reshape(floats.shape), side
            step = step * np.sqrt(self.budget / worst) * 0.98
        raise ArtifactError(
            f"codec kl cannot keep the budget of {self.budget:g} nats in 16 bits (reached "
            f"{worst:.2g}; values from {floats.min():g} to {floats.max():g}): raise the budget, "
            "or use codec half or exact"
        )

    def _even(
        self, flat: NDArray[np.float32], top: NDArray[np.float32]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Logits (C, n) and their tops (C,) on an axis where steps are equal."""
        if self.predict == "above":
            return flat, top
        below = top[:, None].astype(np.float64) - flat
        below /= KNEE
        np.log1p(below, out=below)
        below *= -KNEE
        return below, np.zeros(len(top))

    def _kept(self, steps: NDArray[np.uint16], side: Side) -> NDArray[np.float32]:
        """What `decode` makes of steps: (C, n)."""
        from stillroom.storage_specs.codecs.kernels import affine

        if self.predict == "median":
            return _values(steps, side)
        kept = np.empty(steps.shape, np.float32)
        affine(steps, -side["step"], side["top"], kept)
        return kept


def _planned(
    pixel: NDArray[np.float64], spatial: NDArray[np.float64], budget: float
) -> NDArray[np.float64]:
    """The step of each channel that costs the fewest bits within both budgets: (C,).

    Bits fall with sum(log step); each budget is linear in step^2. At the optimum step^2 is
    1 / (a * pixel weight + b * spatial weight) for some a, b > 0: their ratio is searched, their
    size follows from the budget that is reached first.

    Args:
        pixel, spatial: see `_costs`
    """
    ratio = np.geomspace(1e-6, 1e6, 49)[:, None]
    squares = 1 / (pixel + ratio * spatial)  # (ratios, C)
    reached = np.maximum((squares * pixel).sum(axis=1), (squares * spatial).sum(axis=1))
    squares *= 0.98 * budget / reached[:, None]
    return np.asarray(np.sqrt(squares[np.log(squares).sum(axis=1).argmax()]))


def _costs(
    flat: NDArray[np.float32], top: NDArray[np.float32], low: NDArray[np.float32], knee: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What one step^2 of each channel adds to the two divergences, in nats: (C,), (C,)."""
    from stillroom.storage_specs.codecs.kl_kernels import SPAN, step_costs

    if float(top.max()) - float(low.min()) <= SPAN:
        pixel, spatial = np.empty((2, len(flat)))
        step_costs(flat, top, 1 / knee, pixel, spatial)
    else:
        wider = (1 + (top[:, None].astype(np.float64) - flat) / knee) ** 2
        of_class = _softmax(flat, axis=0)
        pixel = (of_class * (1 - of_class) * wider).mean(axis=1)
        spatial = (_softmax(flat / SPATIAL_TEMPERATURE, axis=1) * wider).sum(axis=1)
    return pixel / 24, spatial / (24 * SPATIAL_TEMPERATURE**2 * len(flat))


def _divergence(true: NDArray[np.float32], kept: NDArray[np.float32]) -> float:
    """Return the greater of `pixel_kl` and `spatial_kl` of maps (C, n)."""
    from stillroom.storage_specs.codecs.kl_kernels import SPAN, divergences

    greatest = float(true.max())  # of kept too: no step is above its channel's greatest
    if greatest - min(float(true.min()), float(kept.min())) <= SPAN:
        return float(max(divergences(true, kept, greatest)))
    return max(pixel_kl(true, kept), spatial_kl(true, kept))


def _softmax(x: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    raised = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


def _table(side: Side) -> NDArray[np.float32]:
    """Value of every step of every channel: (C, most steps of a channel)."""
    last = np.clip(np.nan_to_num(side["last"]), 0, MOST_STEPS)[:, None]
    every = np.arange(int(last.max(initial=0)) + 1, dtype=np.float32)
    return _values(np.minimum(every, last), side)


def _values(steps: Array, side: Side) -> NDArray[np.float32]:
    """Values of steps that grow, in float32."""
    values = steps.astype(np.float32)
    values *= side["step"][:, None]
    values /= np.float32(KNEE)
    np.expm1(values, out=values)
    values *= np.float32(-KNEE)
    values += side["top"][:, None]
    return values
