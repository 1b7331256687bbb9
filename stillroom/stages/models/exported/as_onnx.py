"""A student as an ONNX graph of "frames" to "labels" and "logits", run by onnxruntime."""

from __future__ import annotations

import copy
import importlib
import tempfile
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stillroom.stages.models.exported.about import About, Exported
from stillroom.stages.models.teachers.onnx import CUDA, open_session
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.extras import how_to_install

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from stillroom.stages.models.exported.student_program import StudentProgram

INPUT, OUTPUTS = "frames", ("labels", "logits")


def pack_onnx(program: StudentProgram, about: About) -> bytes:
    """Return a graph of any number of frames.

    Raises:
        ConfigError: the package onnx is not installed.
    """
    onnx = _package("onnx", "an export to ONNX")
    frames = torch.zeros(1, *program.size, 3, dtype=torch.uint8)
    ordered = _InOrder(_poolable(program)).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        # Of the exporter that needs no further package; what it takes as constant is so here.
        warnings.simplefilter("ignore")
        # Traced before: networks take other ways where they see an export to ONNX.
        traced = torch.jit.trace(ordered, (frames,), check_trace=False)  # type: ignore[no-untyped-call]
        torch.onnx.export(
            traced,
            (frames,),
            f"{folder}/{INPUT}.onnx",
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in (INPUT, *OUTPUTS)},
            dynamo=False,
        )
        graph = onnx.load(f"{folder}/{INPUT}.onnx")
    for output in graph.graph.output:  # the exporter loses sight of the sides
        for side, length in zip(output.type.tensor_type.shape.dim[-2:], program.size, strict=True):
            side.dim_value = length
    onnx.helper.set_model_props(graph, about.to_metadata())
    content: bytes = graph.SerializeToString()
    return content


def open_onnx(path: Path, device: str) -> Exported:
    """Open a session on the graph; on the CPU where this onnxruntime has no other device.

    Raises:
        ConfigError: onnxruntime is not installed.
        WeightsError: `stillroom export` wrote no such file, or it is damaged.
    """
    onnxruntime = _package("onnxruntime", "running an ONNX file")
    device = device if CUDA in onnxruntime.get_available_providers() else "cpu"
    session = open_session(onnxruntime, path, device)
    about = About.of(session.get_modelmeta().custom_metadata_map, path)
    return Exported(about, partial(_run, session))


def _run(session: Any, frames: Tensor) -> Mapping[str, Tensor]:
    made = session.run(OUTPUTS, {INPUT: np.ascontiguousarray(frames.cpu().numpy())})
    return dict(zip(OUTPUTS, map(torch.from_numpy, made), strict=True))


def _package(name: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{purpose} needs the package {name}; {how_to_install(name)}") from error


class _InOrder(nn.Module):
    """A program whose outputs have places, for a tracer that knows no names."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        made = self.program(frames)
        return tuple(made[name] for name in OUTPUTS)


def _poolable(program: StudentProgram) -> nn.Module:
    """Copy a program, with adaptive pooling that the exporter knows at any size.

    ONNX has none, and the exporter replaces it only where the grid is a multiple of the output.
    """
    copied = copy.deepcopy(program)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, name, _PoolByMatrix(child))
    return copied


class _PoolByMatrix(nn.Module):
    """Adaptive average pooling as two products with constant matrices."""

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, grid: Tensor) -> Tensor:
        sizes = self.pool.output_size
        height, width = sizes if isinstance(sizes, tuple) else (sizes, sizes)
        rows = _averages(int(grid.shape[-2]), height).to(grid)
        columns = _averages(int(grid.shape[-1]), width).to(grid)
        return rows @ grid @ columns.T  # (h', h) (B, C, h, w) (w, w')


def _averages(cells: int, count: int | None) -> Tensor:
    """Return how much of each cell is in each of `count` means, (count, cells); None: its own."""
    count = count or cells
    weights = torch.zeros(count, cells)
    for place in range(count):
        begin, end = place * cells // count, -(-(place + 1) * cells // count)
        weights[place, begin:end] = 1 / (end - begin)
    return weights
