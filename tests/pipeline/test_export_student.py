"""Exported students say what their checkpoints say, and files that are none are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stillroom.cli import main
from stillroom.pipeline.export_student import ExportOptions, export_student
from stillroom.pipeline.open_model import open_trained
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.evaluate.predict import StudentPredictor
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.exported.about import About
from stillroom.stages.models.exported.comparison import Comparison, compare
from stillroom.stages.models.exported.formats import FORMATS, pack_student
from stillroom.stages.models.exported.student_program import StudentProgram
from stillroom.stages.models.students.families import build_student
from stillroom.stages.models.students.smp import SmpStudentConfig
from stillroom.stages.models.teachers.onnx import OnnxTeacherConfig
from stillroom.stages.pictures.palette import palette
from stillroom.stages.sources.open import open_source
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import (
    ArtifactError,
    CacheIncomplete,
    ConfigError,
    StillroomError,
    WeightsError,
)

every_format = pytest.mark.parametrize("to", FORMATS)


@pytest.fixture(autouse=True)
def _packages(request: pytest.FixtureRequest) -> None:
    if "onnx" in request.node.name:
        for package in ("onnx", "onnxruntime"):
            pytest.importorskip(package, reason="the extra [onnx] is not installed")


def noise(count: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), np.uint8)


@every_format
def test_an_export_says_what_eval_scores(run: Path, to: str) -> None:
    made = export_student(run, to, ExportOptions(frames=4))
    assert made.path == run / f"student{FORMATS[to].suffix}"
    assert made.bytes == made.path.stat().st_size
    assert made.comparison is not None
    assert (made.comparison.frames, made.comparison.pixels) == (4, 4 * 32 * 48)

    opened = FORMATS[to].open(made.path, "cpu")
    trained = open_trained(run)
    assert opened.about.classes == trained.classes
    assert np.array_equal(opened.about.colours, palette(trained.classes))
    for count in (1, 3):
        frames = noise(count, 32, 48)
        logits, stride = StudentPredictor(trained.student)(frames)
        expected = upsample_logits(logits, stride, (32, 48))
        found = opened.run(torch.from_numpy(frames))
        assert found["labels"].dtype == torch.uint8
        assert found["logits"].dtype == torch.float32
        torch.testing.assert_close(found["logits"], expected, atol=1e-5, rtol=0)
        assert torch.equal(found["labels"], expected.argmax(1).to(torch.uint8))


@every_format
def test_frames_of_another_size_are_fitted_into_the_canvas_inside(run: Path, to: str) -> None:
    made = export_student(run, to, ExportOptions(size=(96, 96), frames=2))
    opened = FORMATS[to].open(made.path, "cpu")
    frames = torch.from_numpy(noise(2, 96, 96))
    found = opened.run(frames)
    # 96x96 in a canvas of 32x48: 32x32 of it, by torch's own smooth resizing
    small = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", antialias=True
    )
    canvas = torch.zeros(2, 3, 32, 48)
    canvas[..., :32] = small
    student = open_trained(run).student.eval()
    with torch.no_grad():
        whole = upsample_logits(student(canvas).logits, student.stride, (32, 48))
    expected = torch.nn.functional.interpolate(whole[..., :32], (96, 96), mode="bilinear")
    torch.testing.assert_close(found["logits"], expected, atol=1e-4, rtol=0)
    assert torch.equal(found["labels"], expected.argmax(1).to(torch.uint8))


def test_an_onnx_export_is_a_teacher(run: Path) -> None:
    made = export_student(run, "onnx")
    section = {"kind": "onnx", "path": made.path, "normalize": False, "scale": 1, "pad": 1}
    classes = made.about.classes
    teacher = build_teacher(OnnxTeacherConfig(**section, classes=classes), (32, 48))
    frames = noise(2, 32, 48)
    expected = StudentProgram(open_trained(run).student, (32, 48), (32, 48))(
        torch.from_numpy(frames)
    )
    assert teacher.strides["logits"] == 1
    torch.testing.assert_close(teacher(frames)["logits"], expected["logits"], atol=1e-4, rtol=0)


def test_a_checkpoint_is_exported_beside_a_run_that_goes_on(run: Path) -> None:
    trained = export_student(run, "safetensors")
    last = export_student(
        run / "last.pt", "safetensors", ExportOptions(out=Path("new/last.safetensors"))
    )
    one, two = (FORMATS["safetensors"].open(each.path, "cpu") for each in (trained, last))
    frames = torch.from_numpy(noise(1, 32, 48))
    assert torch.equal(one.run(frames)["logits"], two.run(frames)["logits"])


def test_what_differs_is_named_and_refused(run: Path) -> None:
    program = StudentProgram(open_trained(run).student, (32, 48), (32, 48))
    frames = list(noise(3, 32, 48))

    def shifted(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        made = program(batch)
        return {"labels": (made["labels"] + 1) % 9, "logits": made["logits"] + 0.5}

    found = compare(program, shifted, frames)
    assert found.largest_difference == pytest.approx(0.5, abs=1e-5)
    assert found.differing_labels == found.pixels == 3 * 32 * 48
    with pytest.raises(ArtifactError, match=r"up to 0\.5 .*at \d+ of 4608 pixels"):
        found.demand_equal()
    assert 4000 < found.wrong_labels <= 4608  # but for those that were level
    good = Comparison(20, 1_000_000, 9e-5, 1.0, 10, 0)
    good.demand_equal()
    replace(good, largest_difference=2.5e-3, largest_logit=26.0).demand_equal()
    for bad in (
        replace(good, largest_difference=1.1e-4),
        replace(good, largest_difference=float("nan")),
        replace(good, wrong_labels=1),
    ):
        with pytest.raises(ArtifactError, match="nothing was written"):
            bad.demand_equal()


def test_a_file_that_differs_is_not_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FORMATS["safetensors"]

    def pack(program: StudentProgram, about: Any) -> bytes:
        with torch.no_grad():
            program.student.network.classifier.bias[0] += 1  # type: ignore[union-attr, operator]
            content = whole.pack(program, about)
            program.student.network.classifier.bias[0] -= 1  # type: ignore[union-attr, operator]
        return content

    monkeypatch.setitem(FORMATS, "safetensors", replace(whole, pack=pack))
    with pytest.raises(ArtifactError, match="differs from its checkpoint"):
        export_student(run, "safetensors")
    assert not (run / "student.safetensors").exists()


def test_without_onnxruntime_a_graph_is_written_and_not_compared(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], needs="no_such_package"))
    made = export_student(run, "onnx")
    assert made.comparison is None
    assert made.path.exists()


def test_frames_come_from_the_run_or_from_a_folder(run: Path, tmp_path: Path) -> None:
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"kind": "demo"', '"kind": "no such"'))
    with pytest.raises(ConfigError, match=r"'street', to compare on.*\n[\s\S]*--images FOLDER"):
        export_student(run, "safetensors")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "bad.png").write_bytes(b"no picture")
    options = ExportOptions(images=photos)
    with pytest.raises(ConfigError, match="none of 1 frames to compare on could be read"):
        export_student(run, "safetensors", options)
    Image.fromarray(noise(1, 70, 50)[0]).save(photos / "good.png")
    made = export_student(run, "safetensors", options)
    assert made.comparison is not None
    assert made.comparison.frames == 1


def test_the_command_knows_every_format() -> None:
    (to,) = (option for option in main.commands["export"].params if option.name == "to")
    assert list(to.type.choices) == [*FORMATS, "encoder"]  # type: ignore[attr-defined]


def test_users_mistakes_are_named(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a name ending in \.pt2"):
        export_student(run, "torch.export", ExportOptions(out=Path("x.onnx")))
    with pytest.raises(ConfigError, match="this is the run's own file"):
        export_student(run, "safetensors", ExportOptions(out=run / "model.safetensors"))
    with pytest.raises(ConfigError, match="is no run folder"):
        export_student(Path(), "onnx")
    (run / "model.safetensors").rename("model.safetensors")
    with pytest.raises(CacheIncomplete, match="has not finished"):
        export_student(run, "onnx")


@every_format
def test_files_that_are_no_exports_are_refused(run: Path, to: str) -> None:
    made = export_student(run, to, ExportOptions(frames=1))
    content = made.path.read_bytes()
    opener, bad = FORMATS[to].open, Path(f"bad{FORMATS[to].suffix}")
    with pytest.raises(WeightsError, match=r"bad.*(cannot be|No such file)"):
        opener(bad, "cpu")
    for damaged in (b"", content[: len(content) // 2], b"no such file"):
        bad.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"bad\."):
            opener(bad, "cpu")
    renamed = content.replace(b"stillroom_export", b"stillroom_import")
    bad.write_bytes(renamed)
    with pytest.raises(StillroomError):
        opener(bad, "cpu")


def test_a_file_of_weights_alone_is_no_export(run: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected the metadata of `stillroom export`.*none"):
        FORMATS["safetensors"].open(run / "model.safetensors", "cpu")


def test_a_network_that_a_format_cannot_say_is_refused(run: Path) -> None:
    class Branching(torch.nn.Module):
        size = (32, 48)

        def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
            if float(frames.float().mean()) > 9:  # depends on the pixels
                frames = frames + 1
            return {"labels": frames[..., 0], "logits": frames.float()}

    with pytest.raises(ConfigError, match=r"cannot be exported to torch\.export \("):
        pack_student(Branching(), None, "torch.export")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch.export", "onnx"])
@pytest.mark.parametrize(
    "architecture", ["PSPNet", "DeepLabV3Plus", "UPerNet", "Unet", "Segformer"]
)
def test_networks_of_smp_are_exported(architecture: str, to: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    section = {"kind": "smp", "architecture": architecture, "encoder": "resnet18"}
    student = build_student(SmpStudentConfig(**section), 5)
    program = StudentProgram(student, (88, 120), (88, 120))  # pools of 6 do not divide the grid
    about = About(tuple("abcde"), ((0, 0, 0),) * 5, (88, 120), (88, 120), section)
    path = tmp_path / f"student{FORMATS[to].suffix}"
    path.write_bytes(pack_student(program, about, to))
    found = compare(program, FORMATS[to].open(path, "cpu").run, noise(2, 88, 120))
    found.demand_equal()
    assert found.pixels == 2 * 88 * 120
    assert found.largest_difference <= 1e-4 * max(1.0, found.largest_logit)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch.export", "onnx"])
def test_camvid_is_exported_to_1e_4_and_to_the_last_label(camvid_run: Path, to: str) -> None:
    made = export_student(camvid_run, to)
    assert made.comparison is not None
    assert (made.comparison.frames, made.comparison.pixels) == (20, 20 * 360 * 480)
    assert made.comparison.largest_logit > 10  # a student that knows its classes
    assert made.comparison.largest_difference <= 1e-4

    program = StudentProgram(open_trained(camvid_run).student, (360, 480), (360, 480))
    opened = FORMATS[to].open(made.path, "cpu")
    source = open_source(load_run(Path("run.toml")).sources["val"])
    for index in range(0, len(source), 5)[:20]:
        frames = torch.from_numpy(source.load(index).image)[None]
        with torch.no_grad():
            expected, found = program(frames), opened.run(frames)
        first, second = expected["logits"].topk(2, dim=1).values.unbind(1)
        level = first - second <= 2e-4  # what a difference of 1e-4 in each may turn round
        assert torch.equal(found["labels"][~level], expected["labels"][~level])
        assert level.float().mean() < 1e-3


def test_the_command_prints_the_largest_difference(run: Path) -> None:
    done = CliRunner().invoke(main, ["export", str(run), "--to", "safetensors", "--frames", "2"])
    assert done.exit_code == 0, done.stderr
    head, compared, logits, labels = done.stdout.splitlines()
    assert head.startswith(f"{run.resolve()}/student.safetensors: ")
    assert head.endswith("9 classes, frames of 32x48")
    assert compared == "compared with the checkpoint on 2 frames:"
    assert "largest difference of logits 0.0e+00, largest logit " in logits
    assert labels == "  0 of 3,072 labels differ, 0 where two classes are not level"
