"""How far cached output is from the teacher's live output: errors, divergences, agreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.artifacts import artifact_of
from stillroom.storage_specs.errors import ArtifactError
from stillroom.storage_specs.fidelity import SPATIAL_TEMPERATURE, log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]


def pixel_kl(live: NDArray[Any], cached: NDArray[Any]) -> Floats:
    """Return KL(live || cached) in nats between the class distributions of each position.

    Args:
        live, cached: logits (C, h, w)

    Returns:
        (h, w), float64
    """
    return _kl(live, cached, axis=0)


def cosines(live: NDArray[Any], cached: NDArray[Any]) -> Floats:
    """Return the cosine between the two vectors of each position; 0 where one has no length.

    Args:
        live, cached: (C, h, w)

    Returns:
        (h, w), float64
    """
    p, q = live.astype(np.float64), cached.astype(np.float64)
    lengths = np.sqrt(np.square(p).sum(0) * np.square(q).sum(0))
    return np.asarray((p * q).sum(0) / np.where(lengths > 0, lengths, 1))


def spatial_kl(
    live: NDArray[Any], cached: NDArray[Any], mask: Mask, temperature: float = SPATIAL_TEMPERATURE
) -> Floats:
    """Return KL(live || cached) in nats between each channel's distributions over the positions.

    That is what channel-wise terms see: softmax over all positions of logits / temperature.

    Args:
        live, cached: (C, h, w)
        mask: (h, w), the positions that count

    Returns:
        (C,), float64; zeros where no position counts
    """
    if not mask.any():
        return np.zeros(len(live))
    return _kl(live[:, mask] / temperature, cached[:, mask] / temperature, axis=1)


def _kl(live: NDArray[Any], cached: NDArray[Any], axis: int) -> Floats:
    p, q = (log_softmax(each.astype(np.float64), axis) for each in (live, cached))
    return np.asarray((np.exp(p) * (p - q)).sum(axis))


@dataclass(frozen=True)
class ArtifactFidelity:
    """One artifact as it is stored against the teacher live, over some frames.

    Attributes:
        artifact, codec: their names.
        frames: how many were compared.
        max_error, mean_error: absolute, over all values.
        bound: the largest that the codec states for any of these values.
        of_bound: the largest share of its own bound that any value's error takes; a little above 1
            where the teacher does not repeat itself to the last bit.
        differing: share of the values that are not equal.
        relative_error: largest, in shares of the value; of what is measured so, as depth.
        kl: nats a position, mean; of logits only.
        spatial_kl: nats a channel at temperature 4, mean; of logits only.
        agreement: share of positions with the same best class; of logits only.
        bytes: encoded, a frame.
        cosine: between the vectors of a position, mean; of features only.
    """

    artifact: str
    codec: str
    frames: int
    max_error: float
    mean_error: float
    bound: float
    of_bound: float
    differing: float
    kl: float | None
    spatial_kl: float | None
    agreement: float | None
    bytes: float
    relative_error: float | None = None
    cosine: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        found = dict(self.__dict__)
        for name in ("relative_error", "cosine"):
            if found[name] is None:
                del found[name]
        return found


class FidelityTally:
    """Sums up `ArtifactFidelity` frame by frame."""

    def __init__(self, artifact: str, codec: str) -> None:
        self.artifact, self.codec = artifact, codec
        self._frames = self._values = self._differing = 0
        self._max = self._sum = self._bound = self._of_bound = 0.0
        self._bytes = self._relative = 0.0
        self._fidelity = artifact_of(artifact).fidelity
        self._kl = self._spatial = 0.0
        self._agree = self._positions = self._channels = 0
        self._cosines, self._vectors = 0.0, 0

    def add(
        self,
        live: NDArray[Any],
        cached: NDArray[Any],
        bound: NDArray[np.float32] | float,
        mask: Mask,
        size: float,
    ) -> None:
        """Add one frame.

        Args:
            live, cached: the teacher's output, and what is stored of it, decoded
            bound: the codec's, for `live`
            mask: (h, w), positions of logits or features that count
            size: encoded bytes of the frame

        Raises:
            ArtifactError: the shapes differ.
        """
        if live.shape != cached.shape:
            raise ArtifactError(
                f"{self.artifact}: the teacher says {live.shape}, the cache {cached.shape}"
            )
        error = np.abs(live.astype(np.float64) - cached.astype(np.float64))
        limit = np.broadcast_to(np.asarray(bound, np.float64), error.shape)
        self._frames += 1
        self._values += error.size
        self._differing += int((error > 0).sum())
        self._max = max(self._max, float(error.max(initial=0)))
        self._sum += float(error.sum())
        self._bound = max(self._bound, float(limit.max(initial=0)))
        self._of_bound = max(self._of_bound, _largest_share(error, limit))
        self._bytes += size
        if self._fidelity == "divergence":
            self._add_logits(live, cached, mask)
        elif self._fidelity == "relative_error":
            self._relative = max(self._relative, _largest_share(error, np.abs(live)))
        elif self._fidelity == "cosine":
            self._cosines += float(cosines(live, cached)[mask].sum())
            self._vectors += int(mask.sum())

    def _add_logits(self, live: NDArray[Any], cached: NDArray[Any], mask: Mask) -> None:
        self._kl += float(pixel_kl(live, cached)[mask].sum())
        self._agree += int((live.argmax(0) == cached.argmax(0))[mask].sum())
        self._positions += int(mask.sum())
        self._spatial += float(spatial_kl(live, cached, mask).sum())
        self._channels += len(live)

    def result(self) -> ArtifactFidelity:
        """Return the figures of all frames so far.

        Raises:
            ArtifactError: there was none.
        """
        if not self._frames:
            raise ArtifactError(f"{self.artifact}: no frame was compared")
        logits = self._positions > 0
        return ArtifactFidelity(
            artifact=self.artifact,
            codec=self.codec,
            frames=self._frames,
            max_error=self._max,
            mean_error=self._sum / max(1, self._values),
            bound=self._bound,
            of_bound=self._of_bound,
            differing=self._differing / max(1, self._values),
            kl=self._kl / self._positions if logits else None,
            spatial_kl=self._spatial / self._channels if logits else None,
            agreement=self._agree / self._positions if logits else None,
            bytes=self._bytes / self._frames,
            relative_error=self._relative if self._fidelity == "relative_error" else None,
            cosine=self._cosines / max(1, self._vectors) if self._fidelity == "cosine" else None,
        )


def _largest_share(error: NDArray[Any], whole: NDArray[Any]) -> float:
    """The largest error in shares of something, where that is not 0."""
    there = whole != 0
    return float((error[there] / whole[there]).max(initial=0))
