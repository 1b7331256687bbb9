"""Is a teacher's output on a frame, warped, its output on the warped frame?

Students see views: scaled, cropped, mirrored. Their targets are the cached ones, warped as the
frame was (stages/geometry.py), not the teacher's output on the view itself. For a network whose
answer moves with its input (is equivariant) that is the same; for real ones this measures how far
it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.evaluate.confusion import ConfusionMatrix, Scores
from stillroom.stages.evaluate.output_errors import pixel_kl
from stillroom.stages.geometry import (
    apply_field,
    apply_image,
    apply_label,
    view_mask,
)
from stillroom.stages.upsample import upsample_logits
from stillroom.stages.view import View, identity_view
from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Live = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

SCALES = (0.5, 0.75, 1.25, 1.5, 2.0)
FLIP = "flip"
NOTHING = "as it is"
COSTLY = 0.01  # of mIoU, and two standard errors: what is recommended must be no chance
DIFFERENT = 0.05  # of the positions: what a view may change where no label says who is right


@dataclass(frozen=True, eq=False)
class CachedFrame:
    """A frame and what the cache holds of it.

    Attributes:
        image: (H, W, 3) uint8, RGB
        label: (H, W) uint8, 255 = ignore; None where there is none, or it has other classes
        logits: (C, h, w) float32, decoded, of `stride` pixels a position
        valid: (height, width) of the part that is no padding
    """

    frame_id: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    logits: NDArray[np.float32]
    stride: int
    valid: tuple[int, int]


@dataclass(frozen=True, eq=False)
class ViewReading:
    """One frame through one view: the teacher live on it, and its cached output, warped.

    Attributes:
        image: (H, W, 3) uint8; label: (H, W) uint8 or None
        live, cached: logits (C, h, w)
        mask: (h, w), positions that show the frame
        kl: (h, w), nats
    """

    frame_id: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    live: NDArray[np.float32]
    cached: NDArray[np.float32]
    mask: NDArray[np.bool_]
    kl: NDArray[np.float64]
    stride: int

    @property
    def mean_kl(self) -> float:
        """Nats a position, over those that show the frame."""
        shown = self.kl[self.mask]
        return float(shown.mean()) if shown.size else 0.0

    def classes(self, which: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the best class of each pixel: (H, W)."""
        height, width = self.image.shape[:2]
        full = upsample_logits(torch.from_numpy(which)[None], self.stride, (height, width))[0]
        best: NDArray[np.uint8] = full.argmax(0).to(torch.uint8).numpy()
        return best


def views_of(canvas: tuple[int, int]) -> dict[str, View]:
    """Return the views that are tried, by name; first what changes nothing, last the mirrored.

    Scaled views are of the canvas's size, around its middle; the crop is half as high and wide as
    the canvas, from an odd pixel, as training's crops fall between the positions of the logits.
    """
    height, width = canvas
    views = {NOTHING: identity_view(canvas)}
    for scale in SCALES:
        views[f"scale {scale:g}"] = _scaled(canvas, scale)
    rows, columns = max(1, height // 2), max(1, width // 2)
    top, left = min(height - rows, height // 4 | 1), min(width - columns, width // 4 | 1)
    views["crop"] = View(top, left, rows, columns, rows, columns)
    views[FLIP] = _scaled(canvas, 1.0, flip=True)
    views["flip, scale 0.75"] = _scaled(canvas, 0.75, flip=True)
    views["flip, scale 1.5"] = _scaled(canvas, 1.5, flip=True)
    return views


def read_view(view: View, frame: CachedFrame, live: Live) -> ViewReading:
    """Read both sides of one view of one frame.

    Args:
        live: the teacher: an image (H, W, 3) uint8 to logits (C, h, w) at the frame's stride
    """
    canvas = (frame.image.shape[0], frame.image.shape[1])
    warped = apply_image(view, torch.from_numpy(frame.image.copy()).permute(2, 0, 1))
    pixels = warped.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    image: NDArray[np.uint8] = pixels.contiguous().numpy()
    logits = torch.from_numpy(frame.logits.copy())
    cached = apply_field(view, logits, frame.stride, frame.stride).numpy()
    label = None
    if frame.label is not None:
        label = apply_label(view, torch.from_numpy(frame.label.copy())).numpy()
    answer = live(image)
    return ViewReading(
        frame_id=frame.frame_id,
        image=image,
        label=label,
        live=answer,
        cached=cached,
        mask=view_mask(view, canvas, frame.valid, frame.stride)[0].numpy(),
        kl=pixel_kl(answer, cached),
        stride=frame.stride,
    )


@dataclass(frozen=True)
class ViewFidelity:
    """What warping costs in one view, over some frames.

    Attributes:
        kl: nats a position, of the teacher live against its cached output warped; mean.
        agreement: share of the positions with the same best class.
        live, cached: scores of both against the warped label; None where there is no label.
        gain, gain_error: by how much more of a labelled frame's pixels the live output is right;
            mean over frames, and its standard error.
    """

    view: str
    frames: int
    kl: float
    agreement: float
    live: Scores | None
    cached: Scores | None
    gain: float = 0.0
    gain_error: float = math.inf

    @property
    def differing(self) -> float:
        """Share of the positions with another best class."""
        return 1 - self.agreement

    @property
    def decided(self) -> bool:
        """Whether the frames decide which output is the better one: by two standard errors."""
        return abs(self.gain) > 2 * self.gain_error

    @property
    def cost(self) -> float | None:
        """MIoU that the warped output lacks of the live one; below 0 where it is the better one."""
        return (
            None if self.live is None or self.cached is None else self.live.miou - self.cached.miou
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        scores = {
            name: None if one is None else {"miou": one.miou, "pixel_accuracy": one.pixel_accuracy}
            for name, one in (("live", self.live), ("said", self.cached))
        }
        return {
            "view": self.view,
            "frames": self.frames,
            "kl": self.kl,
            "agreement": self.agreement,
            **scores,
            "gain": None if self.live is None else self.gain,
            "gain_error": self.gain_error if math.isfinite(self.gain_error) else None,
        }


class ViewTally:
    """Sums up one view over frames."""

    def __init__(self, view: str, classes: int) -> None:
        self.view = view
        self._frames = self._positions = self._agree = 0
        self._kl = 0.0
        self._live, self._cached = ConfusionMatrix(classes), ConfusionMatrix(classes)
        self._gains: list[float] = []

    def add(self, reading: ViewReading) -> None:
        """Add one frame."""
        label, mask = reading.label, reading.mask
        self._frames += 1
        self._positions += int(mask.sum())
        self._kl += float(reading.kl[mask].sum())
        self._agree += int((reading.live.argmax(0) == reading.cached.argmax(0))[mask].sum())
        if label is None:
            return
        live, cached = reading.classes(reading.live), reading.classes(reading.cached)
        self._live.update(live, label)
        self._cached.update(cached, label)
        counted = int((label != IGNORE).sum())
        if counted:
            right = int((live == label).sum()) - int((cached == label).sum())
            self._gains.append(right / counted)

    def result(self, classes: Sequence[str] | None = None) -> ViewFidelity:
        """Return the figures of all frames so far."""
        labelled = bool(self._live.counts.any())
        positions = max(1, self._positions)
        many = len(self._gains) > 1
        return ViewFidelity(
            view=self.view,
            frames=self._frames,
            kl=self._kl / positions,
            agreement=self._agree / positions,
            live=self._live.scores(classes) if labelled else None,
            cached=self._cached.scores(classes) if labelled else None,
            gain=fmean(self._gains) if self._gains else 0.0,
            gain_error=stdev(self._gains) / math.sqrt(len(self._gains)) if many else math.inf,
        )


def recommend(found: Sequence[ViewFidelity]) -> list[str]:
    """Return what the views advise for `train.view`: a line on flips, one on scales."""
    lines = [_on_flips(one) for one in found if one.view == FLIP]
    scales = {float(one.view.removeprefix("scale ")): one for one in found
              if one.view.startswith("scale ")}  # fmt: skip
    return [*lines, _on_scales(scales)] if scales else lines


def _on_flips(one: ViewFidelity) -> str:
    differs = (
        "flip: on mirrored frames the teacher differs from its mirrored output in "
        f"{one.differing:.1%} of the positions"
    )
    todo = (
        'set train.view.flip = false; mirrored frames are a source of kind = "views", flip "always"'
    )
    if one.live is None or one.cached is None or one.cost is None:
        if one.differing > DIFFERENT:
            return f"{differs}, more than {DIFFERENT:.0%}, and no label says who is right: {todo}"
        return f"{differs}: train.view.flip = true costs little"
    scores = f"mIoU live {one.live.miou:.4f}, mirrored {one.cached.miou:.4f}"
    if abs(one.cost) > COSTLY and not one.decided:
        few = f"{one.frames} frame{'s' * (one.frames > 1)} cannot tell who is right"
        return f"{differs}, and {few} ({scores}): ask for more --frames"
    if one.cost > COSTLY:
        return f"{differs} and is the better one ({scores}): {todo}"
    if one.cost < -COSTLY:
        return f"{differs}, and the mirrored output is the better one ({scores}): flip"
    return f"{differs}, and both are as right ({scores}): train.view.flip = true costs nothing"


def _on_scales(scales: dict[float, ViewFidelity]) -> str:
    if all(one.cost is None for one in scales.values()):
        bad = [scale for scale, one in scales.items() if one.differing > DIFFERENT]
        what = f"differs from its live output in more than {DIFFERENT:.0%} of the positions"
    else:
        bad = [scale for scale, one in scales.items() if (one.cost or 0) > COSTLY and one.decided]
        what = f"is more than {100 * COSTLY:.0f} point of mIoU below its live output"
    if not bad:
        return f"scale: nowhere from {min(scales):g} to {max(scales):g} the warped output {what}"
    low = max((scale for scale in bad if scale < 1), default=0)
    high = min((scale for scale in bad if scale > 1), default=math.inf)
    keep = [scale for scale in (*scales, 1.0) if low < scale < high]
    return (
        f"scale: at {', '.join(f'{scale:g}' for scale in bad)} the warped output {what}: "
        f"train.view.scale = [{min(keep):g}, {max(keep):g}] keeps clear of it"
    )


def _scaled(canvas: tuple[int, int], scale: float, *, flip: bool = False) -> View:
    height, width = canvas[0] / scale, canvas[1] / scale
    top, left = (canvas[0] - height) / 2, (canvas[1] - width) / 2
    return View(top, left, height, width, *canvas, flip=flip)
