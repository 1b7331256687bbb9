"""Moving pictures: frames into an MP4 or a GIF, and students side by side on a clip."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from stillroom.stages.pictures.consistency_sheet import followed
from stillroom.stages.pictures.flow_sheet import flow_picture, longest_of
from stillroom.stages.pictures.page import make_place
from stillroom.stages.pictures.palette import BLACK, colourise, palette
from stillroom.stages.pictures.prediction_sheet import WRONG, error_map
from stillroom.stages.pictures.sheet import Entry, Place, Sheet, Tile, fit, lay_out
from stillroom.stages.pictures.tiles import class_legend, counted_frames, same_size
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

KINDS = (".mp4", ".gif")
BAR = 4  # pixels of the line that runs along the lower edge
RUNNING = (0, 0x72, 0xB2)


@dataclass(frozen=True, eq=False)
class ComparedClip:
    """A clip as some models see it.

    Attributes:
        images: T frames (H, W, 3) uint8, RGB, of one size.
        predictions: (T, H, W) uint8 classes, by the name of the model.
        flows: T - 1 flows (2, H, W) float32 pixels, t -> t+1; none leaves out what changes.
        visible: T - 1 masks (H, W) bool, True where t+1 shows the pixel of t; None counts all.
    """

    images: Sequence[NDArray[np.uint8]]
    predictions: Mapping[str, NDArray[np.uint8]]
    flows: Sequence[NDArray[np.float32]] = ()
    visible: Sequence[NDArray[np.bool_]] | None = None

    @cached_property
    def longest(self) -> float:
        """Pixels that get a full hue in every frame's flow; 0 without flows."""
        return max(map(longest_of, self.flows), default=0.0)


def comparison_film(
    path: Path,
    clip: ComparedClip,
    classes: Sequence[str],
    *,
    frames_per_second: float = 10.0,
    title: str = "Predictions",
) -> Path:
    """Write a film of the frames beside each model's predictions, as an MP4 or a GIF.

    With flows, a second row shows the motion, and in red what each model will call otherwise in
    the next frame: what flickers. The last frame, which has no next one, is then left out.

    Args:
        path: ending in .mp4 or .gif; its folder is made.
        clip: the frames and the predictions.
        classes: names of the classes 0..C-1.
        frames_per_second: above 0.
        title: the first line.

    Raises:
        ConfigError: no frames or models, or the file cannot be written.
        ArtifactError: arrays that do not fit together.
    """
    _demand_fit(clip)
    return write_film(path, _pages(clip, classes, title), frames_per_second=frames_per_second)


def write_film(
    path: Path, pictures: Iterable[NDArray[np.uint8]], *, frames_per_second: float = 10.0
) -> Path:
    """Write pictures as a film: an MP4 (MPEG-4 part 2, `mp4v`) or a GIF that runs for ever.

    The pictures are taken one at a time, and the film is there whole or not at all. An MP4 has
    even sides: an odd one gets a row or column of white.

    Args:
        path: ending in .mp4 or .gif; its folder is made.
        pictures: (H, W, 3) uint8 RGB, all of one size.
        frames_per_second: above 0; a GIF counts in hundredths of a second, and shows at most 50.

    Raises:
        ConfigError: another ending, no pictures, or a file that cannot be written.
        ArtifactError: a picture of another shape or dtype.
    """
    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"film {path}: expected a name ending in {' or '.join(KINDS)}")
    if not 0 < frames_per_second <= 240:
        raise ConfigError(
            f"film {path}: expected 0 to 240 frames a second, got {frames_per_second}"
        )
    checked = _of_one_size(pictures)
    first = next(checked, None)
    if first is None:
        raise ConfigError(f"film {path}: there is no picture to show")
    with _unfinished(path) as part:
        write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
        write(part, chain([first], checked), frames_per_second)
    return path


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A file beside the path, which takes its place in the end."""
    make_place(path)
    part = path.with_name(f".{path.stem}.part{path.suffix.lower()}")
    try:
        part.touch()  # OpenCV would not say why it cannot
        yield part
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"film {path}: cannot be written ({error})") from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)


def _write_mp4(path: Path, pictures: Iterator[Picture], frames_per_second: float) -> None:
    first = _even(next(pictures))
    height, width = first.shape[:2]
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, frames_per_second, (width, height))
    if not writer.isOpened():
        raise ConfigError(
            f"film {path}: this OpenCV cannot write MP4 ({width}x{height}); name a .gif instead"
        )
    try:
        for picture in chain([first], pictures):
            writer.write(cv2.cvtColor(_even(picture), cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    if not path.stat().st_size:
        raise ConfigError(f"film {path}: nothing was written; is the disk full?")


def _write_gif(path: Path, pictures: Iterator[Picture], frames_per_second: float) -> None:
    first = Image.fromarray(next(pictures))
    duration = max(20, 10 * round(100 / frames_per_second))  # ms; browsers slow down below 20
    more = (Image.fromarray(picture) for picture in pictures)
    first.save(path, "GIF", save_all=True, append_images=more, duration=duration, loop=0)


def _of_one_size(pictures: Iterable[Picture]) -> Iterator[Picture]:
    shape = None
    for picture in pictures:
        shape = shape or picture.shape
        if picture.shape != shape or picture.ndim != 3 or picture.shape[2] != 3:
            raise ArtifactError(
                f"a film's pictures are (H, W, 3) of one size, got {picture.shape} after {shape}"
            )
        if picture.dtype != np.uint8 or not picture.size:
            raise ArtifactError(f"a picture is uint8, not empty; got {shape} {picture.dtype}")
        yield np.ascontiguousarray(picture)


def _even(picture: Picture) -> Picture:
    """A picture with even sides: the codec would cut an odd one."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)


def _pages(clip: ComparedClip, classes: Sequence[str], title: str) -> Iterator[Picture]:
    """A page for each frame: laid out once, its pictures replaced."""
    colours = palette(classes)
    entries, left_out = class_legend(classes, colours, list(clip.predictions.values()))
    if clip.flows:
        entries += (Entry(WRONG, "changed at t+1"), Entry(BLACK, "not to be seen at t+1"))
    rows = _rows(clip, 0, colours)
    page, places = lay_out(
        Sheet(
            title=title,
            subtitle=counted_frames([each.shape[:2] for each in clip.images]),
            columns=("frame", *clip.predictions),
            rows=rows,
            legend_title="Classes" + (f" ({left_out})" if left_out else ""),
            legend=entries,
        )
    )
    template = page.pixels()
    count = len(clip.flows) or len(clip.images)
    for index in range(count):
        drawn = template.copy()
        for row, row_places in zip(_rows(clip, index, colours), places, strict=True):
            for tile, place in zip(row, row_places, strict=True):
                _paste(drawn, tile, place)
        run = round(drawn.shape[1] * (index + 1) / count)
        drawn[-BAR:, :run] = RUNNING
        yield drawn


def _paste(page: Picture, tile: Tile, place: Place) -> None:
    picture = fit(tile, place.width)
    if picture is not None:
        height, width = picture.shape[:2]
        page[place.top : place.top + height, place.left : place.left + width] = picture


def _rows(clip: ComparedClip, index: int, colours: Picture) -> tuple[tuple[Tile, ...], ...]:
    image = clip.images[index]
    tiles = [Tile(image, smooth=True)]
    tiles += [Tile(colourise(made[index], colours)) for made in clip.predictions.values()]
    if not clip.flows:
        return (tuple(tiles),)
    flow = clip.flows[index]
    visible = None if clip.visible is None else clip.visible[index]
    below = [Tile(flow_picture(flow, clip.longest), smooth=True)]
    for made in clip.predictions.values():
        warped = followed(made[index + 1], flow, visible)
        below.append(Tile(error_map(image, warped, made[index])))
    return (tuple(tiles), tuple(below))


def _demand_fit(clip: ComparedClip) -> None:
    count = len(clip.images)
    if not count or not clip.predictions:
        raise ConfigError("a film needs at least one frame, and one model's predictions")
    size = clip.images[0].shape[:2]
    for name, made in clip.predictions.items():
        if len(made) != count:
            raise ArtifactError(f"{name}: {len(made)} predictions for {count} frames")
        for index in range(count):
            same_size(f"frame {index}", name, made[index], clip.images[index])
    for name, parts, expected in (
        ("flows", clip.flows, (2, *size)),
        ("visible", clip.visible or (), size),
    ):
        shapes = {tuple(each.shape) for each in parts}
        if parts and (len(parts) != count - 1 or shapes != {expected}):
            raise ArtifactError(
                f"{name}: expected {count - 1} of {expected} between {count} frames, got "
                f"{len(parts)} of {', '.join(map(str, sorted(shapes)))}"
            )
