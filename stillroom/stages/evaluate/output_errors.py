"""How far what a cache says is from what the teacher says: errors, divergences, agreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.artifacts import artifact_of
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

SPATIAL_TEMPERATURE = 4.0
"""Of `spatial_kl`: that of channel-wise distillation (Shu et al., ICCV 2021, sec. 4.2)."""


def pixel_kl(live: NDArray[np.floating[Any]], said: NDArray[np.floating[Any]]) -> Floats:
    """KL(live || said) in nats between the class distributions of each position.

    live, said: logits (C, h, w)
    returns: (h, w), float64
    """
    log_live, log_said = _log_softmax(live, 0), _log_softmax(said, 0)
    divergence: Floats = (np.exp(log_live) * (log_live - log_said)).sum(0)
    return divergence


def spatial_kl(
    live: NDArray[np.floating[Any]],
    said: NDArray[np.floating[Any]],
    mask: Mask,
    temperature: float = SPATIAL_TEMPERATURE,
) -> Floats:
    """KL(live || said) in nats between each channel's distributions over the positions.

    That is what channel-wise terms see: softmax over all positions of logits / temperature.

    live, said: (C, h, w)
    mask: (h, w), the positions that count
    returns: (C,), float64; zeros where no position counts
    """
    if not mask.any():
        return np.zeros(len(live))
    log_live = _log_softmax(live[:, mask] / temperature, 1)
    log_said = _log_softmax(said[:, mask] / temperature, 1)
    divergence: Floats = (np.exp(log_live) * (log_live - log_said)).sum(1)
    return divergence


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

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        found = dict(self.__dict__)
        if self.relative_error is None:
            del found["relative_error"]
        return found


class FidelityTally:
    """Sums up frame by frame what `ArtifactFidelity` says of all of them."""

    def __init__(self, artifact: str, codec: str) -> None:
        self.artifact, self.codec = artifact, codec
        self._frames = self._values = self._differing = 0
        self._max = self._sum = self._bound = self._of_bound = 0.0
        self._bytes = self._relative = 0.0
        self._fidelity = artifact_of(artifact).fidelity
        self._kl = self._spatial = 0.0
        self._agree = self._positions = self._channels = 0

    def add(
        self,
        live: NDArray[Any],
        said: NDArray[Any],
        bound: NDArray[np.float32] | float,
        mask: Mask,
        size: float,
    ) -> None:
        """One frame more.

        live, said: what the teacher says and what is stored of it, decoded
        bound: the codec's, for `live`
        mask: (h, w), positions of logits that count
        size: encoded bytes of the frame

        Raises:
            ArtifactError: the shapes differ.
        """
        if live.shape != said.shape:
            raise ArtifactError(
                f"{self.artifact}: the teacher says {live.shape}, the cache {said.shape}"
            )
        error = np.abs(live.astype(np.float64) - said.astype(np.float64))
        limit = np.broadcast_to(np.asarray(bound, np.float64), error.shape)
        self._frames += 1
        self._values += error.size
        self._differing += int((error > 0).sum())
        self._max = max(self._max, float(error.max(initial=0)))
        self._sum += float(error.sum())
        self._bound = max(self._bound, float(limit.max(initial=0)))
        lossy = limit > 0
        if lossy.any():
            share = float((error[lossy] / limit[lossy]).max())
            self._of_bound = max(self._of_bound, share)
        self._bytes += size
        if self._fidelity == "divergence":
            self._add_logits(live, said, mask)
        elif self._fidelity == "relative_error":
            there = live != 0
            share = error[there] / np.abs(live[there])
            self._relative = max(self._relative, float(share.max(initial=0)))

    def _add_logits(self, live: NDArray[Any], said: NDArray[Any], mask: Mask) -> None:
        self._kl += float(pixel_kl(live, said)[mask].sum())
        self._agree += int((live.argmax(0) == said.argmax(0))[mask].sum())
        self._positions += int(mask.sum())
        self._spatial += float(spatial_kl(live, said, mask).sum())
        self._channels += len(live)

    def result(self) -> ArtifactFidelity:
        """The figures of all frames so far.

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
        )


def _log_softmax(values: NDArray[np.floating[Any]], axis: int) -> Floats:
    wide = values.astype(np.float64)
    wide -= wide.max(axis=axis, keepdims=True)
    normalised: Floats = wide - np.log(np.exp(wide).sum(axis=axis, keepdims=True))
    return normalised
