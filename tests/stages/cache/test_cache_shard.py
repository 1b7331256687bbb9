"""One shard, from a plain source through a plain function into a set on disk; no network."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.stages.cache.cache_shard import ShardJob, ShardReport, ShardWork, cache_shard
from stillroom.stages.cache.inputs import FrameInputs
from stillroom.stages.cache.producers import frames_and_targets
from stillroom.stages.cache.shard_threads import ShardThreads, Turn
from stillroom.stages.sources.canvas import CanvasFrame
from stillroom.stages.sources.source import Frame
from stillroom.storage_specs.codecs.plain import Half, Raw
from stillroom.storage_specs.codecs.quantised import Unit
from stillroom.storage_specs.errors import FrameError
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet

CANVAS = (8, 12)
COUNT, SHARD_FRAMES, BATCH = 13, 9, 4
LZ4 = {"name": "blosc", "cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}
Made = list[dict[str, np.ndarray]]


class Numbered:
    """Frame i has the grey value 10 * i; some cannot be read, and each takes its own time."""

    classes = None
    frame_ids = tuple(f"clip/{index:02d}" for index in range(COUNT))

    def __init__(
        self, unreadable: Sequence[int] = (), delay: Callable[[int], float] = lambda _: 0.0
    ) -> None:
        self._unreadable, self._delay = unreadable, delay

    def __len__(self) -> int:
        return COUNT

    def load(self, index: int) -> Frame:
        time.sleep(self._delay(index))
        if index in self._unreadable:
            raise FrameError(f"{self.frame_ids[index]}: torn")
        return Frame(self.frame_ids[index], np.full((*CANVAS, 3), 10 * index, np.uint8))

    def position(self, index: int) -> tuple[None, None]:
        return None, None

    def labelled(self, index: int) -> bool:
        return self.classes is not None

    def identity(self) -> dict[str, Any]:
        return {}


def number_of(frame: CanvasFrame) -> int:
    return int(frame.image[0, 0, 0]) // 10


def say_numbers(frames: Sequence[CanvasFrame]) -> Made:
    """Logits and confidences that tell which frame they are of."""
    return [
        {
            "logits": np.full((2, 2, 3), number_of(frame), np.float32),
            "confidence": np.full((2, 3), number_of(frame) / 100, np.float32),
        }
        for frame in frames
    ]


@pytest.fixture
def target(tmp_path: Path) -> ArtifactSet:
    arrays = (
        ArraySpec("logits", (2, 2, 3), Half(), LZ4, {"stride": 4}),
        ArraySpec("confidence", (2, 3), Unit(), LZ4, {"stride": 4}),
    )
    return Cache.create(tmp_path / "my.cache").define("s", "t", {}, COUNT, SHARD_FRAMES, arrays)


def fill(target: ArtifactSet, shard: int = 0, **changes: Any) -> ShardReport:
    given: dict[str, Any] = {
        "work": ShardWork("s", "t", shard, tuple(target.arrays)),
        "inputs": FrameInputs(changes.pop("source", Numbered()), CANVAS),
        "produce": say_numbers,
        "target": target,
        "batch": BATCH,
        "turn": Turn(),
    }
    with ShardThreads(changes.pop("decoders", 2), changes.pop("encoders", 2)) as threads:
        return cache_shard(ShardJob(**{**given, "threads": threads, **changes}))


def test_rows_and_arrays_stand_in_the_order_of_the_source(target: ArtifactSet) -> None:
    for shard, frames in ((1, 4), (0, 9)):
        assert fill(target, shard).frames == frames
    rows = target.rows().to_pylist()
    assert [row["index"] for row in rows] == list(range(COUNT))
    assert [row["frame_id"] for row in rows] == list(Numbered.frame_ids)
    for index in range(COUNT):
        assert (target.read("logits", index) == index).all()
        assert rows[index]["confidence"] == pytest.approx(index / 100)
        assert (rows[index]["valid_height"], rows[index]["valid_width"]) == CANVAS


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.02, 0.0), (0.0, 0.02)])
def test_batches_are_cut_inside_the_shard_whatever_the_threads_do(
    target: ArtifactSet, threads: int, delays: tuple[float, float]
) -> None:
    seen: list[list[int]] = []

    def produce(frames: Sequence[CanvasFrame]) -> Made:
        seen.append([number_of(frame) for frame in frames])
        return say_numbers(frames)

    source = Numbered(unreadable=(2,), delay=lambda index: delays[index % 2])
    for shard in (0, 1):
        fill(target, shard, produce=produce, source=source, decoders=threads)
    # a batch is four frames of the source, not four that could be read
    assert seen == [[0, 1, 3], [4, 5, 6, 7], [8], [9, 10, 11, 12]]


def test_frames_that_cannot_be_decoded_keep_their_place(target: ArtifactSet) -> None:
    calls: list[int] = []
    report = fill(
        target,
        source=Numbered(unreadable=(0, 4, 5, 6, 7)),  # one whole batch among them
        produce=lambda frames: calls.append(len(frames)) or say_numbers(frames),  # type: ignore[func-returns-value]
    )
    assert (report.frames, report.bad) == (9, 5)
    assert calls == [3, 1]
    rows = target.rows().to_pylist()
    assert [row["index"] for row in rows if row["status"] == "bad"] == [0, 4, 5, 6, 7]
    assert rows[4]["reason"] == "clip/04: torn"
    assert rows[4]["frame_id"] == "clip/04"
    for index in (1, 2, 3, 8):
        assert (target.read("logits", index) == index).all()
    with pytest.raises(FrameError, match="torn"):
        target.read("logits", 4)


def spoil(index: int, artifact: str, array: np.ndarray) -> Callable[[Sequence[CanvasFrame]], Made]:
    def produce(frames: Sequence[CanvasFrame]) -> Made:
        made = say_numbers(frames)
        for frame, arrays in zip(frames, made, strict=True):
            if number_of(frame) == index:
                arrays[artifact] = array
        return made

    return produce


@pytest.mark.parametrize(
    ("artifact", "array", "reason"),
    [
        ("logits", np.full((2, 2, 3), np.nan, np.float32), "not finite in 12 of 12"),
        ("confidence", np.full((2, 3), np.inf, np.float32), "not finite in 6 of 6"),
        ("logits", np.full((2, 2, 3), 7e4, np.float32), r"logits, .*half holds up to 65504; got 7"),
        ("logits", np.zeros((2, 9, 9), np.float32), r"expected shape \(2, 2, 3\), got \(2, 9, 9\)"),
        ("logits", np.zeros((2, 2, 3), np.uint8), "expected float32, got uint8"),
        (
            "confidence",
            np.zeros((1, 2, 3), np.float32),
            r"confidence, .*expected shape \(2, 3\), got \(1, 2, 3\)",
        ),
        ("flow", np.zeros((2, 3), np.float32), r"expected arrays \['confidence', 'logits'\]"),
    ],
)
def test_an_output_that_does_not_fit_makes_that_frame_a_bad_row(
    target: ArtifactSet, artifact: str, array: np.ndarray, reason: str
) -> None:
    report = fill(target, produce=spoil(5, artifact, array))
    assert (report.frames, report.bad) == (9, 1)
    bad = target.rows().to_pylist()[5]
    assert bad["status"] == "bad"
    assert bad["confidence"] is None
    with pytest.raises(FrameError, match=reason):
        target.read("logits", 5)
    for index in (4, 6):
        assert (target.read("logits", index) == index).all()


def test_where_producing_fails_nothing_is_committed(target: ArtifactSet) -> None:
    def produce(frames: Sequence[CanvasFrame]) -> Made:
        if number_of(frames[0]) == 8:
            raise RuntimeError("out of memory")
        return say_numbers(frames)

    turn = Turn()
    with pytest.raises(RuntimeError, match="out of memory"):
        fill(target, produce=produce, turn=turn)
    assert target.committed() == frozenset()
    assert not turn.locked()
    assert fill(target, turn=turn).frames == 9  # and the shard can be tried again


@pytest.mark.parametrize("encoders", [1, 3])
@pytest.mark.parametrize("failing", [0, 4, 8])
def test_an_error_behind_the_teachers_back_surfaces(
    target: ArtifactSet, failing: int, encoders: int
) -> None:
    told: list[int] = []

    def on_frames(frames: int) -> None:
        told.append(frames)
        if len(told) == failing + 1:
            raise OSError("no listener")

    with pytest.raises(OSError, match="no listener"):
        fill(target, on_frames=on_frames, encoders=encoders)
    assert target.committed() == frozenset()


def test_progress_counts_every_frame_and_only_one_shard_has_the_teacher(
    target: ArtifactSet,
) -> None:
    told: list[int] = []
    turn = Turn()

    def produce(frames: Sequence[CanvasFrame]) -> Made:
        assert turn.locked()
        return say_numbers(frames)

    fill(
        target, source=Numbered(unreadable=(3,)), produce=produce, turn=turn, on_frames=told.append
    )
    assert told == [1] * 9


@pytest.mark.parametrize("encoders", [1, 2, 7])
def test_the_bytes_of_a_shard_are_the_same_whoever_encodes_its_frames(
    target: ArtifactSet, tmp_path: Path, encoders: int
) -> None:
    slow = [0.02, 0.0, 0.01]

    class Lagging(FrameInputs):
        def finished_row(self, index: int, *of: Any) -> Any:
            time.sleep(slow[index % 3])  # frames are done in another order than they were begun
            return super().finished_row(index, *of)

    def objects(folder: Path) -> dict[str, bytes]:
        kept = [path for path in folder.rglob("c.*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in kept}

    other = Cache.create(tmp_path / "other.cache").define(
        "s", "t", {}, COUNT, SHARD_FRAMES, tuple(target.arrays.values())
    )
    source = Numbered(unreadable=(2,))
    for shard in (0, 1):
        fill(target, shard, source=source, encoders=1)
        fill(other, shard, inputs=Lagging(source, CANVAS), encoders=encoders)
    plain = objects(tmp_path / "my.cache")
    assert len(plain) == 4
    assert objects(tmp_path / "other.cache") == plain


def test_no_more_frames_wait_for_encoders_than_there_is_room_for(target: ArtifactSet) -> None:
    done, most = threading.Semaphore(0), []
    begun = [0, 0]  # frames that the teacher gave, frames that were encoded

    class Held(FrameInputs):
        def finished_row(self, index: int, *of: Any) -> Any:
            done.acquire()
            begun[1] += 1
            return super().finished_row(index, *of)

    def produce(frames: Sequence[CanvasFrame]) -> Made:
        begun[0] += len(frames)
        most.append(begun[0] - begun[1])
        done.release(1)
        return say_numbers(frames)

    filling = threading.Thread(
        target=fill,
        args=(target,),
        kwargs={"inputs": Held(Numbered(), CANVAS), "produce": produce, "batch": 1, "encoders": 1},
    )
    filling.start()
    for _ in range(SHARD_FRAMES):
        done.release()
    filling.join(60)
    assert not filling.is_alive()
    assert max(most) <= 2 * 1 + 1 + 1  # two batches, one an encoder, and the one that is new


def test_a_shard_that_fails_leaves_no_thread_at_work_on_it(target: ArtifactSet) -> None:
    at_work: set[int] = set()

    class Slow(FrameInputs):
        def load(self, index: int) -> CanvasFrame:
            at_work.add(index)
            time.sleep(0.05)
            loaded = super().load(index)
            at_work.remove(index)
            return loaded

    def produce(frames: Sequence[CanvasFrame]) -> Made:
        raise RuntimeError("out of memory")

    with ShardThreads(4, 2) as threads:
        with pytest.raises(RuntimeError, match="out of memory"):
            fill(target, inputs=Slow(Numbered(), CANVAS), produce=produce, threads=threads)
        assert not at_work


def test_a_report_says_what_the_teacher_waited_for(target: ArtifactSet) -> None:
    turn = Turn()

    def produce(frames: Sequence[CanvasFrame]) -> Made:
        time.sleep(0.02)
        return say_numbers(frames)

    first = fill(target, 0, produce=produce, turn=turn, encoders=3)
    time.sleep(0.2)
    second = fill(target, 1, produce=produce, turn=turn, source=Numbered(delay=lambda _: 0.05))
    assert first.encoders == 3
    assert first.produce_seconds >= 3 * 0.02
    assert first.turn_seconds >= first.produce_seconds + first.encode_wait_seconds
    assert second.turn_seconds >= 0.2 + second.produce_seconds  # nobody had the model
    assert second.decode_wait_seconds >= 0.05
    assert second.encode_seconds > 0


def test_frames_and_labels_are_what_the_canvas_shows() -> None:
    image, label = np.zeros((*CANVAS, 3), np.uint8), np.ones(CANVAS, np.uint8)
    made = frames_and_targets(
        [CanvasFrame("a", image, None, CANVAS), CanvasFrame("b", image, label, CANVAS)]
    )
    assert [sorted(arrays) for arrays in made] == [["frames"], ["frames", "labels"]]
    assert made[1]["labels"] is label


def test_a_label_that_is_no_class_makes_a_bad_row(tmp_path: Path) -> None:
    arrays = (
        ArraySpec("frames", (*CANVAS, 3), Raw(), LZ4, {"stride": 1}),
        ArraySpec("labels", CANVAS, Raw(), LZ4, {"stride": 1, "classes": ["sky", "road"]}),
    )
    target = Cache.create(tmp_path / "my.cache").define("s", "frames", {}, COUNT, COUNT, arrays)

    class Labelled(Numbered):
        def load(self, index: int) -> Frame:
            label = np.full(CANVAS, 7 if index == 3 else index % 2, np.uint8)
            return Frame(self.frame_ids[index], super().load(index).image, label)

    report = fill(
        target,
        work=ShardWork("s", "frames", 0, ("frames", "labels")),
        produce=frames_and_targets,
        source=Labelled(),
    )
    assert report.bad == 1
    assert "carry 7" in target.rows().to_pylist()[3]["reason"]
