from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from stillroom.stages.sources.image_files import read_image
from stillroom.stages.sources.label_files import read_label
from stillroom.storage_specs.errors import FrameError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def picture(height: int = 12, width: int = 20) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 9, columns * 9, rows + columns], axis=2).astype(np.uint8)


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_an_rgb_png_reads_as_it_was_written(tmp_path: Path) -> None:
    read = read_image(saved(tmp_path, "a.png", Image.fromarray(picture())))
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, picture())


def test_greyscale_is_repeated_over_the_channels(tmp_path: Path) -> None:
    grey = picture()[:, :, 0]
    read = read_image(saved(tmp_path, "a.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(read, np.repeat(grey[:, :, None], 3, axis=2))


def test_alpha_is_dropped_and_colours_stay_as_stored(tmp_path: Path) -> None:
    alpha = np.zeros((12, 20, 1), np.uint8)
    image = Image.fromarray(np.concatenate([picture(), alpha], axis=2))
    np.testing.assert_array_equal(read_image(saved(tmp_path, "a.png", image)), picture())


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 65535], [32768, 4096, 511, 512]], np.uint16)
    read = read_image(saved(tmp_path, "a.png", Image.fromarray(values)))
    np.testing.assert_array_equal(read[:, :, 1], values >> 8)


def test_a_palette_is_looked_up_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    assert read_image(saved(tmp_path, "a.png", image)).tolist() == expected
    transparent = saved(tmp_path, "b.png", image, transparency=b"\x00\x80\xff")
    assert read_image(transparent).tolist() == expected


@pytest.mark.parametrize("mode", ["1", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    path = saved(tmp_path, f"a.{suffix}", Image.fromarray(picture()).convert(mode))
    assert read_image(path).shape == (12, 20, 3)


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise
    path = saved(tmp_path, "a.png", Image.fromarray(picture()), exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(picture(), -1))


def test_the_first_page_of_an_animation_is_read(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (40, 200)]
    path = saved(tmp_path, "a.gif", pages[0], save_all=True, append_images=pages[1:])
    assert (read_image(path) == 40).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, f"a.{suffix}", Image.fromarray(rough))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FrameError, match=rf"^a\.{suffix}: "):
        read_image(path)


def test_a_damaged_png_is_refused(tmp_path: Path) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, "a.png", Image.fromarray(rough))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(FrameError, match=r"a\.png: cannot be decoded"):
        read_image(path)


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(FrameError, match=r"a\.jpg: the file is empty"):
        read_image(tmp_path / "a.jpg")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"a\.jpg: the file is missing"):
        read_image(tmp_path / "a.jpg")


def test_a_folder_in_place_of_a_file_is_a_bad_frame(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(FrameError, match=r"a\.jpg: cannot be read"):
        read_image(tmp_path / "a.jpg")


def test_a_link_to_itself_is_a_bad_frame(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    with pytest.raises(FrameError, match=r"^a\.jpg: cannot be read: Too many levels"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("code", ["EACCES", "EMFILE", "EIO", "ESTALE", "ENOMEM", "EPERM"])
@pytest.mark.parametrize("read", [read_image, read_label])
def test_a_file_that_the_machine_does_not_give_is_no_bad_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, read: Callable[[Path], object]
) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(picture()[:, :, 0]))
    number = getattr(errno, code)

    def refuse(self: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "read_bytes", refuse)
        with pytest.raises(SourceUnavailable) as caught:
            read(path)
    assert str(caught.value).startswith(f"{path} cannot be read now: {os.strerror(number)}\n")
    assert "run the same command again" in str(caught.value)
    read(path)


def test_a_text_file_is_not_an_image_and_the_reason_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello, not an image")
    reasons = set()
    for _ in range(3):
        with pytest.raises(FrameError, match="not an image") as caught:
            read_image(tmp_path / "a.png")
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    (reason,) = reasons
    assert "0x" not in reason
    assert str(tmp_path) not in reason


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.tif", Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(FrameError, match="floating-point"):
        read_image(path)


def test_a_decompression_bomb_is_a_bad_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(picture()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(FrameError, match="decompression bomb"):
        read_image(path)


def test_a_label_keeps_its_grey_values(tmp_path: Path) -> None:
    ids = np.array([[0, 7, 255], [11, 3, 200]], np.uint8)
    np.testing.assert_array_equal(read_label(saved(tmp_path, "a.png", Image.fromarray(ids))), ids)


def test_a_palette_label_gives_its_indices_not_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([90, 90, 90, 90, 90, 90, 1, 2, 3])
    assert read_label(saved(tmp_path, "a.png", image)).tolist() == [[0, 1], [2, 1]]


def test_sixteen_bit_labels_keep_large_ids(tmp_path: Path) -> None:
    ids = np.array([[0, 256, 33001]], np.uint16)
    read = read_label(saved(tmp_path, "a.png", Image.fromarray(ids)))
    assert read.astype(int).tolist() == [[0, 256, 33001]]


def test_a_coloured_label_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(picture()))
    with pytest.raises(FrameError, match="one id a pixel"):
        read_label(path)


def test_every_cut_of_a_jpeg_either_reads_whole_or_is_refused(tmp_path: Path) -> None:
    held = io.BytesIO()
    Image.fromarray(picture(40, 56)).save(held, "JPEG", quality=90)
    data = held.getvalue()
    (tmp_path / "whole.jpg").write_bytes(data)
    whole = read_image(tmp_path / "whole.jpg")
    path = tmp_path / "cut.jpg"
    refused = 0
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        try:
            np.testing.assert_array_equal(read_image(path), whole)
        except FrameError:
            refused += 1
    assert refused > len(data) // 7 - 3
