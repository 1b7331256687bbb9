from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.listing import Files, Listing, PathPattern, joined
from stillroom.stages.sources.names import CHUNK, Names, natural_order, repeated, text_of
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def names(folder: Path, *, recursive: bool = True) -> list[str]:
    """Paths of the images below a folder, in the order of a source's frames."""
    found = find_images(folder, recursive=recursive).names
    return in_order(found.to_pylist())


def in_order(texts: list[str]) -> list[str]:
    ordered: list[str] = text_of(texts).take(natural_order(Names(text_of(texts)))).to_pylist()
    return ordered


def natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """What the order is meant to be: numbers as numbers and before text, then as texts."""
    parts = [
        (0, int(part), "") if place % 2 else (1, 0, part)
        for place, part in enumerate(re.split(r"([0-9]+)", text))
        if part
    ]
    return parts, text


def test_numbers_in_names_sort_as_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "f10.png", "f2.png", "f1.png", "b/f3.jpg", "a/f20.jpg", "a/f3.jpg")
    assert names(tmp_path) == ["a/f3.jpg", "a/f20.jpg", "b/f3.jpg", "f1.png", "f2.png", "f10.png"]


@given(st.lists(st.text(alphabet="ab019²/_.é \U0001f400", max_size=6), max_size=8))
def test_the_order_is_the_natural_one_whatever_the_order_of_arrival(texts: list[str]) -> None:
    assert in_order(texts) == in_order(texts[::-1]) == sorted(texts, key=natural)


def test_numbers_of_many_digits_are_ordered_too() -> None:
    texts = ["9" * 130, "1" + "0" * 130, "0" * 140 + "7", "8", "x" + "1" * 127, "x" + "1" * 128]
    assert in_order(texts) == sorted(texts, key=natural)


def test_names_are_a_sequence_of_strings() -> None:
    texts = [f"{place:05d}" for place in range(2 * CHUNK + 3)]
    names = Names(text_of(texts))
    assert list(names) == texts
    assert (names[-1], names[5:8], len(names)) == (texts[-1], texts[5:8], len(texts))
    assert list(Names(text_of([]))) == []
    with pytest.raises(IndexError):
        names[len(texts)]


def test_repeated_names_are_named_once() -> None:
    assert repeated(text_of(["a", "b", "b", "b", "c", "d", "d"])) == ["b", "d"]
    assert repeated(text_of(["a"])) == repeated(text_of([])) == []


def test_only_visible_images_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.PNG", "b.txt", "._a.png", ".cache/c.png", "d.jpeg", "Thumbs.db")
    assert names(tmp_path) == ["a.PNG", "d.jpeg"]


def test_subfolders_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.png")
    assert names(tmp_path, recursive=False) == ["a.png"]


def test_a_circle_of_links_is_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.png")
    (tmp_path / "sub" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert names(tmp_path) == ["sub/a.png"]


def test_a_link_that_leads_nowhere_is_listed_as_an_empty_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone.txt")
    found = find_images(tmp_path, recursive=True)
    assert found.names.to_pylist() == ["a.png", "b.png"]
    assert found.sizes.to_pylist() == [5, 0]


def test_a_link_that_may_have_led_to_a_folder_is_a_config_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "drive").symlink_to(tmp_path / "gone")
    assert names(tmp_path, recursive=False) == ["a.png"]
    with pytest.raises(ConfigError, match=r"/drive is a link that leads nowhere.*mend the link"):
        find_images(tmp_path, recursive=True)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert names(tmp_path) == ["a.png"]


def test_a_missing_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere does not exist"):
        find_images(tmp_path / "nowhere", recursive=True)


def test_a_file_in_place_of_a_folder_is_a_config_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=r"a\.png is a file, not a folder"):
        find_images(tmp_path / "a.png", recursive=True)


def test_an_empty_folder_is_a_config_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(ConfigError, match="holds no image"):
        find_images(tmp_path, recursive=True)


def test_an_unreadable_folder_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "locked/b.png")
    scan = os.scandir

    def refuse(folder: str) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match="locked cannot be read: Permission denied"):
        find_images(tmp_path, recursive=True)


@pytest.mark.parametrize("name", ["self", "self.png"])
def test_links_in_a_circle_are_a_config_error(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / name).symlink_to(name)
    with pytest.raises(ConfigError, match=rf"/{name} cannot be read: Too many.*mend the link"):
        find_images(tmp_path, recursive=True)
    with pytest.raises(ConfigError, match=rf"/{name} cannot be read: Too many"):
        find_images(tmp_path / name, recursive=True)


AS_SOMEBODY = """
import os, sys
from pydantic import TypeAdapter
from stillroom.stages.sources.open import SourceConfig, open_source
from stillroom.storage_specs.errors import ConfigError
if os.geteuid() == 0:  # root reads anything: go on as nobody, all being imported
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for kind in sys.argv[2:]:
    try:
        open_source(TypeAdapter(SourceConfig).validate_python({"kind": kind, "root": sys.argv[1]}))
    except ConfigError as error:
        print(error)
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder where every user may go: pytest's own is closed to all but its owner."""
    folder = Path(tempfile.mkdtemp(prefix="stillroom-listing-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder / "locked", *folder.glob("*/locked")):
        if path.exists():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("root", "mode", "kinds"),
    [
        # a folder above the root is closed
        ("locked/deep", 0o000, ["images", "clips", "video", "camvid", "cityscapes_sequence"]),
        # names may be read, and nothing behind them
        ("", 0o444, ["images", "clips", "video"]),
    ],
)
def test_what_permissions_hide_is_named(
    open_place: Path, root: str, mode: int, kinds: list[str]
) -> None:
    touch(open_place, "locked/deep/a.png", "locked/deep.png", "locked/deep.mp4", "clip/b.png")
    (open_place / "locked").chmod(mode)
    call = [sys.executable, "-c", AS_SOMEBODY, str(open_place / root), *kinds]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(kinds)
    for line in lines:
        assert line.startswith(str(open_place / "locked" / "deep"))
        assert "cannot be read: Permission denied; give this user permission" in line


class ListedFrame(NamedTuple):
    frame_id: str
    image: str
    size: int
    label: str | None = None
    label_size: int | None = None


def listed(*frames: ListedFrame) -> Listing:
    """A listing of frames whose files are named by their ids."""
    image = Files(
        (PathPattern("i/", 0, ".png"),),
        pa.array([0] * len(frames), pa.int32()),
        pa.array([frame.size for frame in frames], pa.int64()),
    )
    label = Files(
        (PathPattern("l/", 0, ".png"),),
        pa.array([None if frame.label is None else 0 for frame in frames], pa.int32()),
        pa.array([frame.label_size for frame in frames], pa.int64()),
    )
    return Listing(text_of([frame.frame_id for frame in frames]), image, label)


def test_a_listing_gives_back_its_frames() -> None:
    frames = [
        ListedFrame("b", "i/b.png", 20, "l/b.png", 6),
        ListedFrame("a", "i/a.png", 10, None, None),
    ]
    listing = listed(*frames)
    assert told(listing) == frames
    assert told(listing.ordered()) == frames[::-1]


def told(listing: Listing) -> list[ListedFrame]:
    assert listing.labels is not None
    rows = zip(
        listing.ids.to_pylist(),
        map(str, map(listing.image, range(len(listing)))),
        listing.images.sizes.to_pylist(),
        (file and str(file) for file in map(listing.label, range(len(listing)))),
        listing.labels.sizes.to_pylist(),
        strict=True,
    )
    return [ListedFrame(*row) for row in rows]


def test_two_frames_of_one_id_are_a_config_error() -> None:
    frames = [ListedFrame(name, "", 1) for name in ("b", "a", "b", "c", "a")]
    with pytest.raises(ConfigError, match=r"both be frame 'a' \(and 1 more"):
        listed(*frames).ordered()


def test_a_listing_takes_a_fraction_of_what_objects_take(tmp_path: Path) -> None:
    count = 4 * CHUNK
    files = Files(
        (PathPattern("i/", 0, ".png"),),
        pa.array(range(count), pa.int32()),
        pa.array(range(count), pa.int64()),
    )
    before = pa.total_allocated_bytes()
    listing = Listing(text_of(f"{place:012d}" for place in range(count)), files).ordered()
    assert pa.total_allocated_bytes() - before < 40 * count  # 8 + 4 + 8 and the text
    assert len(listing) == count


def test_files_of_two_folders_are_joined() -> None:
    one = Files((PathPattern("a/", 0, ""), PathPattern("b/", 0, "")), *columns([1, 0], [5, 6]))
    two = Files((PathPattern("c/", 2, ".x"),), *columns([0], [7]))
    both = joined([one, two])
    found = [str(both.file(index, frame_id)) for index, frame_id in enumerate(("x", "y", "p/z"))]
    assert found == ["b/x", "a/y", "c/z.x"]
    assert both.sizes.to_pylist() == [5, 6, 7]


def columns(pattern: list[int], sizes: list[int]) -> tuple[pa.Array, pa.Array]:
    return pa.array(pattern, pa.int32()), pa.array(sizes, pa.int64())


def test_the_digest_is_of_ids_and_sizes_in_the_order_of_ids() -> None:
    """Written out: caches that exist carry it."""
    frames = [
        ListedFrame(f"é{place}", "", place, "" if place % 3 else None, place if place % 3 else None)
        for place in range(CHUNK + 5)
    ]
    digest = hashlib.sha256()
    for frame in sorted(frames, key=lambda frame: frame.frame_id):
        sizes = [frame.size] if frame.label_size is None else [frame.size, frame.label_size]
        digest.update(f"{json.dumps([frame.frame_id, *sizes])}\n".encode())
    assert listed(*frames).sha256 == digest.hexdigest()


def test_the_digest_depends_on_names_and_sizes_but_not_on_order_or_place() -> None:
    first = ListedFrame("a", "", 10, "", 5)
    second = ListedFrame("b", "", 20, "", 6)
    digest = listed(first, second).sha256
    assert listed(second, first).sha256 == digest
    elsewhere = Files((PathPattern("elsewhere/", 0, ".bmp"),), *columns([0, 0], [10, 20]))
    here = listed(first, second)
    assert Listing(here.ids, elsewhere, here.labels).sha256 == digest
    changes = [
        ListedFrame("c", "", 10, "", 5),
        ListedFrame("a", "", 11, "", 5),
        ListedFrame("a", "", 10, "", 6),
        ListedFrame("a", "", 10, None, None),
    ]
    digests = {listed(changed, second).sha256 for changed in changes}
    assert len(digests) == len(changes)
    assert digest not in digests


def test_the_digest_cannot_be_forged_by_a_name() -> None:
    one = [ListedFrame('a", 1]\n["b', "", 2)]
    two = [ListedFrame("a", "", 1), ListedFrame("b", "", 2)]
    assert listed(*one).sha256 != listed(*two).sha256
