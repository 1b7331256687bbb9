from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float()
WEIGHT = np.random.default_rng(1).normal(0, 0.1, (5, 3, 4, 4)).astype(np.float32)
ANY = ("batch", 3, "height", "width")


@pytest.fixture
def graph(tmp_path: Path) -> Any:
    """Write a graph of one convolution of stride 4, of a shape, order and type of input."""
    onnx = pytest.importorskip("onnx", reason="onnx, of the tests, is not installed")
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    from onnx import TensorProto, helper, numpy_helper

    def write(
        shape: tuple[int | str, ...] = ANY,
        kind: str = "FLOAT",
        outputs: tuple[str, ...] = ("scores",),
        *,
        argmax: bool = False,
        data: str | None = None,
    ) -> Path:
        last = shape[3] == 3
        nodes, at = [], "images"
        if last:
            nodes.append(helper.make_node("Transpose", [at], ["first"], perm=[0, 3, 1, 2]))
            at = "first"
        if kind != "FLOAT":
            nodes.append(helper.make_node("Cast", [at], ["floats"], to=TensorProto.FLOAT))
            at = "floats"
        end = "made" if last or argmax else outputs[0]
        nodes.append(helper.make_node("Conv", [at, "weight"], [end], strides=[4, 4]))
        if last:
            nodes.append(helper.make_node("Transpose", [end], [outputs[0]], perm=[0, 2, 3, 1]))
        if argmax:
            nodes.append(helper.make_node("ArgMax", [end], [outputs[0]], axis=1))
        nodes += [helper.make_node("Relu", [at], [name]) for name in outputs[1:]]
        made = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("images", getattr(TensorProto, kind), shape)],
            [
                helper.make_tensor_value_info(
                    name, TensorProto.INT64 if argmax else TensorProto.FLOAT, [None] * 4
                )
                for name in outputs
            ],
            [numpy_helper.from_array(WEIGHT, "weight")],
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 10
        path = tmp_path / "net.onnx"
        onnx.save(
            model,
            path,
            save_as_external_data=data is not None,
            location=data,
            size_threshold=0,
        )
        return path

    return write


def config(path: Path, **changes: Any) -> TeacherConfig:
    section = {"kind": "onnx", "path": path, "classes": 5, "device": "cpu", "normalize": False}
    section["scale"] = 1
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def expected() -> torch.Tensor:
    return torch.nn.functional.conv2d(PIXELS, torch.from_numpy(WEIGHT), stride=4)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (ANY, "FLOAT"),
        (("b", "c", "h", "w"), "FLOAT"),
        ((1, 3, "h", "w"), "FLOAT"),
        ((2, 3, 64, 96), "FLOAT"),
        (("b", "h", "w", 3), "FLOAT"),
        ((1, 64, 96, 3), "UINT8"),
        (ANY, "UINT8"),
        (ANY, "FLOAT16"),
    ],
)
def test_a_graph_gives_its_logits_whatever_its_batch_order_and_type(
    graph: Any, shape: tuple[int | str, ...], kind: str
) -> None:
    teacher = build_teacher(config(graph(shape, kind)), (64, 96))
    made = teacher(FRAMES)
    assert teacher.strides == {"logits": 4}
    assert teacher.device == "cpu"
    torch.testing.assert_close(made["logits"], expected(), rtol=1e-4, atol=1e-2)


def test_a_graph_of_one_size_says_which(graph: Any) -> None:
    path = graph((1, 3, 64, 96))
    with pytest.raises(ConfigError, match=r"input of 96x128[\s\S]*set `size = \[64, 96\]`"):
        build_teacher(config(path), (72, 100))
    resized = build_teacher(config(path, size=[64, 96]), (128, 192))
    assert resized.strides == {"logits": 8}
    assert resized(FRAMES.repeat(2, axis=1).repeat(2, axis=2))["logits"].shape == (3, 5, 16, 24)


def test_the_logits_are_named_among_several_outputs(graph: Any) -> None:
    path = graph(outputs=("scores", "other"))
    with pytest.raises(ConfigError, match=r"several outputs.*'scores' \(1, 5, .*'other' \(1, 3"):
        build_teacher(config(path))
    made = build_teacher(config(path, output="scores"))(FRAMES)
    torch.testing.assert_close(made["logits"], expected(), rtol=1e-4, atol=1e-3)
    with pytest.raises(ConfigError, match="no output 'score'"):
        build_teacher(config(path, output="score"))


def test_weights_beside_the_graph_are_part_of_the_identity(graph: Any) -> None:
    path = graph(data="net.onnx.data")
    assert path.with_name("net.onnx.data").stat().st_size == WEIGHT.nbytes
    described = config(path).identity()
    assert list(described["data_sha256"]) == ["net.onnx.data"]
    made = build_teacher(config(path))(FRAMES)
    torch.testing.assert_close(made["logits"], expected(), rtol=1e-4, atol=1e-3)
    data = path.with_name("net.onnx.data")
    data.write_bytes((2 * WEIGHT).tobytes())
    changed = config(path).identity()
    assert changed["file_sha256"] == described["file_sha256"]
    assert changed != described
    data.unlink()
    with pytest.raises(WeightsError, match=r"net\.onnx\.data: cannot be read"):
        config(path).identity()


def test_a_long_name_of_a_file_of_weights_is_read(graph: Any) -> None:
    name = "w" * 180 + ".data"
    assert list(config(graph(data=name)).identity()["data_sha256"]) == [name]


@pytest.mark.parametrize(
    ("made", "keys", "message"),
    [
        ({"shape": ("b", 1, "h", "w")}, {}, "expected images of 3 channels"),
        ({"kind": "INT32"}, {}, r"takes images tensor\(int32\).*expected one input"),
        ({"kind": "UINT8"}, {"scale": 1 / 255}, "pixels as they are: set normalize = false"),
        ({"argmax": True}, {}, "expected logits, got torch.int64.*argmax"),
        ({}, {"classes": 4}, r"expected \(B, 4, h, w\)"),
    ],
)
def test_graphs_of_something_else_are_refused(
    graph: Any, made: dict[str, Any], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_teacher(config(graph(**made), **keys))


def test_precision_is_the_graphs_own(graph: Any) -> None:
    with pytest.raises(ValidationError, match="precision"):
        config(graph(), precision="float16")


def test_a_gpu_that_this_onnxruntime_lacks_is_said(
    graph: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    path = graph()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert build_teacher(config(path, device="auto")).device == "cpu"
    assert "runs on the CPU alone" in caplog.text
    with pytest.raises(ConfigError, match="pip install onnxruntime-gpu"):
        build_teacher(config(path, device="cuda"))


def test_absent_onnxruntime_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[onnx\]"):
        build_teacher(config(tmp_path / "net.onnx"))
