"""Predictions of one's own images and videos: right, at their own size, and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stillroom.cli import main
from stillroom.pipeline.export_student import ExportOptions, export_student
from stillroom.pipeline.open_model import open_trained
from stillroom.pipeline.predict_frames import open_model_file, predict
from stillroom.stages.evaluate.predict import StudentPredictor
from stillroom.stages.models.exported.about import Exported
from stillroom.stages.models.exported.formats import FORMATS
from stillroom.stages.models.exported.own_size import labels_of
from stillroom.stages.pictures.film import write_film
from stillroom.stages.pictures.palette import palette
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.image_files import read_image
from stillroom.stages.sources.source import Frame
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import (
    ArtifactError,
    ConfigError,
    SourceUnavailable,
    WeightsError,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """An image whose blocks a stride of 4 sees."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def pixels(path: str | Path) -> NDArray[np.uint8]:
    """The numbers of a picture: of one with a palette its ids."""
    with Image.open(path) as opened:
        return np.array(opened)


@pytest.fixture
def photos() -> Path:
    """A canvas's size, others, and one that is none; where a run's folder is."""
    folder = Path("photos")
    (folder / "far").mkdir(parents=True)
    Image.fromarray(noise(32, 48)).save(folder / "a.png")
    Image.fromarray(noise(64, 64, 1)).save(folder / "far" / "b.png")
    Image.fromarray(noise(16, 80, 2)).save(folder / "c.bmp")
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def eval_labels(run: Path, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What `stillroom eval` would score, of an image of the canvas's size."""
    logits, stride = StudentPredictor(open_trained(run).student)(image[None])
    whole = upsample_logits(logits, stride, image.shape[:2])
    return np.asarray(whole[0].argmax(0).numpy().astype(np.uint8))


def test_a_folder_is_predicted_at_its_own_sizes_and_a_bad_file_is_named(
    run: Path, photos: Path
) -> None:
    done = predict(run, [photos], Path("out"))
    assert (done.predicted, done.found, done.films) == (3, 0, ())
    assert list(done.skipped) == ["bad"]
    assert "not an image" in done.skipped["bad"]
    expected = eval_labels(run, noise(32, 48))
    assert len(np.unique(expected)) > 1
    assert np.array_equal(pixels("out/labels/a.png"), expected)
    colours = palette(open_trained(run).classes)
    assert np.array_equal(read_image(Path("out/labels/a.png")), colours[expected])
    mixed = pixels("out/overlays/a.png")
    halves = (noise(32, 48).astype(float) + colours[expected]) / 2
    assert np.abs(mixed - halves).max() <= 0.5
    for name, size in (("far/b", (64, 64)), ("c", (16, 80))):
        for kind in ("labels", "overlays"):
            assert pixels(f"out/{kind}/{name}.png").shape[:2] == size
    assert pixels("out/legend.png").shape[1] == 720
    assert json.loads(Path("out/predictions.json").read_text())["classes"][0] == "sky"
    assert sorted(str(path) for path in Path("out").rglob(".*")) == []


def test_logits_and_not_labels_are_resized(run: Path) -> None:
    model = open_model_file(run)
    image = noise(64, 64, 1)
    found = labels_of(model, Frame("b", image))
    small = np.zeros((32, 48, 3), np.uint8)
    small[:, :32] = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    logits = model.run(torch.from_numpy(small)[None])["logits"][..., :32]
    resized = torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear")
    assert np.array_equal(found, resized[0].argmax(0).numpy())


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_predicts_what_its_run_predicts(run: Path, photos: Path, to: str) -> None:
    if to == "onnx":
        for package in ("onnx", "onnxruntime"):
            pytest.importorskip(package, reason="the extra [onnx] is not installed")
    made = export_student(run, to, ExportOptions(frames=1))
    for model, out in ((run / "last.pt", "one"), (made.path, "two")):
        assert predict(model, [photos], Path(out)).predicted == 3
    for path in Path("one/labels").rglob("*.png"):
        assert np.array_equal(pixels(path), pixels(str(path).replace("one/", "two/"))), path


def test_frames_that_are_there_are_kept_and_another_model_is_refused(
    run: Path, photos: Path
) -> None:
    predict(run, [photos], Path("out"))
    Path("out/labels/c.png").unlink()
    mine = Path("out/labels/a.png")
    mine.write_bytes(b"mine")
    again = predict(run, [photos], Path("out"))
    assert (again.predicted, again.found) == (1, 2)
    assert mine.read_bytes() == b"mine"
    assert Path("out/labels/c.png").exists()
    with pytest.raises(ConfigError, match=r"out holds predictions of another model, run; "):
        predict(run / "last.pt", [photos], Path("out"))


def test_a_video_is_predicted_with_a_film_at_its_rate(run: Path, photos: Path) -> None:
    shown = [noise(32, 48, seed) for seed in range(5)]
    write_film(Path("drive.mp4"), shown, frames_per_second=6)
    done = predict(run, [Path("drive.mp4"), photos / "a.png"], Path("out"))
    assert (done.predicted, done.films) == (6, (Path("out/drive.mp4"),))
    assert len(list(Path("out/labels/drive").glob("*.png"))) == 5
    film = cv2.VideoCapture("out/drive.mp4")
    assert film.get(cv2.CAP_PROP_FPS) == 6
    read = []
    while (one := film.read())[0]:
        read.append(one[1][..., ::-1])
    assert len(read) == 5
    for number, frame in enumerate(read):
        mixed = pixels(f"out/overlays/drive/{number:06d}.png")
        assert np.abs(frame.astype(float) - mixed).mean() < 12  # an MP4 is lossy
    slower = predict(run, [Path("drive.mp4")], Path("slow"), fps=3)
    assert slower.predicted == 3


def test_images_make_a_film_where_a_rate_is_given(run: Path) -> None:
    Path("clip").mkdir()
    for number in range(3):
        Image.fromarray(noise(32, 48, number)).save(f"clip/{number}.png")
    done = predict(run, [Path("clip")], Path("out"), fps=5)
    assert done.films == (Path("out/film.mp4"),)
    assert cv2.VideoCapture("out/film.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_file_that_is_not_given_now_is_named_and_the_others_go_on(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FileSource.load

    def load(source: FileSource, index: int) -> Frame:
        if index == 0:
            raise SourceUnavailable("a.png: permission denied")
        return whole(source, index)

    monkeypatch.setattr(FileSource, "load", load)
    done = predict(run, [photos], Path("out"))
    assert done.predicted == 2
    assert done.skipped["a"] == "a.png: permission denied"


def test_a_model_that_has_diverged_is_refused(run: Path, photos: Path) -> None:
    model = open_model_file(run)

    def diverged(frames: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: made / 0 for name, made in model.run(frames).items()}

    with pytest.raises(ArtifactError, match="logits of b are not finite"):
        labels_of(Exported(model.about, diverged), Frame("b", noise(32, 48)))


def test_images_of_several_sizes_make_no_film(run: Path, photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"film\.mp4: .*of one size.*leave --fps out"):
        predict(run, [photos], Path("out"), fps=5)
    assert not Path("out/film.mp4").exists()
    assert predict(run, [photos], Path("out")).found == 3


def test_what_cannot_be_predicted_is_named(run: Path, photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.onnx: no such model"):
        predict(Path("nowhere.onnx"), [photos], Path("out"))
    with pytest.raises(ConfigError, match="nothing: no such image, folder or video"):
        predict(run, [Path("nothing")], Path("out"))
    with pytest.raises(ConfigError, match=r"run\.toml: neither an image nor a video"):
        predict(run, [Path("run.toml")], Path("out"))
    with pytest.raises(ConfigError, match=r"out lies in photos"):
        predict(run, [photos], photos / "out")
    with pytest.raises(ConfigError, match="none of 1 frames could be read; the first, bad: bad"):
        predict(run, [photos / "bad.jpg"], Path("out"))
    Image.fromarray(noise(32, 48)).save(photos / "a.bmp")
    with pytest.raises(ConfigError, match="two frames would both be 'a'"):
        predict(run, [photos], Path("out"))
    Path("weights.onnx").write_bytes(b"no graph")
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    with pytest.raises(WeightsError, match=r"weights\.onnx: cannot be loaded"):
        predict(Path("weights.onnx"), [photos / "a.png"], Path("other"))


def test_the_command_says_what_was_done(run: Path, photos: Path) -> None:
    for head in ("3 frames predicted\n", "0 frames predicted, 3 were there before\n"):
        done = CliRunner().invoke(main, ["predict", str(run), str(photos), "--out", "out"])
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith(f"{head}1 could not be read:\n  bad: bad.jpg: not an image")
        made = ("labels", "overlays", "legend.png", "predictions.json")
        assert done.stdout.splitlines()[-4:] == [str(Path("out", one).absolute()) for one in made]


@pytest.mark.slow
def test_camvid_is_predicted_from_a_folder_and_a_video(camvid_run: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "camvid" / "val").iterdir())[:6]
    shown = [read_image(path) for path in files]
    Path("frames").mkdir()
    for path, image in zip(files, shown, strict=True):
        Image.fromarray(image).save(f"frames/{path.stem}.png")
    write_film(Path("drive.mp4"), shown, frames_per_second=5)
    made = export_student(camvid_run, "torch.export", ExportOptions(frames=2))
    still = predict(camvid_run, [Path("frames")], Path("still"))
    moving = predict(made.path, [Path("drive.mp4")], Path("moving"))
    assert (still.predicted, moving.predicted) == (6, 6)
    right = alike = total = 0
    for number, path in enumerate(files):
        labels = pixels(f"still/labels/{path.stem}.png")
        truth = pixels(shared_data / "camvid" / "valannot" / f"{path.stem}.png")
        of_video = pixels(f"moving/labels/drive/{number:06d}.png")
        known = truth < 11
        right, total = right + int((labels == truth)[known].sum()), total + int(known.sum())
        alike += int((labels == of_video)[known].sum())
    assert right > 0.85 * total  # weights that know CamVid
    assert alike > 0.9 * total  # an MP4 is lossy
