"""Errors of stored artifacts against the teacher's outputs, in measures that losses depend on.

For logits these are two KL divergences; a shard's manifest keeps them and the largest error,
measured on a few of its frames when they were written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.storage_specs.codecs.codec import Codec, Encoded

Fidelity = dict[str, dict[str, float]]
"""By artifact and by "largest_error" and its like, as `measured` has them."""

SPATIAL_TEMPERATURE = 4.0
"""The temperature of channel-wise distillation (Shu et al., ICCV 2021, sec. 4.1)."""


def pixel_kl(true: NDArray[Any], kept: NDArray[Any]) -> float:
    """Mean over pixels of KL(softmax over channels of true || of kept), in nats: pixel-wise terms.

    Args:
        true, kept: (C, h, w) logits
    """
    return _mean_kl(log_softmax(_wide(true), axis=0), log_softmax(_wide(kept), axis=0), axis=0)


def spatial_kl(
    true: NDArray[Any], kept: NDArray[Any], temperature: float = SPATIAL_TEMPERATURE
) -> float:
    """Mean over channels of KL(softmax over positions of true || of kept), in nats.

    What channel-wise terms see, without their factor of temperature^2.

    Args:
        true, kept: (C, h, w) logits
    """
    flat = [_wide(x).reshape(len(x), -1) / temperature for x in (true, kept)]
    return _mean_kl(log_softmax(flat[0], axis=1), log_softmax(flat[1], axis=1), axis=1)


def measured(codec: Codec, true: NDArray[Any], encoded: Encoded, fidelity: str) -> dict[str, float]:
    """Return the largest error of one frame's array, and the measures of its artifact's row.

    Args:
        true: (C, h, w), or whatever the artifact has
        fidelity: the row's

    Returns:
        "largest_error" unless the codec keeps something else than the values; by the row,
        "largest_relative_error", of the values that are not 0; "pixel_kl" and "spatial_kl", in nats

    Raises:
        ArtifactError: where the codec breaks its own bound
    """
    kept = codec.decode(encoded.values, encoded.side)
    found = {}
    if codec.whole_logits:
        error = np.abs(kept.astype(np.float64) - true)
        if (error > codec.bound(true)).any():
            raise ArtifactError(
                f"codec {codec.name} errs by {error.max():g}, more than the bound that it states"
            )
        found["largest_error"] = float(error.max(initial=0))
        if fidelity == "relative_error":
            there = true != 0
            relative = error[there] / np.abs(true[there])
            found["largest_relative_error"] = float(relative.max(initial=0))
    if fidelity == "divergence":
        found["pixel_kl"] = pixel_kl(true, kept)
        if codec.whole_logits:
            found["spatial_kl"] = spatial_kl(true, kept)
    return found


def worst(first: Fidelity, second: Fidelity) -> Fidelity:
    """The greater of each number, by artifact."""
    names = first.keys() | second.keys()
    both = {name: (first.get(name, {}), second.get(name, {})) for name in sorted(names)}
    return {
        name: {key: max(a.get(key, 0.0), b.get(key, 0.0)) for key in sorted(a.keys() | b.keys())}
        for name, (a, b) in both.items()
    }


def _mean_kl(p: NDArray[np.float64], q: NDArray[np.float64], axis: int) -> float:
    """Mean KL of two arrays of log-probabilities along an axis."""
    return float((np.exp(p) * (p - q)).sum(axis=axis).mean()) if p.size else 0.0


def _wide(x: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(x, np.float64)


def log_softmax(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the logarithm of the softmax along an axis."""
    below = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return np.asarray(below - np.log(np.exp(below).sum(axis=axis, keepdims=True)))
