"""The most likely classes of each pixel, and the mass of all others, for very many classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stillroom.storage_specs.codecs.codec import (
    Array,
    Codec,
    Encoded,
    Example,
    Side,
    check_channels,
    finite_float32,
    into,
)
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_CLASSES = 100
STEPS = 2048  # a nat
DEEPEST = 65535 / STEPS


@dataclass(frozen=True)
class TopK(Codec):
    """Class and log-probability of the k likeliest classes of each pixel, and the tail's mass.

    Stored are 2 k + 1 planes of uint16: k classes, the likeliest first; k log-probabilities and
    that of the tail, as -2048 times their logarithm, at most 65535. Decoded are log-probabilities
    of all classes; those of the tail share its mass evenly. Losses that look at logits themselves,
    at other temperatures than 1 or at whole channels, cannot use them.

    Attributes:
        k: classes kept
    """

    k: int = 8

    name: ClassVar[str] = "topk"
    stored: ClassVar[str] = "<u2"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(-40, 40, channels=LEAST_CLASSES),
        Example(-40, 40, {"k": 1}, channels=LEAST_CLASSES),
    )
    whole_logits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or not 1 <= self.k < 100:
            raise ConfigError(f"codec 'topk': k = {self.k!r}; expected 1 to 99")

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """2 k + 1 planes."""
        if len(shape) != 3 or not LEAST_CLASSES <= shape[0] <= 65536:
            raise ArtifactError(
                f"codec topk is for {LEAST_CLASSES} classes and more, got shape {shape}; below "
                "that codec kl is smaller at the same fidelity"
            )
        return (2 * self.k + 1, *shape[1:])

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The number of classes."""
        return {"classes": ()}

    def encode(self, x: Array) -> Encoded:
        """Keep the k likeliest classes of each pixel."""
        floats = finite_float32(x)
        check_channels(floats, self.name)
        self.stored_shape(floats.shape)
        kept, logs, tail = self._kept(floats)
        planes = np.concatenate([logs, tail[None]])
        steps = np.rint(np.minimum(-planes, DEEPEST) * STEPS)
        values = np.concatenate([kept.astype("<u2"), np.maximum(steps, 0).astype("<u2")])
        return Encoded(values, {"classes": np.array(len(floats), np.float32)})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """Log-probabilities of all classes: (C, h, w)."""
        classes = int(side["classes"])
        logs = values[self.k :].astype(np.float32) / np.float32(-STEPS)
        each = logs[-1] - np.float32(np.log(max(classes - self.k, 1)))
        made = np.broadcast_to(each, (classes, *values.shape[1:])).copy()
        np.put_along_axis(made, np.minimum(values[: self.k], classes - 1), logs[:-1], axis=0)
        return into(out, made)

    def bound(self, x: Array) -> NDArray[np.float32]:
        """Of the log-probabilities of the kept classes half a step; of all others no bound.

        Against log_softmax of `x`, not against `x`.
        """
        floats = finite_float32(x)
        kept, logs, _ = self._kept(floats)
        bound = np.full(floats.shape, np.inf, np.float32)
        error = np.where(logs < -DEEPEST, np.inf, 0.5 / STEPS + 2.0**-18)
        np.put_along_axis(bound, kept, error.astype(np.float32), axis=0)
        return bound

    def _kept(
        self, floats: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Classes (k, h, w), their log-probabilities, and that of the tail (h, w)."""
        below = floats.astype(np.float64) - floats.max(axis=0, keepdims=True, initial=-np.inf)
        logs = below - np.log(np.exp(below).sum(axis=0, keepdims=True))
        # A stable sort: equal classes by number, so that the same logits make the same bytes.
        order = np.argsort(-logs, axis=0, kind="stable")
        likeliest = np.take_along_axis(logs, order, axis=0)
        with np.errstate(divide="ignore"):
            tail = np.log(np.exp(likeliest[self.k :]).sum(axis=0))
        return order[: self.k], likeliest[: self.k], tail
