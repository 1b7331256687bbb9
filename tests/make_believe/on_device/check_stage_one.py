"""Stage one on the make-believe device: every kind of teacher, learnt flow, and a whole build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from make_believe.record import RECORD
from pydantic import TypeAdapter
from stages.models.teachers.test_every_teacher import FEATURES_ALONE, FRAMES, SAMPLES

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.flow.raft_small.network import RaftSmall
from stillroom.stages.models.teachers.families import TEACHERS, TeacherConfig

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.models.teacher import Teacher


TEACHER_BATCHES = 8  # of two, in the shards of four of 10 and of 6 frames


def teacher_on(device: str, section: dict[str, Any]) -> Teacher:
    return build_teacher(TypeAdapter(TeacherConfig).validate_python({**section, "device": device}))


@pytest.mark.parametrize("kind", [kind for kind in TEACHERS if kind not in FEATURES_ALONE])
def test_every_kind_of_teacher_says_the_same(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    if kind == "onnx":
        pytest.skip("onnxruntime's own CUDA provider runs it, and not torch")
    torch.manual_seed(1)
    monkeypatch.syspath_prepend(tmp_path)
    section = {"kind": kind, "classes": 5, **SAMPLES[kind](tmp_path, 5)}
    here, there = teacher_on("cpu", section), teacher_on("cuda", section)
    expected, found = here(FRAMES), there(FRAMES)
    assert found.keys() == expected.keys()
    for name, grid in found.items():
        assert grid.device.type == "cuda"
        torch.testing.assert_close(grid.cpu(), expected[name], rtol=1e-4, atol=1e-5)
    for precision in ("float16", "bfloat16"):
        half = teacher_on("cuda", {**section, "precision": precision})(FRAMES)
        assert {grid.dtype for grid in half.values()} == {torch.float32}
        error = (half["logits"].cpu() - expected["logits"]).abs().max()
        assert 0 < error < 0.1 * expected["logits"].abs().max()


def test_learnt_flow_waits_once_for_its_frames() -> None:
    torch.manual_seed(0)
    network = RaftSmall().eval().requires_grad_(False)
    first, second = 2 * torch.rand(2, 1, 3, 64, 96) - 1
    with torch.no_grad():
        expected = network(first, second, 3)
        network.to("cuda")
        first, second = first.to("cuda"), second.to("cuda")
        RECORD.clear()
        found = network(first, second, 3)
    assert torch.equal(found.cpu(), expected)
    assert sum(RECORD.waits.values()) == 1, RECORD.waits  # that of cpu() above


def test_a_build_writes_the_arrays_that_the_cpu_writes(run_file: Path) -> None:
    def objects(device: str) -> dict[str, bytes]:
        path = run_file.parent / f"{device}.cache"
        changes = [f"teachers.tiny.device={device}", f"cache.path={path}"]
        RECORD.clear()
        report = build(load_run(run_file, changes))
        assert report.bad_frames == 0
        if device == "cuda":
            assert {"decode", "model", "encode", "commit"} <= set(RECORD.ranges)
            # Once the model has been looked at, two waits a batch, when the next is under way: for
            # its seconds, and for the one copy that all of its arrays come by.
            assert not [where for where in RECORD.waits if where.startswith("stages/cache")]
            waited = [n for where, n in RECORD.late.items() if "device_copy" in where]
            assert waited == [TEACHER_BATCHES] * 2
        files = [f for f in path.rglob("c.*") if f.is_file()]
        return {str(file.relative_to(path)): file.read_bytes() for file in files}

    expected, found = objects("cpu"), objects("cuda")
    assert any("tiny/logits" in name for name in expected)
    assert found == expected
