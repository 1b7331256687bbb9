"""`stillroom eval --video`, from the command line; and the columns that it gives a sweep."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from stillroom.cli import main
from stillroom.pipeline.run_file.loading import load_run, parse_run
from stillroom.pipeline.sweep import tables
from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.sweep.rows import rows_of
from stillroom.pipeline.sweep.run import Hooks, plan_sweep, run_sweep
from stillroom.pipeline.video import compute_clip_flow
from stillroom.storage_specs.errors import ConfigError

VIDEO = {"source": "film", "flow": "dis", "clips": 2, "frames": 4, "path": "flows"}


@pytest.fixture
def run_document(run_document: dict[str, Any]) -> dict[str, Any]:
    """With clips to follow, and a second teacher."""
    run_document["sources"]["film"] = {
        "kind": "demo", "clips": 3, "frames_per_clip": 5, "height": 64, "width": 96, "seed": 3,
        "labelled": False,
    }  # fmt: skip
    other = {**run_document["teachers"]["tiny"], "options": {"seed": 4}}
    run_document["teachers"]["other"] = other
    run_document["flows"] = {"dis": {"kind": "dis", "preset": "fast"}}
    run_document["evaluate"]["video"] = dict(VIDEO)
    run_document["cache"]["canvas"] = [64, 96]
    return run_document


def stillroom(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(*arguments: Any) -> dict[str, Any]:
    done = stillroom(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def flow_files(folder: str = "flows") -> dict[str, tuple[int, int]]:
    """Inode and time of every kept flow: a file that is written again gets others."""
    stats = {path.name: path.stat() for path in Path(folder).rglob("*.npy.gz")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_a_teacher_is_followed_along_clips(run_file: Path) -> None:
    found = said("eval", "teacher:tiny", run_file, "--video")
    assert 0 <= found["miou"] <= 1
    video = found["video"]
    assert video.keys() == {
        "source", "flow", "occlusion", "pairs", "consistency", "stability", "frame_error", "clips",
        "skipped", "left_out",
    }  # fmt: skip
    assert (video["source"], video["flow"], video["pairs"]) == ("film", "dis", 6)
    assert [clip["name"] for clip in video["clips"]] == ["clip0000", "clip0001"]
    for part in (video, *video["clips"]):
        for scores in (part["consistency"]["whole"], part["consistency"]["visible"]):
            assert 0 < scores["miou"] <= 1
            assert 0 < scores["pixels"] <= 1
        assert part["stability"] >= 0
    assert len(video["clips"][0]["consistency"]["curve"]) == 3
    assert len(flow_files()) == 12  # there and back

    before = flow_files()
    again = said("eval", "teacher:tiny", run_file, "--video")
    assert again["video"] == video
    assert flow_files() == before
    said("eval", "teacher:other", run_file, "--video")
    assert flow_files() == before

    plain = said("eval", "teacher:tiny", run_file)
    assert plain["video"] is None
    assert plain["miou"] == found["miou"]


def test_without_a_check_of_what_is_hidden_there_is_one_flow_a_pair(run_file: Path) -> None:
    set_ = ("--set", "evaluate.video.occlusion=false")
    found = said("eval", "teacher:tiny", run_file, "--video", *set_)
    assert found["video"]["consistency"]["visible"] is None
    assert len(flow_files()) == 6
    shown = stillroom("eval", "teacher:tiny", run_file, "--video", *set_).stdout
    line = next(line for line in shown.splitlines() if " all 2 " in line)
    visible, pixels = line.split()[-6], line.split()[-3]
    assert visible == pixels == "-"


def test_several_models_stand_side_by_side_with_pictures(run_file: Path) -> None:
    arguments = ("eval", "teacher:tiny", "teacher:other", run_file, "--video")
    done = stillroom(*arguments, "--pictures", "drawn", "--sheet", "drawn/sheet.png")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "2 models on street, 10 frames, size: canvas 64x96" in lines
    assert sum(" all 2 " in line for line in lines) == 2
    assert {path.name for path in Path("drawn").iterdir()} == {
        "sheet.png", "consistency.png", "changes.png", "flow.png", "film.mp4",
    }  # fmt: skip
    for name in ("sheet", "consistency", "changes", "flow"):
        with Image.open(f"drawn/{name}.png") as picture:
            assert min(picture.size) > 200
    film = cv2.VideoCapture("drawn/film.mp4")
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3  # the last of four frames has no next one
    found = said(*arguments)
    assert [each["model"] for each in found["models"]] == ["teacher:tiny", "teacher:other"]
    one, other = (each["video"] for each in found["models"])
    assert one["frame_error"] == other["frame_error"]  # along one flow
    assert one["consistency"] != other["consistency"]


def test_pictures_of_a_clip_with_a_hole(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillroom.stages.sources.demo import DemoSource
    from stillroom.storage_specs.errors import FrameError

    load = DemoSource.load

    def torn(source: DemoSource, index: int) -> Any:
        if source.config.frames_per_clip == 5 and index == 2:
            raise FrameError("clip0000_02: torn")
        return load(source, index)

    monkeypatch.setattr(DemoSource, "load", torn)
    set_ = ("--set", "evaluate.video.frames=5", "--set", "evaluate.video.clips=1")
    done = stillroom("eval", "teacher:tiny", run_file, "--video", "--pictures", "drawn", *set_)
    assert done.exit_code == 0, done.stderr
    assert "pairs left out, since a frame is missing, unusable or of another size: 2" in done.stdout
    assert "1 frame could not be used:\n  clip0000_02: clip0000_02: torn" in done.stdout
    film = cv2.VideoCapture("drawn/film.mp4")
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3  # of four that are left
    # where the frame is missing nothing counts as visible: the lower right picture is black
    dark = [(film.read()[1] < 40).mean() for _ in range(3)]
    assert dark[1] > dark[0] + 0.05
    assert dark[1] > dark[2] + 0.05


def test_the_exact_flow_of_the_demo_needs_no_model(run_file: Path) -> None:
    found = said("eval", "teacher:tiny", run_file, "--video", "--set", "evaluate.video.flow=exact")
    assert found["video"]["flow"] == "exact"
    assert 0 < found["video"]["frame_error"] < 0.01
    assert not Path("flows").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--pictures", "x"], "--pictures draws what --video measures"),
        (["--video", "--set", "evaluate={source='street'}"], "add to [evaluate]: video ="),
        (
            ["--video", "--set", "evaluate.video.source=flim"],
            "evaluate.video.source: no source 'flim' in this file; did you mean 'film'?",
        ),
        (
            ["--video", "--set", "evaluate.video.flow=dsi"],
            "evaluate.video.flow: no flow model 'dsi' in this file; did you mean 'dis'?",
        ),
        (["--video", "--set", "evaluate.video.clips=0"], "evaluate.video.clips: "),
        (["--video", "--set", "evaluate.video.frames=1"], "evaluate.video.frames: "),
        (
            ["--video", "--set", "evaluate.video.clips=['clip0009']"],
            "'film' has no clip 'clip0009'; did you mean 'clip0002'",
        ),
        (
            ["--video", "--set", "sources.film.frames_per_clip=1"],
            "no clip of two frames that follow each other; clip0000: it has one frame",
        ),
        (
            ["--video", "--set", "sources.film={kind='images', root='stills'}"],
            "'film' has no clips: its frames do not say",
        ),
        (
            ["--video", "--set", "flows.dis={kind='raft_small', weights='none.pth'}"],
            "none.pth",
        ),
        (
            [
                "--video",
                "--set",
                "sources.film={kind='camvid', root='cam', split='val'}",
                "--set",
                "evaluate.video.flow=exact",
            ],
            '"exact" is for sources that know their flow (kind "demo"), and \'film\' does not',
        ),
        (["teacher:tiny"], "teacher:tiny is named twice"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_anything_is_scored(
    run_file: Path, arguments: list[str], complaint: str
) -> None:
    for folder in ("stills", "cam/val", "cam/valannot"):
        Path(folder).mkdir(parents=True)
        for time in (1, 2):
            Image.new("L", (96, 64)).save(f"{folder}/0001TP_{time}.png")
    done = stillroom("eval", "teacher:tiny", *arguments, run_file)
    assert done.exit_code == 2, done.stdout
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_faults_of_the_section_are_reported_together(run_document: dict[str, Any]) -> None:
    run_document["evaluate"]["video"] = {"source": "nowhere", "flow": "none", "clips": [], "n": 1}
    with pytest.raises(ConfigError) as caught:
        parse_run(run_document, "run.toml")
    for place in ("source: no source", "flow: no flow model", "clips: ", "n: unknown key"):
        assert f"evaluate.video.{place}" in str(caught.value)


@pytest.mark.slow
def test_a_sweep_has_columns_along_clips_and_follows_them_once(
    run_document: dict[str, Any], run_file: Path
) -> None:
    text = (
        'run = "run.toml"\npath = "swept"\nseeds = [0, 1]\nparallel = 2\n'
        'set = { "train.steps" = 2, "train.streams" = { street = { batch = 2 } }, teachers = {}, '
        "terms = [] }\n"
        'variants = { CE = { terms = [{ name = "cross_entropy" }] } }'
    )
    Path("sweep.toml").write_text(text)
    sweep = load_sweep(Path("sweep.toml"))
    followed: list[dict[str, tuple[int, int]]] = []

    def follow(run: Any) -> None:
        assert not Path("swept/ce-seed0").exists()
        compute_clip_flow(run)
        followed.append(flow_files())

    found = run_sweep(plan_sweep(sweep), hooks=Hooks(compute_flow=follow))
    assert not found.failed
    assert len(followed) == 1
    assert len(followed[0]) == 12
    assert flow_files() == followed[0]  # no student has computed a flow
    head, (line,) = tables.summary(sweep, found.rows)
    place = head.index("pixel accuracy") + 1
    assert head[place : place + 4] == ["TC", "TC, visible", "TC, shared", "pixels that stay"]
    records = [json.loads(Path(f"swept/ce-seed{seed}/sweep.json").read_text()) for seed in (0, 1)]
    tc = [each["test"]["video"]["consistency"]["whole"]["miou"] for each in records]
    mean, deviation = sum(tc) / 2, abs(tc[0] - tc[1]) / 2**0.5
    assert line[place] == f"{mean:.4f} ± {deviation:.4f}"
    (row,) = json.loads(Path("swept/results.json").read_text())["rows"]
    assert row["tc"]["mean"] == pytest.approx(mean)
    assert row["stability"]["n"] == 2
    assert (
        "| TC | TC, visible | TC, shared | pixels that stay | Tsb |"
        in Path("swept/table.md").read_text()
    )

    # what is measured otherwise is scored again; where its flow is kept does not matter
    assert not plan_sweep(sweep).pending
    for change in ("evaluate.video.frames=3", "flows.dis.preset='medium'"):
        states = plan_sweep(load_sweep(Path("sweep.toml"), [change])).states
        assert {state.kind for state in states.values()} == {"trained"}
    elsewhere = load_sweep(Path("sweep.toml"), ["evaluate.video.path='other'"])
    assert not plan_sweep(elsewhere).pending


def test_a_sweep_without_clips_has_no_such_columns(
    run_document: dict[str, Any], run_file: Path
) -> None:
    Path("sweep.toml").write_text('run = "run.toml"\npath = "swept"\nvariants = { a = {} }')
    sweep = load_sweep(Path("sweep.toml"), ["evaluate={source='street'}"])
    test = {"miou": 0.5, "pixel_accuracy": 0.5, "classes": [], "video": None}
    train = {"seconds": 1.0, "steps": 1, "wait_seconds": 0.0}
    rows = rows_of(sweep, {sweep.students[0]: {"test": test, "train": train}})
    assert rows[-1].spread("tc") is None
    assert "TC" not in tables.summary(sweep, rows)[0]


@pytest.mark.slow
def test_the_camvid_teacher_along_real_frames(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = Path(__file__).resolve().parents[2] / "examples" / "camvid.toml"
    text = example.read_text().replace("../shared/data", shared_data.as_posix())
    Path("run.toml").write_text(text)
    video = "evaluate.video={source='camvid_val', flow='dis', frames=10}"
    overrides = ("--set", "flows.dis.kind='dis'", "--set", video)
    assert load_run(Path("run.toml"), [overrides[1], video]).flows
    found = said("eval", "teacher:fpn", "run.toml", "--video", "--limit", 2, *overrides)["video"]
    assert (found["pairs"], found["clips"][0]["name"]) == (9, "0016E5")
    whole, visible = found["consistency"]["whole"], found["consistency"]["visible"]
    assert 0.77 < whole["miou"] < visible["miou"] < 0.87
    assert 0.96 < visible["pixels"] < 0.99
    assert 0.8 < visible["counted"] < whole["counted"] < 1
    assert 0.0003 < found["stability"] < 0.002
    assert len(flow_files(os.fspath(Path("runs", "flows")))) == 18
