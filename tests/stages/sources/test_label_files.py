"""One label map, stored in every way that means the same ids, and in ways that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter

from stillroom.stages.sources.label_files import read_label
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IDS = np.random.default_rng(0).choice(np.array([0, 1, 2, 5, 255], np.uint8), (12, 17))


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def as_palette(ids: NDArray[np.uint8], order: list[int], rest: list[int]) -> Image.Image:
    """The ids as a palette of greys in some order, as an optimiser stores them."""
    place = np.zeros(256, np.uint8)
    for i, grey in enumerate(order):
        place[grey] = i
    image = Image.fromarray(place[ids], "P")
    image.putpalette([channel for grey in order + rest for channel in (grey,) * 3])
    return image


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
@pytest.mark.parametrize("order", [[255, 5, 0, 2, 1], [0, 1, 2, 5, 255], [2, 255, 1, 0, 5]])
def test_a_palette_of_greys_means_its_greys(tmp_path: Path, suffix: str, order: list[int]) -> None:
    path = save(tmp_path / f"a{suffix}", as_palette(IDS, order, []))
    np.testing.assert_array_equal(read_label(path), IDS)
    with Image.open(path) as opened:
        assert np.array_equal(np.array(opened.convert("L")), IDS)


def test_unused_entries_of_a_palette_of_greys_do_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", as_palette(IDS, [255, 5, 0, 2, 1], [0, 0, 7]))
    np.testing.assert_array_equal(read_label(path), IDS)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_is_0_and_255_as_in_any_grey_reader(tmp_path: Path, suffix: str) -> None:
    mask = np.where(IDS > 1, 255, 0).astype(np.uint8)
    path = save(tmp_path / f"a{suffix}", Image.fromarray(mask).convert("1"))
    np.testing.assert_array_equal(read_label(path), mask)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), mask)


def test_two_greys_of_one_bit_palette_are_the_greys(tmp_path: Path) -> None:
    """What an optimiser makes of a mask with the ids 2 and 255."""
    mask = np.where(IDS > 1, 255, 2).astype(np.uint8)
    path = save(tmp_path / "a.png", as_palette(mask, [255, 2], []), bits=1)
    np.testing.assert_array_equal(read_label(path), mask)


def test_a_coloured_palette_means_its_indices(tmp_path: Path) -> None:
    """Pascal VOC's has greys among its colours: index 0 is black and index 7 grey."""
    image = Image.fromarray(np.array([[0, 7], [7, 0]], np.uint8), "P")
    colours = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128]
    image.putpalette([*colours, 128, 128, 128])
    assert read_label(save(tmp_path / "a.png", image)).tolist() == [[0, 7], [7, 0]]


def test_greys_that_tell_less_than_the_indices_leave_the_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([0] * 9)
    assert read_label(save(tmp_path / "a.png", image)).tolist() == [[0, 1], [2, 1]]
    with pytest.raises(FrameError, match="differ in transparency alone"):
        read_label(save(tmp_path / "b.png", image, transparency=b"\x00\xff\xff"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_equal_channels_are_the_ids(tmp_path: Path, mode: str, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", Image.fromarray(IDS).convert(mode))
    np.testing.assert_array_equal(read_label(path), IDS)


def test_lossless_webp_is_read_and_lossy_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(IDS).convert("RGB")
    path = save(tmp_path / "a.webp", image, lossless=True)
    np.testing.assert_array_equal(read_label(path), IDS)
    for name, options in (("b.webp", {"quality": 90}), ("c.jpg", {"quality": 95})):
        with pytest.raises(FrameError, match=r"this one is compressed with loss"):
            read_label(save(tmp_path / name, image, **options))


def test_what_a_channel_or_an_alpha_says_otherwise_is_refused(tmp_path: Path) -> None:
    colours = np.repeat(IDS[:, :, None], 3, axis=2)
    colours[3, 4, 1] ^= 1
    with pytest.raises(FrameError, match=r"this one is in colour; save the ids"):
        read_label(save(tmp_path / "a.png", Image.fromarray(colours)))
    seen = Image.fromarray(IDS).convert("LA")
    seen.putpixel((2, 3), (1, 254))
    with pytest.raises(FrameError, match="transparent pixels"):
        read_label(save(tmp_path / "b.png", seen))
    wide = np.repeat((IDS.astype(np.uint16) + 256)[:, :, None], 3, axis=2)
    cv2.imwrite(str(tmp_path / "c.png"), wide)
    with pytest.raises(FrameError, match="channels of 16 bits"):
        read_label(tmp_path / "c.png")


def test_whole_floating_point_numbers_are_ids(tmp_path: Path) -> None:
    values = IDS.astype(np.float32)
    path = save(tmp_path / "a.tif", Image.fromarray(values))
    np.testing.assert_array_equal(read_label(path), IDS)
    for i, wrong in enumerate((0.5, np.nan, np.inf)):
        values[0, 0] = wrong
        with pytest.raises(FrameError, match="not whole"):
            read_label(save(tmp_path / f"{i}.tif", Image.fromarray(values)))


@pytest.mark.parametrize(("highest", "kind"), [(10, np.uint8), (200, np.uint8), (1000, ">u2")])
def test_a_pgm_of_another_highest_value_keeps_its_ids(
    tmp_path: Path, highest: int, kind: Any
) -> None:
    """Pillow stretches them to the whole range, and so would make other ids of them."""
    ids = np.arange(highest + 1)[None]
    head = f"{ids.shape[1]} 1\n{highest}\n".encode()
    (tmp_path / "a.pgm").write_bytes(b"P5\n" + head + ids.astype(kind).tobytes())
    (tmp_path / "b.pgm").write_bytes(b"P2\n" + head + " ".join(map(str, ids[0])).encode())
    for name in ("a.pgm", "b.pgm"):
        np.testing.assert_array_equal(read_label(tmp_path / name), ids)


def test_a_grey_jpeg_is_read_only_where_no_id_can_have_become_another(tmp_path: Path) -> None:
    ids = np.repeat(np.repeat(IDS[:, :8], 5, axis=0), 5, axis=1)
    path = save(tmp_path / "a.jpg", Image.fromarray(ids), quality=95)
    assert set(np.unique(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))) - set(np.unique(ids))
    for apart in (1, 31):
        with pytest.raises(FrameError, match=r"a\.jpg: .* is compressed with loss, so that an id"):
            read_label(path, apart)
    assert read_label(path, 32).shape == ids.shape


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png", ".webp"])
def test_a_file_of_several_pages_is_no_label(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(np.uint8(index == IDS)) for index in range(3)]
    more = {"save_all": True, "append_images": pages[1:], "lossless": True}
    path = save(tmp_path / f"a{suffix}", pages[0], **more)
    with pytest.raises(FrameError, match=r"this one has 3 pages; save the ids"):
        read_label(path)


def test_smaller_versions_and_masks_of_a_tiff_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with AppendingTiffWriter(str(path)) as file:
        for subfile, page in ((0, IDS), (1, IDS[::2, ::2]), (4, IDS)):
            Image.fromarray(page).save(file, format="TIFF", tiffinfo={254: subfile})
            file.newFrame()
    with Image.open(path) as opened:
        assert opened.n_frames == 3
    np.testing.assert_array_equal(read_label(path), IDS)
