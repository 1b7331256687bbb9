"""Moving pictures: frames into an MP4 or a GIF, and models side by side on a clip."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from stillroom.stages.pictures.flow_colours import flow_picture, longest_of
from stillroom.stages.pictures.page import make_place
from stillroom.stages.pictures.pair_sheets import CHANGES
from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet, counted
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.pictures.pair_sheets import FramePair

    Picture = NDArray[np.uint8]

KINDS = (".mp4", ".gif")
BAR = 4  # pixels of the line that runs along the lower edge
RUNNING = (0, 0x72, 0xB2)


def comparison_film(
    path: Path,
    pairs: Callable[[], Iterable[FramePair]],
    classes: Sequence[str],
    *,
    frames_per_second: float = 10.0,
    title: str = "Predictions",
) -> Path:
    """Write a film of a clip beside each model's predictions, as an MP4 or a GIF.

    A second row shows the flow, and in red what each model will call otherwise in the next frame:
    what flickers. The last frame, which has no next one, is left out.

    Args:
        path: ending in .mp4 or .gif; its folder is made.
        pairs: gives each frame of the clip with the next one, all of one size; called twice.
        classes: names of the classes 0..C-1.
        frames_per_second: above 0; a GIF shows at most 50.
        title: the first line.

    Raises:
        ConfigError: no pairs or models, or the file cannot be written.
        ArtifactError: arrays that do not fit together.
    """
    longest, count, counts = 0.0, 0, np.zeros(256, np.int64)
    for pair in pairs():
        longest, count = max(longest, longest_of(pair.flow)), count + 1
        for now, _ in pair.predictions.values():
            counts += np.bincount(now.ravel(), minlength=256)
    if not counts.any():
        raise ConfigError("a film needs at least one frame, and one model's predictions")

    def pages() -> Iterator[Picture]:
        for number, pair in enumerate(pairs(), 1):
            flow = flow_picture(pair.flow, longest)
            predictions = [Cell("classes", now, "") for now, _ in pair.predictions.values()]
            changes = [pair.changes(name) for name in pair.predictions]
            rows = FrameRow("", pair.image, predictions), FrameRow("", flow, changes)
            page = Sheet(
                title, ("frame", *pair.predictions), rows, classes, CHANGES, counts=counts,
                subtitle=counted([rows[0]] * (count + 1)),
            ).draw()  # fmt: skip
            page.box(0, page.height - BAR, page.width * number / count, BAR, RUNNING)
            yield np.asarray(page.image)

    return write_film(path, pages(), frames_per_second=frames_per_second)


def write_film(path: Path, pictures: Iterable[Picture], *, frames_per_second: float = 10.0) -> Path:
    """Write pictures of one size as a film, whole or not at all; they are taken one at a time.

    An MP4 (MPEG-4 part 2, `mp4v`) has even sides: an odd one gets a row or column of white. A GIF
    counts in hundredths of a second, and runs for ever.

    Raises:
        ConfigError: another ending, no pictures, or a file that cannot be written.
        ArtifactError: pictures of several sizes.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
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
        write = _write_gif if kind == ".gif" else _write_mp4
        write(part, first, checked, frames_per_second)
    return path


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Give a file beside the path, which takes its place in the end."""
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


def _write_mp4(
    path: Path, first: Picture, more: Iterator[Picture], frames_per_second: float
) -> None:
    height, width = (side + side % 2 for side in first.shape[:2])  # the codec would cut an odd one
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, frames_per_second, (width, height))
    if not writer.isOpened():
        raise ConfigError(
            f"film {path}: this OpenCV cannot write MP4 ({width}x{height}); name a .gif instead"
        )
    try:
        for picture in chain([first], more):
            page = np.full((height, width, 3), 255, np.uint8)
            page[: picture.shape[0], : picture.shape[1]] = picture
            writer.write(cv2.cvtColor(page, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    if not path.stat().st_size:
        raise ConfigError(f"film {path}: nothing was written; is the disk full?")


def _write_gif(
    path: Path, first: Picture, more: Iterator[Picture], frames_per_second: float
) -> None:
    duration = max(20, 10 * round(100 / frames_per_second))  # ms; browsers slow down below 20
    images = map(Image.fromarray, more)
    Image.fromarray(first).save(
        path, "GIF", save_all=True, append_images=images, duration=duration, loop=0
    )


def _of_one_size(pictures: Iterable[Picture]) -> Iterator[Picture]:
    shape = None
    for picture in pictures:
        shape = shape or picture.shape
        if picture.shape != shape:
            raise ArtifactError(
                f"a film's pictures are (H, W, 3) of one size, got {picture.shape} after {shape}"
            )
        yield picture
