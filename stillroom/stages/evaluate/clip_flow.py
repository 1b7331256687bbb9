"""The flow between frames of a clip: of a flow model, computed once and kept; or exact."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from stillroom.stages.models.flow.flow_model import build_flow_model
from stillroom.stages.warp import visible
from stillroom.storage_specs.codecs.quantised import FLOW_MAX, Flow
from stillroom.storage_specs.errors import CacheUnwritable, ConfigError, FrameError
from stillroom.storage_specs.fingerprint import Digest, fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.models.flow.flow_model import FlowModel, FlowModelConfig
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.stages.sources.source import Source

ENDING = ".npy.gz"
LARGEST = 2**30  # bytes of a flow: a file that unpacks to more is none of ours


@dataclass(frozen=True, eq=False)
class FrameFlow:
    """The flow from one frame of a clip to the next, in pixels of the frames.

    Attributes:
        flow: (1, 2, H, W), t -> t+1
        visible: (1, 1, H, W) bool, True where t+1 shows the pixel too; None where it is not known
    """

    flow: Tensor
    visible: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """A frame of a clip on its canvas.

    Attributes:
        index: in its source
        flow: from the frame before; None at the beginning, and where that is missing or of another
            size
    """

    index: int
    frame: CanvasFrame
    flow: FrameFlow | None = None

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """(h, w, 3), without the padding."""
        height, width = self.frame.valid
        return np.ascontiguousarray(self.frame.image[:height, :width])

    @cached_property
    def digest(self) -> bytes:
        """The sha256 of the image's size and pixels."""
        return hashlib.sha256(repr(self.image.shape).encode() + self.image.tobytes()).digest()


class ClipFlow(Protocol):
    """What knows how one frame becomes the next."""

    def between(self, now: ClipFrame, later: ClipFrame) -> FrameFlow:
        """Return the flow from one frame to the other, without padding."""


class KeptFlow:
    """A flow model whose output is kept in a folder, so that each pair of frames is computed once.

    A pair is found by the pixels of its frames and the model's identity, wherever the frames come
    from; the device does not matter, so that a model is followed on a CPU along the flow that a
    GPU has computed. A file is the flow in 1/64 pixels, int16 (2, h, w), as `.npy` in gzip, whose
    checksum tells damage: what cannot be read is computed again. Displacements end at 511.98
    pixels.
    """

    def __init__(self, config: FlowModelConfig, folder: Path, *, both_ways: bool) -> None:
        """Take a model, which is not built before a flow is missing.

        Args:
            config: of the model.
            folder: where flow is kept; it may be shared by several models and processes.
            both_ways: also tell what both frames show.

        Raises:
            WeightsError: the model's weights are not there.
        """
        self._config = config
        known = fingerprint(config.identity())
        older = known.older if isinstance(known, Digest) else known
        places = [folder / one[:16] for one in (known, older)]
        self._folder = places[1] if places[1].is_dir() else places[0]
        self._both_ways = both_ways
        self._model: FlowModel | None = None

    def between(self, now: ClipFrame, later: ClipFrame) -> FrameFlow:
        """See `ClipFlow`.

        Raises:
            ConfigError: the model cannot be built.
            WeightsError: its weights do not fit.
            CacheUnwritable: the flow cannot be kept.
        """
        there = self._flow(now, later)
        if not self._both_ways:
            return FrameFlow(there)
        return FrameFlow(there, visible(there, self._flow(later, now)))

    def _flow(self, first: ClipFrame, second: ClipFrame) -> Tensor:
        name = hashlib.sha256(first.digest + second.digest).hexdigest()[:32]
        path = self._folder / (name + ENDING)
        steps = _read(path, (2, *first.image.shape[:2]))
        if steps is None:
            steps = self._compute(first, second)
            _write(path, steps)
        return torch.from_numpy(Flow().decode(steps, {}))[None]  # (1, 2, h, w)

    def _compute(self, first: ClipFrame, second: ClipFrame) -> NDArray[Any]:
        if self._model is None:
            self._model = build_flow_model(self._config)
        flow = self._model.flow(first.image[None], second.image[None])[0].cpu().numpy()
        return Flow().encode(np.clip(flow, -FLOW_MAX, FLOW_MAX)).values


class ExactFlow:
    """The flow that a source knows of its own frames."""

    def __init__(self, source: Source, name: str, *, both_ways: bool) -> None:
        """Take a source.

        Args:
            source: one with a method `flow(index)`, as `DemoSource` has it.
            name: of the source, for errors.
            both_ways: also tell what both frames show.

        Raises:
            ConfigError: the source does not know its flow.
        """
        self._known: Any = getattr(source, "flow", None)
        self._both_ways = both_ways
        self._name = name
        if self._known is None:
            raise ConfigError(
                f'evaluate.video.flow: "exact" is for sources that know their flow (kind "demo"), '
                f"and {name!r} does not; name a section of [flows]"
            )

    def between(self, now: ClipFrame, later: ClipFrame) -> FrameFlow:
        """See `ClipFlow`.

        Raises:
            ConfigError: the frames are not of their own size.
            FrameError: they do not follow each other.
        """
        if later.index != now.index + 1:
            raise FrameError(f"{now.frame.frame_id}: its exact flow leads to the next frame only")
        flow, seen = self._known(now.index)
        if flow.shape[1:] != now.image.shape[:2]:
            theirs, ours = ("x".join(map(str, each[-2:])) for each in (flow.shape, now.frame.valid))
            raise ConfigError(
                f"evaluate.video.flow: the exact flow of {self._name!r} is of {theirs} pixels, "
                f"and the canvas makes its frames {ours}; set cache.canvas to the frames' size, or "
                "name a section of [flows]"
            )
        mask = torch.from_numpy(seen)[None, None] if self._both_ways else None
        return FrameFlow(torch.from_numpy(flow)[None], mask)


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """What is kept there; None where nothing is, or nothing that can be used."""
    try:
        with gzip.open(path) as file:
            content = file.read(LARGEST)
        steps: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    fits = isinstance(steps, np.ndarray) and steps.shape == shape and steps.dtype == Flow().stored
    return steps if fits else None


def _write(path: Path, steps: NDArray[Any]) -> None:
    """In one step: somebody else may be reading there, or writing the same."""
    buffer = io.BytesIO()
    np.save(buffer, steps, allow_pickle=False)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(gzip.compress(buffer.getvalue(), 1, mtime=0))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise CacheUnwritable(
            f"{path}: the flow cannot be kept ({error.strerror or error}); free some space, or "
            "give evaluate.video.path another folder"
        ) from error
