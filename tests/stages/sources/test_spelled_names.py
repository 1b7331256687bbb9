"""Files whose names are no text: a frame each, with a reason, and never the end of their source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.sources.clips import ClipsConfig, open_clips
from stillroom.stages.sources.image_mask import ImageMaskConfig, open_image_mask
from stillroom.stages.sources.images import ImagesConfig, open_images
from stillroom.stages.sources.spelled_names import spelled, unspelled
from stillroom.stages.sources.video import VideoConfig, open_video
from stillroom.storage_specs.errors import ConfigError, FrameError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.stages.sources.file_source import FileSource

LATIN = b"pic\xe9.png"
PNG = cv2.imencode(".png", np.full((32, 48, 3), 90, np.uint8))[1].tobytes()
MASK = cv2.imencode(".png", np.zeros((32, 48), np.uint8))[1].tobytes()


def put(folder: Path, *names: bytes | str, content: bytes = PNG) -> None:
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "wb") as file:
                file.write(content)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")


def bad_of(source: FileSource) -> dict[str, str]:
    """Ids and reasons of the frames that do not load; all others do."""
    found = {}
    for index in range(len(source)):
        try:
            source.load(index)
        except FrameError as error:
            found[source.frame_ids[index]] = str(error)
    return found


parts = st.binary(min_size=1, max_size=6).map(
    lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_")
)


@given(st.lists(parts, min_size=1, max_size=3), st.lists(parts, min_size=1, max_size=3))
def test_bytes_can_be_had_back_and_no_two_paths_are_spelled_alike(
    one: list[bytes], other: list[bytes]
) -> None:
    paths = [os.fsdecode(b"/".join(each)) for each in (one, other)]
    visible = [path for path in paths if not any(part[0] == "." for part in path.split("/"))]
    for path in visible:
        said = spelled(path)
        said.encode()
        back = unspelled(said)
        assert (said.encode() if back is None else back) == os.fsencode(path)
    assert len({spelled(path) for path in visible}) == len(set(visible))


def test_a_name_that_is_no_text_is_a_bad_row_and_the_others_are_read(tmp_path: Path) -> None:
    put(tmp_path, LATIN, "a.png", "sub/b.png", b"d\xff/c.png", "new\nline.png", "pic⣩.png")
    source = open_images(ImagesConfig(root=tmp_path))
    bad = bad_of(source)
    assert set(source.frame_ids) == {
        ".pic⣩.png", "a.png", "sub/b.png", "d⣿/.c.png", ".new⠊line.png", "pic⣩.png",
    }  # fmt: skip
    assert set(bad) == {".pic⣩.png", "d⣿/.c.png", ".new⠊line.png"}
    assert "b'pic\\xe9.png', is not printable UTF-8; rename the file" in bad[".pic⣩.png"]


def test_spaces_of_other_widths_and_invisible_letters_are_text(tmp_path: Path) -> None:
    names = {"Shot at 10.00\u202fAM.png", "a\u00a0b.png", "\u3000.png", "z\u200bz.png", "ä.png"}
    put(tmp_path, *names)
    source = open_images(ImagesConfig(root=tmp_path))
    assert (set(source.frame_ids), bad_of(source)) == (names, {})


def test_several_roots_and_labels_and_clips_go_on(tmp_path: Path) -> None:
    put(tmp_path / "one", LATIN, "a.png")
    put(tmp_path / "two", LATIN, "a.png")
    several = open_images(ImagesConfig(root=(tmp_path / "one", tmp_path / "two")))
    assert set(bad_of(several)) == {"one/.pic⣩.png", "two/.pic⣩.png"}
    put(tmp_path / "masks", LATIN, "a.png", content=MASK)
    config: Any = {"images": tmp_path / "one", "masks": tmp_path / "masks", "classes": ("road",)}
    labelled = open_image_mask(ImageMaskConfig(**config))
    assert set(bad_of(labelled)) == {".pic⣩"}
    put(tmp_path / "clips", "x/0001.png", b"x/0002\xe9.png", "x/0003.png", b"y\xff/0001.png")
    clips = open_clips(ClipsConfig(root=tmp_path / "clips"))
    assert set(bad_of(clips)) == {"x/.0002⣩", "y⣿/.0001"}
    places = {clips.frame_ids[i]: clips.position(i) for i in range(len(clips))}
    assert places["x/.0002⣩"] == ("x", 2)


def test_a_video_with_such_a_name_has_to_be_renamed(tmp_path: Path) -> None:
    put(tmp_path, b"pic\xe9.mp4")
    with pytest.raises(ConfigError, match=r"pic\\xe9.mp4', which is no printable UTF-8; rename"):
        open_video(VideoConfig(root=tmp_path))


def test_a_build_records_it_and_goes_on(run_file: Path) -> None:
    put(Path("photos"), LATIN, "a.png", "b.png")
    more = ['sources.more={kind="images", root="photos"}', "cache.max_bad_fraction=0.5"]
    report = build(load_run(run_file, more))
    assert +report.bad == {("more", "frames"): 1, ("more", "tiny"): 1}
    rows = Cache.open("street.cache").artifact_set("more", "tiny").rows().to_pylist()
    (bad,) = [row for row in rows if row["status"] == "bad"]
    assert unspelled(bad["frame_id"]) == LATIN
    assert "rename the file" in bad["reason"]
