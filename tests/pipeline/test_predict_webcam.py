"""Predictions of a camera, in whose place stands one that shows frames of a test."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from stillroom.pipeline.predict_frames import PredictionResult, predict
from stillroom.pipeline.predict_webcam import webcam_of
from stillroom.pipeline.prediction_writer import PredictionWriter
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from stillroom.stages.sources.source import Frame

    Look = Callable[..., PredictionResult]

FILMS = cv2.VideoCapture
SHOWN = [
    np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for seed in range(5)
]


@pytest.fixture
def look(run: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Predict what a camera shows, BGR: some frames, after which `then` is called and it is off."""

    def look(
        count: int = 5,
        then: Callable[[], None] = lambda: None,
        source: str = "webcam",
        **options: float,
    ) -> PredictionResult:
        class Camera:
            def __init__(self, number: int) -> None:
                self.here = number < 2
                self.left = [image[..., ::-1] for image in SHOWN[:count]]

            def isOpened(self) -> bool:
                return self.here

            def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
                time.sleep(0.01)
                if len(self.left) == 1:
                    then()
                return (True, self.left.pop(0)) if self.left else (False, None)

            def release(self) -> None:
                released.append(self)

        released: list[Camera] = []
        with monkeypatch.context() as patch:
            patch.setattr("cv2.VideoCapture", Camera)
            try:
                return predict(run, [Path(source)], Path("out"), **options)
            finally:
                assert len(released) == (source != "webcam:2")

    return look


def frames_of(film: Path) -> int:
    return int(FILMS(str(film)).get(cv2.CAP_PROP_FRAME_COUNT))


def rate_of(film: Path) -> float:
    return float(FILMS(str(film)).get(cv2.CAP_PROP_FPS))


def pixels(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as opened:
        return np.array(opened)


def test_so_many_frames_are_taken_as_were_asked_for(run: Path, look: Look) -> None:
    done = look(frames=3)
    assert (done.predicted, done.found, done.skipped) == (3, 0, {})
    assert done.films == (Path("out/webcam.mp4"),)
    assert frames_of(done.films[0]) == 3
    for number, image in enumerate(SHOWN[:3]):
        Image.fromarray(image).save(f"{number}.png")
    predict(run, [Path(f"{number}.png") for number in range(3)], Path("files"))
    for number in range(3):
        for kind in ("labels", "overlays"):
            one, other = f"out/{kind}/webcam/{number:06d}.png", f"files/{kind}/{number}.png"
            assert np.array_equal(pixels(one), pixels(other))
    again = look(frames=2, source="webcam:1")
    assert again.films == (Path("out/webcam-2.mp4"),)
    assert len(list(Path("out/labels/webcam").iterdir())) == 3


def test_ctrl_c_and_a_camera_that_is_unplugged_end_it_with_a_film(
    look: Look, caplog: pytest.LogCaptureFixture
) -> None:
    done = look(4, then=lambda: os.kill(os.getpid(), signal.SIGINT))
    assert done.predicted == frames_of(done.films[0]) == 4
    assert "no more frames" not in caplog.text
    assert look(2).predicted == 2
    assert "the camera gives no more frames" in caplog.text


def test_a_film_runs_as_fast_as_frames_came_fewer_at_a_rate_and_none_are_an_error(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter((0.0, 2.0))  # before the first of five frames and after the last
    with monkeypatch.context() as patch:
        clock = SimpleNamespace(monotonic=seconds.__next__)
        patch.setattr("stillroom.pipeline.predict_webcam.time", clock)
        assert rate_of(look(frames=5).films[0]) == pytest.approx(2.5)
    assert look(5, fps=0.01).predicted == 1
    with pytest.raises(ConfigError, match="the camera gave no frame"):
        look(0)
    assert not Path("out/webcam-3.mp4").exists()
    with pytest.raises(ConfigError, match=r"webcam:2: no camera can be opened; .*/dev/video2"):
        look(source="webcam:2")


def test_a_frame_that_cannot_be_predicted_is_left_out_and_named(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, bad = PredictionWriter.write, {"webcam/000001"}

    def write_or_fail(self: PredictionWriter, name: str, frame: Frame) -> None:
        if name in bad:
            raise FrameError("depth is not finite")
        write(self, name, frame)

    monkeypatch.setattr(PredictionWriter, "write", write_or_fail)
    done = look(4)
    assert (done.predicted, done.skipped) == (3, {"webcam/000001": "depth is not finite"})
    assert frames_of(done.films[0]) == 3
    bad |= {f"webcam-2/{number:06d}" for number in range(2)}
    with pytest.raises(ConfigError, match=r"none of 2 frames .* first, webcam-2/000000: depth is"):
        look(2)


def test_what_is_called_webcam_and_is_there_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert webcam_of([Path("webcam")]) == 0
    assert webcam_of([Path("webcam:12")]) == 12
    assert webcam_of([Path("webcam:a")]) is None
    Path("webcam").mkdir()
    assert webcam_of([Path("webcam")]) is None
