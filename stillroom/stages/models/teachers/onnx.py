"""Teachers from an ONNX file, run by onnxruntime. The file is data: no code of it is loaded."""

from __future__ import annotations

import logging
import mmap
import re
from typing import TYPE_CHECKING, Any, Literal

from stillroom.stages.models.inference import device_of
from stillroom.stages.models.teachers.program import (
    ProgramInput,
    ProgramTeacherSettings,
    in_batches,
    logits_of,
)
from stillroom.stages.models.weights import weights_sha256
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError, WeightsError
from stillroom.storage_specs.extras import how_to_install

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork

LOG = logging.getLogger(__name__)
CUDA = "CUDAExecutionProvider"
QUIET = 3  # onnxruntime's own log: errors alone
TYPES = {  # of an input, by torch's names
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
}
LOCATION = re.compile(rb"\x0a\x08location\x12([\x00-\x7f]|[\x80-\xff][\x00-\x7f])")


class OnnxTeacherConfig(ProgramTeacherSettings):
    """An ONNX graph of one input, (B, 3, H, W) or (B, H, W, 3), and its logits."""

    kind: Literal["onnx"]
    precision: Literal["float32"] = "float32"  # the graph has its own

    def content(self) -> dict[str, Any]:
        """Return hashes of the file, and of those beside it that hold its weights."""
        found = super().content()
        data = {name: weights_sha256(self.path.parent / name) for name in data_files(self.path)}
        return {**found, "data_sha256": data} if data else found


def data_files(path: Path) -> list[str]:
    """Return the names of the files beside an ONNX file that its tensors are kept in."""
    if path.stat().st_size == 0:
        return []
    names = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        for found in LOCATION.finditer(graph):
            # A protobuf string: its length in 7 bits a byte, then itself.
            length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(found[1]))
            names.add(graph[found.end() : found.end() + length].decode("utf-8", "replace"))
    return sorted(names)


def load_onnx(config: OnnxTeacherConfig) -> TeacherNetwork:
    """Open a session on the teacher's device.

    Raises:
        ConfigError: onnxruntime is not installed, or the graph takes something else than frames.
        WeightsError: the file is missing or damaged.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"teachers of kind 'onnx' need onnxruntime; {how_to_install('onnxruntime')}, or "
            "`pip install onnxruntime-gpu` to run them on a GPU"
        ) from error
    device = _device(onnxruntime, config)
    network = _OnnxNetwork(open_session(onnxruntime, config.path, device), config)
    return TeacherNetwork(
        module=None,
        forward=in_batches(network, network.input.batch),
        multiple=1,
        channels_last=False,
        made_for=network.input.size,
        device=device,
    )


def _device(onnxruntime: Any, config: OnnxTeacherConfig) -> str:
    device = device_of(config.device, "teacher")
    if device == "cuda" and CUDA not in onnxruntime.get_available_providers():
        missing = f"teacher {config.path}: this onnxruntime runs on the CPU alone"
        if config.device == "cuda":
            raise ConfigError(f"{missing}; pip install onnxruntime-gpu, or set device = 'cpu'")
        LOG.warning("%s; pip install onnxruntime-gpu to have it on the GPU", missing)
        return "cpu"
    return device


def open_session(onnxruntime: Any, path: Path, device: str) -> Any:
    """Open a session on an ONNX file.

    Raises:
        WeightsError: it is truncated, or none.
    """
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"] if device == "cpu" else [CUDA]
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no base but this
        raise WeightsError(
            f"{path}: cannot be loaded, truncated or no ONNX file: {error}"
        ) from error


class _OnnxNetwork:
    """A session as a network: normalised images in, logits out.

    Attributes:
        input: what the graph takes
    """

    def __init__(self, session: Any, config: OnnxTeacherConfig) -> None:
        self._session, self._config = session, config
        self._name, self.input = self._described()
        self.input.demand_images(config)
        self._looked = False

    def __call__(self, images: Tensor) -> ModelOutput:
        """Run the graph; on a batch of the number that it takes."""
        import torch

        if not self._looked:
            self._looked = True
            noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
            if not bool(torch.isfinite(self._run(noise)).all()):
                raise WeightsError(
                    f"teacher {self._config.path}: its logits of noise are not finite; its weights "
                    "are damaged: copy or export it again"
                )
        return {LOGITS: self._run(images).to(images.device)}

    def _run(self, images: Tensor) -> Tensor:
        import torch

        names = [each.name for each in self._session.get_outputs()]
        made = self._session.run(names, {self._name: self.input.of(images).cpu().numpy()})
        return logits_of(dict(zip(names, map(torch.from_numpy, made), strict=True)), self._config)

    def _described(self) -> tuple[str, ProgramInput]:
        """Return name and form of the graph's input."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in TYPES or len(inputs[0].shape) != 4:
            listed = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise ConfigError(
                f"teacher {self._config.path}: takes {listed}; expected one input (B, 3, H, W) or "
                f"(B, H, W, 3), of {', '.join(TYPES)}"
            )
        (one,) = inputs
        first, second, third, last = (side if isinstance(side, int) else None for side in one.shape)
        return one.name, ProgramInput((first, second, third, last), TYPES[one.type])
