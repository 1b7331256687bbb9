"""Video files: counted by decoding, and the same pixels in whatever order frames are asked for.

Written here by OpenCV: mp4v and XVID refer back to earlier frames, MJPG does not, VP80 in WebM has
no index and MPG2 no times by which a seek could be checked.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from stillroom.stages.sources import video_index, video_reader
from stillroom.stages.sources.open import open_source
from stillroom.stages.sources.video import VideoConfig, VideoSource
from stillroom.stages.sources.video_index import DOUBTFUL, index_video
from stillroom.stages.sources.video_reader import DECODERS
from stillroom.storage_specs.errors import ConfigError, FrameError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 150
FORMATS = {"mp4": "mp4v", "avi": "MJPG", "xvid.avi": "XVID", "webm": "VP80", "mkv": "mp4v"}


def picture(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A moving pattern whose brightness tells the frame's number, roughly."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    wave = 30 * np.sin((rows + 2 * number) / 5) + 30 * np.cos((columns - number) / 7)
    grey = 40 + number + wave
    return np.stack([grey, grey + 20, grey - 20], axis=2).clip(0, 255).astype(np.uint8)


def film(
    path: Path, code: str, count: int = COUNT, fps: float = 25, size: tuple[int, int] = (48, 64)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter.fourcc(*code)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, (size[1], size[0]))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {code}")
    for number in range(count):
        writer.write(picture(number, size))
    writer.release()
    return path


@pytest.fixture(autouse=True)
def indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's indices are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "stillroom" / "videos"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for suffix, code in FORMATS.items():
        film(folder / f"{suffix.split('.')[0]}_film.{suffix.split('.')[-1]}", code)
    return folder


def opened(root: Path | tuple[Path, ...], **changes: Any) -> VideoSource:
    source = open_source(VideoConfig(root=root, **changes))
    assert isinstance(source, VideoSource)
    return source


def sequential(path: Path) -> list[np.ndarray]:
    """Every frame as a plain loop reads it, RGB."""
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1].copy())
    return frames


@pytest.mark.parametrize(
    "name", ["mp4_film.mp4", "avi_film.avi", "xvid_film.avi", "webm_film.webm", "mkv_film.mkv"]
)
def test_any_order_gives_the_pixels_of_the_sequential_one(films: Path, name: str) -> None:
    expected = sequential(films / name)
    assert len(expected) == COUNT
    source = opened(films / name)
    assert len(source) == COUNT
    for index in range(COUNT):
        np.testing.assert_array_equal(source.load(index).image, expected[index])
    rng = random.Random(name)
    jumps = [rng.randrange(COUNT) for _ in range(60)]
    for index in [*jumps, 149, 0, 148, 1, 75, 74, 73]:
        np.testing.assert_array_equal(source.load(index).image, expected[index], str(index))
    fresh = opened(films / name)
    np.testing.assert_array_equal(fresh.load(140).image, expected[140])


@pytest.mark.parametrize("name", ["mp4_film.mp4", "avi_film.avi"])
def test_seeks_are_used_for_jumps_and_none_for_a_shard(
    films: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grabs, seeks = 0, 0
    grab, seek = video_reader._Decoder._grab, video_reader._Decoder._seek

    def counted_grab(self: Any, *, keep: bool) -> None:
        nonlocal grabs
        grabs += 1
        grab(self, keep=keep)

    def counted_seek(self: Any, number: int) -> bool:
        nonlocal seeks
        seeks += 1
        return seek(self, number)

    monkeypatch.setattr(video_reader._Decoder, "_grab", counted_grab)
    monkeypatch.setattr(video_reader._Decoder, "_seek", counted_seek)
    source = opened(films / name)
    for index in range(64):
        source.load(index)
    assert (grabs, seeks) == (64, 0)
    source.load(140)  # 76 frames on
    assert seeks == 1
    assert grabs < 64 + 40


def test_two_threads_over_two_shards_read_each_frame_about_once(
    films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grabs = []
    grab = video_reader._Decoder._grab

    def counted(self: Any, *, keep: bool) -> None:
        grabs.append(1)
        grab(self, keep=keep)

    monkeypatch.setattr(video_reader._Decoder, "_grab", counted)
    expected = sequential(films / "mp4_film.mp4")
    source = opened(films / "mp4_film.mp4")
    order = [index for pair in zip(range(64), range(80, 144), strict=True) for index in pair]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda index: source.load(index).image, order))
    for index, image in zip(order, found, strict=True):
        np.testing.assert_array_equal(image, expected[index])
    assert len(grabs) < 3 * len(order)


def test_many_threads_in_any_order_never_disagree(films: Path) -> None:
    paths = [films / "mp4_film.mp4", films / "avi_film.avi", films / "webm_film.webm"]
    source = opened(tuple(paths))
    expected = {path.stem: sequential(path) for path in paths}
    order = list(range(len(source)))
    random.Random(5).shuffle(order)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(source.load, order[:120]))
    for frame in found:
        clip, number = frame.frame_id.split("/")
        np.testing.assert_array_equal(frame.image, expected[clip][int(number)])
    assert len(source._reader._decoders) <= DECODERS


@pytest.mark.parametrize("lie", ["wrong place", "past it", "nowhere", "refuses"])
def test_a_container_that_seeks_wrongly_is_read_from_its_start(
    films: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sequential(films / "mp4_film.mp4")
    real, time_ms = video_reader._Decoder._seek, video_reader._Decoder._time_ms
    source = opened(films / "mp4_film.mp4")
    lied: list[int] = []
    unknown: list[bool] = []

    def seek(self: Any, number: int) -> bool:
        lied.append(number)
        unknown.append(lie == "nowhere")
        if lie == "refuses":
            return False
        return real(self, {"wrong place": number - 7, "past it": 149}.get(lie, number))

    def said(self: Any) -> float:
        return -1.0 if unknown and unknown.pop() else time_ms(self)

    monkeypatch.setattr(video_reader._Decoder, "_seek", seek)
    monkeypatch.setattr(video_reader._Decoder, "_time_ms", said)
    for index in (130, 20, 100):
        np.testing.assert_array_equal(source.load(index).image, expected[index])
    assert lied


def test_times_that_do_not_ascend_are_never_seeked_by(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", "MPG2", 100)
    times = index_video(path).times_ms
    if (np.diff(times) > 0).all():
        pytest.skip("this OpenCV gives every frame of MPEG-2 in AVI its time")
    expected, source = sequential(path), opened(path)
    assert len(source) == len(expected)
    for index in (99, 3, 80, 79, 0):
        np.testing.assert_array_equal(source.load(index).image, expected[index])


def test_each_file_is_a_clip_in_natural_order(tmp_path: Path) -> None:
    for name in ("b10.mp4", "b9.avi", "day/a.mp4"):
        film(tmp_path / name, "mp4v" if name.endswith("mp4") else "MJPG", 3)
    (tmp_path / "notes.txt").write_text("no video")
    source = opened(tmp_path)
    assert list(source.frame_ids) == [
        f"{clip}/{number:06d}" for clip in ("b9", "b10", "day/a") for number in range(3)
    ]
    assert [source.position(index) for index in range(2, 5)] == [("b9", 2), ("b10", 0), ("b10", 1)]
    assert source.classes is None
    assert not source.labelled(0)
    assert source.load(4).label is None
    with pytest.raises(IndexError):
        source.load(9)


def test_files_of_a_list_are_named_by_themselves(tmp_path: Path) -> None:
    first, second = film(tmp_path / "x" / "a.mp4", "mp4v", 2), film(tmp_path / "b.avi", "MJPG", 2)
    source = opened((first, second))
    assert [source.position(index)[0] for index in range(4)] == ["a", "a", "b", "b"]
    other = film(tmp_path / "y" / "a.avi", "MJPG", 2)
    with pytest.raises(ConfigError, match=r"a\.avi and .*a\.mp4 would both be clip 'a'"):
        opened((first, other))


@pytest.mark.parametrize(
    ("fps", "numbers"),
    [
        (None, list(range(50))),
        (25, list(range(50))),
        (5, list(range(0, 50, 5))),
        (10, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40, 43, 45, 48]),
        (0.5, [0]),
        (25.1, list(range(50))),
    ],
)
def test_frames_are_taken_at_the_stated_rate(
    tmp_path: Path, fps: float | None, numbers: list[int]
) -> None:
    path = film(tmp_path / "a.mp4", "mp4v", 50)
    expected, source = sequential(path), opened(path, fps=fps)
    assert list(source.frame_ids) == [f"a/{number:06d}" for number in numbers]
    assert [source.position(index) for index in range(len(source))] == [
        ("a", place) for place in range(len(numbers))
    ]
    for index, number in reversed(list(enumerate(numbers))):
        np.testing.assert_array_equal(source.load(index).image, expected[number])


def test_a_rate_that_a_file_does_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "a.mp4", "mp4v", 10)
    with pytest.raises(ConfigError, match=r"a\.mp4 has 25 frames a second, .* asks for 30"):
        opened(path, fps=30)
    unstated = video_index.VideoIndex(0.0, 0, np.zeros(10))
    monkeypatch.setattr("stillroom.stages.sources.video.index_video", lambda _: unstated)
    with pytest.raises(ConfigError, match=r"a\.mp4 states no frame rate"):
        opened(path, fps=5)
    assert len(opened(path)) == 10


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the outer boxes of an mp4 file."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, at, at + size
        at += size


def index_first(path: Path) -> None:
    """Put an mp4's index before its frames, as for streaming: a cut then loses frames alone."""
    data = path.read_bytes()
    parts = {kind: data[start:end] for kind, start, end in boxes(data)}
    moov = bytearray(parts.pop(b"moov"))
    at = moov.index(b"stco") + 8
    (count,) = struct.unpack(">I", moov[at : at + 4])
    for entry in range(count):
        place = at + 4 + 4 * entry
        (offset,) = struct.unpack(">I", moov[place : place + 4])
        moov[place : place + 4] = struct.pack(">I", offset + len(moov))
    path.write_bytes(parts.pop(b"ftyp") + moov + b"".join(parts.values()))


@pytest.mark.parametrize(("suffix", "code"), [("mp4", "mp4v"), ("avi", "MJPG"), ("avi", "XVID")])
def test_what_a_cut_file_has_lost_is_bad_frames_and_the_rest_is_right(
    tmp_path: Path, suffix: str, code: str
) -> None:
    path = film(tmp_path / f"a.{suffix}", code)
    if suffix == "mp4":
        index_first(path)
    whole = sequential(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    source = opened(path)
    assert len(source) == COUNT
    good, reasons = [], []
    for index in range(COUNT):
        try:
            np.testing.assert_array_equal(source.load(index).image, whole[index])
            good.append(index)
        except FrameError as error:
            reasons.append(str(error))
    told = f"a.{suffix}: the file is cut off or damaged; of its 150 frames"
    assert all(why.startswith(told) for why in reasons)
    assert str(tmp_path) not in "".join(reasons)
    assert good == list(range(len(good)))
    assert 60 < len(good) < 110
    assert len(good) == len(index_video(path).times_ms) - DOUBTFUL


def test_a_cut_file_without_a_stated_count_holds_what_can_be_decoded(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", "mp4v")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    source = opened(path)
    assert 60 < len(source) < 110
    assert len(source) == len(sequential(path))
    source.load(len(source) - 1)


@pytest.mark.parametrize(
    ("name", "code"), [("a.mp4", "mp4v"), ("a.avi", "XVID"), ("a.mkv", "mp4v")]
)
def test_frames_after_a_damaged_one_are_bad_and_none_is_passed_over(
    tmp_path: Path, name: str, code: str
) -> None:
    path = film(tmp_path / name, code, 60)
    whole, data = sequential(path), bytearray(path.read_bytes())
    at = -1
    for _ in range(31):
        at = data.index(b"\0\0\1\xb6", at + 1)
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    source = opened(path)
    assert len(source) == 60
    for index in range(30 - DOUBTFUL):
        np.testing.assert_array_equal(source.load(index).image, whole[index])
    for index in (30 - DOUBTFUL, 30, 59):
        with pytest.raises(
            FrameError, match="cut off or damaged; of its 60 frames the first 26 are whole"
        ):
            source.load(index)


def without_frames(path: Path, dropped: set[int]) -> None:
    """Make an AVI's frames empty, as a camera writes those for which it had no time."""
    data = bytearray(path.read_bytes())
    at, index = data.index(b"movi") + 4, data.rindex(b"idx1") + 8
    for number in range(max(dropped) + 1):
        size = struct.unpack_from("<I", data, at + 4)[0]
        if number in dropped:
            struct.pack_into("<I4sI", data, at + 4, 0, b"JUNK", size - 8)
            struct.pack_into("<I", data, index + 16 * number + 12, 0)
        at += 8 + size + size % 2
    path.write_bytes(data)


def test_frames_that_a_camera_dropped_from_an_avi_are_not_taken_for_lost(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", "MJPG", 50)
    expected = sequential(path)
    without_frames(path, {10, 11, 30})
    source = opened(path)
    there = [number for number in range(50) if number not in (10, 11, 30)]
    assert len(source) == 47
    for index, number in enumerate(there):
        np.testing.assert_array_equal(source.load(index).image, expected[number])
    assert [source.position(index)[1] for index in range(47)] == there
    nearest = [{10: 9, 30: 29}.get(number, number) for number in range(0, 50, 2)]
    taken = [int(name[-6:]) for name in opened(path, fps=12.5).frame_ids]
    assert [there[place] for place in taken] == nearest
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    assert len(opened(path)) == 47  # cut off as well: of the 50, 3 were never there


def test_an_end_long_before_the_stated_length_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mkv", "mp4v")
    opened(path)
    assert not caplog.records
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    for _ in range(2):  # counted, and by the index that is kept
        caplog.clear()
        assert 60 < len(opened(path)) < 110
        (record,) = caplog.records
        assert record.getMessage().startswith("a.mkv ends long before the length that it states")


def test_a_video_that_is_to_be_turned_is_turned_wherever_it_is_read(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", "mp4v", 100)
    upright, data = sequential(path), bytearray(path.read_bytes())
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = clockwise
    path.write_bytes(data)
    source = opened(path)
    for index in (0, 1, 90, 40):
        turned = np.rot90(upright[index], -1)
        np.testing.assert_array_equal(source.load(index).image, turned)


def test_frames_that_are_there_and_not_shown_are_not_taken_for_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "a.mp4", "mp4v", 30)
    capture = cv2.VideoCapture

    class Hiding:
        """Shows the last 20 of 30 frames, as after a cut without encoding anew."""

        def __init__(self) -> None:
            self.real, self.raw = capture(), False

        def open(self, path: str, backend: int, options: list[int]) -> bool:
            self.raw = bool(options)
            opened = self.real.open(path, backend, options)
            for _ in range(0 if self.raw else 10):
                self.real.grab()
            return bool(opened)

        def grab(self) -> bool:
            return bool(self.real.grab())

        def get(self, key: int) -> float:
            return float(self.real.get(key))

    monkeypatch.setattr(video_index.cv2, "VideoCapture", Hiding)
    index = index_video(path)
    assert (len(index), index.lost, index.whole) == (20, 0, 20)


@pytest.mark.parametrize("content", [b"", b"hello, no video" * 50])
def test_a_file_that_cannot_be_opened_is_named_at_once(tmp_path: Path, content: bytes) -> None:
    film(tmp_path / "good.mp4", "mp4v", 2)
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"bad\.mp4 cannot be opened .*{len(content)} bytes"):
        opened(tmp_path)


def test_an_mp4_cut_before_its_index_cannot_be_opened(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", "mp4v", 50)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match=r"a\.mp4 cannot be opened"):
        opened(path)


def test_a_file_without_frames_is_a_config_error(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", "MJPG", 1)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])
    with pytest.raises(ConfigError, match=r"a\.avi (holds no frame|cannot be opened)"):
        opened(path)


def test_no_video_at_all_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no video"):
        opened(tmp_path / "empty")
    with pytest.raises(ConfigError, match="does not exist"):
        opened((tmp_path / "nowhere.mp4",))
    with pytest.raises(ConfigError, match="at least one"):
        opened(())


def test_a_file_that_changes_or_goes_after_the_listing_is_bad_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", "mp4v", 30)
    changed, gone = opened(path), opened(path)
    film(path, "mp4v", 10, fps=20)
    with pytest.raises(FrameError, match=r"a\.mp4: the file has changed since it was listed"):
        changed.load(20)
    path.unlink()
    with pytest.raises(FrameError, match=r"a\.mp4: the file is missing"):
        gone.load(0)


def denied(*_: Any, **__: Any) -> Any:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def failing(*_: Any, **__: Any) -> Any:
    """A file that opens on a disk that cannot be read."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    return Failing()


@pytest.mark.parametrize(
    ("fault", "says"), [(denied, "Permission denied"), (failing, "Input/output error")]
)
def test_a_file_that_the_machine_does_not_give_is_neither_bad_frames_nor_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, says: str
) -> None:
    path = film(tmp_path / "a.mp4", "mp4v", 30)
    source = opened(path)
    with monkeypatch.context() as patch:  # of the reader, which has its index already
        patch.setattr(video_reader, "open_capture", lambda *_: None)
        patch.setattr(type(path), "open", fault)
        with pytest.raises(SourceUnavailable, match=rf"a\.mp4 cannot be read now: {says}"):
            source.load(3)
    assert source.load(3).image.shape == (48, 64, 3)
    path.write_bytes(path.read_bytes()[:-7])  # another file: its index must be made
    with monkeypatch.context() as patch:
        patch.setattr(video_index, "open_capture", lambda *_: None)
        patch.setattr(type(path), "open", fault)
        with pytest.raises(SourceUnavailable, match=rf"a\.mp4 cannot be read now: {says}"):
            opened(path)


def test_a_video_cut_off_by_the_disk_is_not_remembered_as_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "a.avi", "MJPG")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", failing)
        with pytest.raises(SourceUnavailable, match="Input/output error"):
            opened(path)
    with pytest.raises(FrameError, match="the file is cut off"):
        opened(path).load(COUNT - 1)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", "mp4v", 3)
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone.mp4")
    with pytest.raises(ConfigError, match=r"b\.mp4 cannot be opened as a video \(No such file"):
        opened(tmp_path)


def test_frames_of_two_files_may_differ_in_size(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", "mp4v", 2, size=(48, 64))
    film(tmp_path / "b.mp4", "mp4v", 2, size=(32, 96))
    source = opened(tmp_path)
    assert [source.load(index).image.shape for index in (0, 2)] == [(48, 64, 3), (32, 96, 3)]


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48)
    )
    writer.write(np.full((48, 64, 3), (10, 60, 200), np.uint8))
    writer.release()
    image = opened(path).load(0).image
    assert (image.dtype, image.flags.c_contiguous, image.flags.writeable) == (np.uint8, True, True)
    assert np.abs(image.astype(int) - (200, 60, 10)).max() < 8


def test_a_caller_may_write_into_its_frame(films: Path) -> None:
    source = opened(films / "avi_film.avi")
    first = source.load(3).image
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(source.load(3).image, kept)


def test_the_identity_is_names_sizes_counts_and_the_rate(tmp_path: Path) -> None:
    path = film(tmp_path / "in" / "a.mp4", "mp4v", 20)
    told = opened(tmp_path / "in").identity()
    assert json.loads(json.dumps(told)) == told
    assert set(told) == {"kind", "fps", "classes", "frames", "listing_sha256"}
    assert (told["kind"], told["fps"], told["frames"]) == ("video", None, 20)
    assert opened((path,)).identity() == told
    (tmp_path / "in").rename(tmp_path / "moved")
    assert opened(tmp_path / "moved").identity() == told
    assert opened(tmp_path / "moved", fps=5).identity() != told
    (tmp_path / "moved" / "a.mp4").rename(tmp_path / "moved" / "b.mp4")
    assert opened(tmp_path / "moved").identity() != told


def test_opencvs_version_is_not_in_the_identity(
    films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(films / "mp4_film.mp4").identity()
    monkeypatch.setattr(video_index.cv2, "__version__", "99.1")
    assert opened(films / "mp4_film.mp4").identity() == before


def test_a_source_travels_to_another_process_with_its_decoders_closed(films: Path) -> None:
    source = opened(films / "mp4_film.mp4")
    expected = source.load(100).image
    again = pickle.loads(pickle.dumps(source))
    assert list(again.frame_ids) == list(source.frame_ids)
    np.testing.assert_array_equal(again.load(100).image, expected)
    assert again.identity() == source.identity()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_opens_files_of_its_own(films: Path) -> None:
    source = opened(films / "mp4_film.mp4")
    expected = sequential(films / "mp4_film.mp4")
    source.load(10)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = all(
                (source.load(index).image == expected[index]).all() for index in (11, 12, 90)
            )
            os.write(write, b"same" if same else b"other")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"same"
    np.testing.assert_array_equal(source.load(11).image, expected[11])


def test_files_are_counted_once_and_again_when_they_change(
    tmp_path: Path, indices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    decode = video_index._decode
    monkeypatch.setattr(video_index, "_decode", lambda path: counted.append(path) or decode(path))
    path = film(tmp_path / "a.mp4", "mp4v", 20)
    first = opened(path)
    again = opened(path)
    assert (len(first), len(again), len(counted)) == (20, 20, 1)
    np.testing.assert_array_equal(again.load(19).image, first.load(19).image)
    film(path, "mp4v", 21)
    assert (len(opened(path)), len(counted)) == (21, 2)
    for kept in indices.iterdir():
        kept.write_bytes(b"torn")
    assert (len(opened(path)), len(counted)) == (21, 3)


def test_without_a_place_for_indices_files_are_counted_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = film(tmp_path / "a.mp4", "mp4v", 20)
    assert len(opened(path)) == len(opened(path)) == 20
