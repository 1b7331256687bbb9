"""`stillroom init`: what it finds, and that what it writes runs."""

from __future__ import annotations

import errno
import json
import re
import shutil
import tomllib
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from data_set_trees import OTHERS, TREES, pack, plant
from PIL import Image

from stillroom.cli import main
from stillroom.pipeline.first_run import write_first_run
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def stillroom(*words: str) -> Result:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, f"{words}: {done.output}"
    return done


def save(values: np.ndarray[Any, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def photo(size: tuple[int, int] = (40, 64)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)


def mask(*ids: int) -> np.ndarray[Any, Any]:
    return np.resize(np.array(ids, np.uint8), (40, 64))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "voc" else pytest.mark.slow)
        for kind in TREES | OTHERS
    ],
)
def test_a_public_data_set_is_found_built_trained_on_and_scored(
    kind: str, run_file: Path, folder: Path
) -> None:
    plant(kind, folder / "data")
    found = json.loads(stillroom("init", "data", "--out", "first.toml", "--json").stdout)
    known = {"pascal_context_60": "pascal_context"}.get(kind, kind)  # one layout
    train, val = found["sources"]["train"], found["sources"]["val"]
    assert (train["kind"], train["frames"]) == (known, 3)
    assert (val["kind"], val["frames"]) == (known, 1)
    assert found["canvas"] == [64, 96]
    small = '--set=student={kind="python", target="tiny_networks:student"}'
    stillroom("cache", "build", "first.toml", small)
    trained = stillroom("train", "first.toml", small, "--set", "train.steps=1")
    assert "trained: 1 steps" in trained.stdout
    scores = stillroom("eval", "runs/first", "first.toml", small, "--size", "own", "--json")
    assert json.loads(scores.stdout)["frames"] == 1


def test_folders_beside_a_public_data_set_are_named_once(folder: Path) -> None:
    plant("voc", folder / "data/VOCdevkit/VOC2012")
    for name in "abcdefg":
        (folder / "data" / name).mkdir()
    found = write_first_run([folder / "data"], folder / "run.toml").sources.values()
    remarks = [remark for each in found for remark in each.remarks if "not looked" in remark]
    assert len(remarks) == 1
    assert remarks[0].startswith("not looked at: a, b, c, d, e and 2 more; name a folder")
    itself = write_first_run([folder / "data/VOCdevkit"], folder / "own.toml").sources.values()
    assert [len(each.remarks) for each in itself] == [1, 0]


@pytest.mark.slow
def test_the_student_that_it_writes_takes_a_step(folder: Path) -> None:
    plant("voc", folder / "data")
    stillroom("init", "data")
    stillroom("cache", "build", "run.toml")
    trained = stillroom("train", "run.toml", "--set", "train.steps=1")
    assert "trained: 1 steps" in trained.stdout
    assert (folder / "runs/run/model.safetensors").is_file()


def test_masks_in_folders_of_splits(folder: Path) -> None:
    for split, ids in {"train": (0, 1, 4), "test": (0, 2, 255)}.items():
        for name in "ab":
            save(photo(), folder / f"town/{split}/images/{name}.png")
            save(mask(*ids), folder / f"town/{split}/labels/{name}.png")
    run = write_first_run([folder / "town"], folder / "run.toml")
    assert {name: found.role for name, found in run.sources.items()} == {
        "train": "train", "test": "test",
    }  # fmt: skip
    assert run.sources["train"].settings["classes"] == 5
    assert run.sources["train"].remarks[0] == "ids 0, 1, 4 in 2 masks"
    assert run.canvas == (40, 64)
    loaded = load_run(folder / "run.toml")
    assert loaded.evaluate is not None
    assert loaded.evaluate.source == "test"


def test_splits_below_images_and_masks_and_photos_beside_them(folder: Path) -> None:
    for split in ("training", "validation"):
        save(photo(), folder / f"town/imgs/{split}/a.png")
        save(mask(0, 1), folder / f"town/annotations/{split}/a.png")
    save(photo((50, 30)), folder / "photos/deep/b.jpg")
    # Whatever the order: the first stream is the one whose passes are epochs.
    run = write_first_run([folder / "photos", folder / "town"], folder / "run.toml")
    assert list(run.sources) == ["train", "val", "unlabelled"]
    assert run.frames == {"train": 1, "val": 1, "unlabelled": 1}
    # Without a teacher there is nothing to learn from photos: their stream waits for one.
    written = (folder / "run.toml").read_text()
    loaded = load_run(folder / "run.toml")
    assert loaded.train is not None
    assert set(loaded.train.streams) == {"train"}
    assert loaded.cache.sources == ("train", "unlabelled")
    document = tomllib.loads(re.sub(r"^#(?=\S)", "", written, flags=re.MULTILINE))
    assert set(document["train"]["streams"]) == {"train", "unlabelled"}
    assert document["teachers"]["heavy"]["kind"] == "hf"
    assert document["terms"][1] == {"name": "pixelwise_kl", "teacher": "heavy"}


def test_of_one_labelled_folder_a_fifth_is_scored(folder: Path) -> None:
    for number in range(10):
        save(photo(), folder / f"town/images/{number}.png")
        save(mask(0, 255), folder / f"town/masks/{number}.png")
    run = write_first_run([folder / "town"], folder / "run.toml")
    assert run.frames == {"train": 8, "val": 2}
    loaded = load_run(folder / "run.toml")
    assert loaded.sources["train"].skip == loaded.sources["val"].take == 2
    assert loaded.sources["train"].mapping == {0: 0, 255: 1}
    assert loaded.sources["train"].ignore == ()


def test_images_alone_ask_for_a_teacher(folder: Path) -> None:
    save(photo((1500, 3000)), folder / "photos/a.png")
    said = stillroom("init", "photos").stdout
    assert "next: with a teacher filled in, stillroom cache build run.toml" in said
    with pytest.raises(ConfigError, match="'FOLDER' is no local folder"):
        load_run(folder / "run.toml")
    (folder / "FOLDER").mkdir()
    run = load_run(folder / "run.toml")
    assert run.cache.canvas == (512, 1024)
    assert [term.teacher for term in run.terms] == ["heavy", "heavy"]


def test_videos_are_a_source(folder: Path) -> None:
    (folder / "films").mkdir()
    writer = cv2.VideoWriter(
        str(folder / "films/a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 40)
    )
    for _ in range(4):
        writer.write(photo())
    writer.release()
    for given in ("films", "films/a.avi"):
        run = write_first_run([folder / given], folder / f"{len(given)}.toml")
        assert run.sources["unlabelled"].settings == {"kind": "video", "root": str(folder / given)}
        assert run.frames == {"unlabelled": 4}
        assert run.canvas == (40, 64)


def test_colour_images_with_depth_maps_are_a_source(folder: Path) -> None:
    for split in ("test", "train"):
        for name in "12":
            save(photo(), folder / f"room/{split}/color/{name}.png")
            save(np.full((40, 64), 900, np.uint16), folder / f"room/{split}/depth/{name}.png")
    (found,) = write_first_run([folder / "room"], folder / "run.toml").sources.values()
    assert found.settings == {"kind": "rgbd", "root": str(folder / "room/train")}
    assert found.remarks[1].startswith("not taken: test; ")
    (found,) = write_first_run([folder / "room/test"], folder / "two.toml").sources.values()
    assert found.settings["root"] == str(folder / "room/test")
    assert len(found.remarks) == 1


def test_sparse_ids_beyond_a_byte_are_mapped(folder: Path) -> None:
    save(photo(), folder / "town/images/a.png")
    save(np.resize(np.array([7, 1000, 2000], np.uint16), (40, 64)), folder / "town/masks/a.png")
    run = write_first_run([folder / "town"], folder / "run.toml")
    assert run.sources["train"].settings["mapping"] == {7: 0, 1000: 1, 2000: 2}
    assert load_run(folder / "run.toml").sources["train"].mapping == {7: 0, 1000: 1, 2000: 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: None, "data is neither a folder nor a video"),
        (lambda data: data.mkdir(), "no data set that is known"),
        (lambda data: pack("webdataset", data), "its shards are read by kind = 'webdataset'"),
        (lambda data: pack("hf_dataset", data), "its shards are read by kind = 'hf_dataset'"),
        (lambda data: save(photo(), data / "masks/a.png") or save(photo(), data / "images/a.png"),
         "no class ids in any of 1 files"),
        (lambda data: save(mask(255), data / "masks/a.png") or save(photo(), data / "images/a.png"),
         "no pixel has a class, ids 255 in 1 masks, and 255 means none"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(make: Any, message: str, folder: Path) -> None:
    make(folder / "data")
    with pytest.raises(ConfigError, match=message):
        write_first_run([folder / "data"], folder / "run.toml")
    assert not (folder / "run.toml").exists()


@pytest.mark.parametrize(
    ("kind", "images", "labels"),
    [
        ("voc", "JPEGImages", "SegmentationClass"),
        ("cityscapes", "leftImg8bit", "gtFine"),
        ("cityscapes", "leftImg8bit/train/ulm", "gtFine/train"),
        ("mapillary", "training/images", "validation/labels"),
    ],
)
def test_a_part_of_a_data_set_names_its_whole(
    kind: str, images: str, labels: str, folder: Path
) -> None:
    whole = folder / "data"
    plant(kind, whole)
    (found,) = write_first_run([whole / images], folder / "run.toml").sources.values()
    assert found.settings["kind"] == "images"
    layout = f"{whole} has the layout of {kind}"
    assert found.remarks[1] == f"{layout}; give that folder to learn from its labels"
    with pytest.raises(ConfigError, match=f"{labels} holds labels, not images; {layout}: give"):
        write_first_run([whole / labels], folder / "labels.toml")


def test_a_data_set_without_its_labels_is_known_by_its_folders(folder: Path) -> None:
    plant("cityscapes", folder / "data")
    shutil.rmtree(folder / "data/gtFine")
    for given in ("data", "data/leftImg8bit"):
        (found,) = write_first_run([folder / given], folder / f"{len(given)}.toml").sources.values()
        assert found.remarks[1].endswith("layout of cityscapes, but gtFine/train is not there")


def test_masks_alone_are_no_photos(folder: Path) -> None:
    for name in "ab":
        save(mask(0, 1, 255), folder / f"mine/{name}.png")
    with pytest.raises(
        ConfigError, match="mine: these look like masks, not images; give the folder"
    ):
        write_first_run([folder / "mine"], folder / "run.toml")


def test_flat_pictures_are_photos(folder: Path) -> None:
    save(np.zeros((40, 64, 3), np.uint8), folder / "mine/night.png")
    (found,) = write_first_run([folder / "mine"], folder / "run.toml").sources.values()
    assert found.settings["kind"] == "images"


def test_a_mask_that_is_cut_off_is_counted_and_stops_nothing(folder: Path) -> None:
    for name in "ab":
        save(photo(), folder / f"town/images/{name}.png")
        save(mask(0, 1), folder / f"town/masks/{name}.png")
    whole = (folder / "town/masks/b.png").read_bytes()
    (folder / "town/masks/b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "town/images/b.png").write_bytes(b"no image")
    run = write_first_run([folder / "town"], folder / "run.toml")
    remark = run.sources["train"].remarks[0]
    assert remark.startswith("ids 0, 1 in 1 masks; 1 cannot be used, as ")
    assert "b.png" in remark
    assert run.canvas == (40, 64)


def test_ids_with_gaps_are_said(folder: Path) -> None:
    save(photo(), folder / "town/images/a.png")
    save(mask(1, 5, 90), folder / "town/masks/a.png")
    run = write_first_run([folder / "town"], folder / "run.toml")
    assert run.sources["train"].settings["classes"] == 91
    assert "a `mapping` keeps those that are used" in run.sources["train"].remarks[1]


def test_a_place_that_takes_no_file_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(photo(), folder / "photos/a.png")
    (folder / "file").write_text("")
    done = CliRunner().invoke(main, ["init", "photos", "--out", "file/run.toml"])
    assert done.exit_code == 2
    assert "error: file/run.toml: the run file cannot be written" in done.stderr

    def full(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text[:10].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_first_run([folder / "photos"], folder / "run.toml")
    assert not (folder / "run.toml").exists()


def test_a_file_that_is_there_is_not_written_over(folder: Path) -> None:
    save(photo(), folder / "photos/a.png")
    (folder / "run.toml").write_text("mine")
    done = CliRunner().invoke(main, ["init", "photos"])
    assert done.exit_code == 2
    assert "run.toml is there already; give --out another name" in done.stderr
    assert (folder / "run.toml").read_text() == "mine"


def test_real_samples_are_recognised(shared_data: Path, folder: Path) -> None:
    run = write_first_run([shared_data / "camvid", shared_data / "coco"], folder / "run.toml")
    kinds = {name: found.settings["kind"] for name, found in run.sources.items()}
    assert kinds == {
        "train": "camvid", "val": "camvid", "test": "camvid",
        "train_2": "coco_panoptic", "val_2": "coco_panoptic",
    }  # fmt: skip
    assert run.canvas == (360, 480)
