"""Teachers from one file of torch's own: an exported program (.pt2), or TorchScript.

Both are programs, to be trusted as code is: TorchScript runs in an interpreter of its own, and
torch.export.load evaluates the sizes that a file states. It would also unpickle whatever a file
holds beside plain tensors, and load libraries out of it; such files are refused before.
"""

from __future__ import annotations

import importlib
import io
import json
import warnings
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from stillroom.stages.models.inference import device_of
from stillroom.stages.models.teachers.program import (
    ProgramInput,
    ProgramTeacherSettings,
    in_batches,
    logits_of,
)
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import demand_finite
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import StillroomError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork

COMPILED = "data/aotinductor"  # the folder of shared libraries in an archive


class ExportTeacherConfig(ProgramTeacherSettings):
    """A program that torch.export.save or torch.jit.save wrote: logits, or a dict of grids."""

    kind: Literal["export"]


def load_export(config: ExportTeacherConfig) -> TeacherNetwork:
    """Load the program, on its device.

    Raises:
        WeightsError: the file is missing, damaged, no such program, holds pickled objects, or
            weights that are not finite.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    device = device_of(config.device, "teacher")
    with as_weights_error(config.path):
        load = _scripted if _is_torchscript(config.path) else load_program
        module, takes = load(config.path, device)
    takes.demand_images(config)
    demand_finite(module.state_dict(), config.path)
    return TeacherNetwork(
        module=module,
        forward=in_batches(lambda images: _grids(module(takes.of(images)), config), takes.batch),
        multiple=1,
        channels_last=False,
        made_for=takes.size,
    )


def _grids(output: Any, config: ExportTeacherConfig) -> ModelOutput:
    from stillroom.stages.models.dense_network import OUTPUTS, as_model_output

    if isinstance(output, dict):
        if config.output is None and output and set(output) <= set(OUTPUTS):
            return as_model_output(output)
        return {LOGITS: logits_of(output, config)}
    several = output if isinstance(output, tuple | list) else (output,)
    return {LOGITS: logits_of(dict(enumerate(several)), config)}


def _scripted(path: Path, device: str) -> tuple[nn.Module, ProgramInput]:
    """Load TorchScript; it says nothing of its input, which is taken to be of its weights' type."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
        module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    graph = module.inlined_graph  # kept: its nodes live as long as it
    for operation, place in (("aten::dropout", 2), ("aten::batch_norm", 5)):
        # Of what was traced; what was scripted asks its module, and that follows .eval().
        for node in graph.findAllNodes(operation, True):
            given = list(node.inputs())
            standardises = operation == "aten::batch_norm" and str(given[3].type()) == "NoneType"
            if given[place].toIValue() is True and not standardises:
                raise _training(path, operation)
    weight = next((each for each in module.parameters() if each.is_floating_point()), None)
    dtype = torch.float32 if weight is None else weight.dtype
    return _modeless(module.eval()), ProgramInput((None,) * 4, _name(dtype))


def load_program(path: Path, device: str) -> tuple[nn.Module, ProgramInput]:
    """Load what torch.export.save wrote, of one input; within `as_weights_error`."""
    import torch
    from torch.export.passes import move_to_device_pass

    _demand_plain_tensors(path)
    _register_outputs_of_transformers(path)
    program = torch.export.load(path)
    _demand_evaluation(program, path)
    (name,) = program.graph_signature.user_inputs
    (value,) = (node.meta["val"] for node in program.graph.nodes if node.name == name)
    first, second, third, last = (  # a number, or a symbol where it is free
        side if isinstance(side, int) else None for side in value.shape
    )
    takes = ProgramInput((first, second, third, last), _name(value.dtype))
    _, keywords = program.call_spec.in_spec.children()
    keyword = next(iter(keywords.context or ()), None)  # of the input, if it has one
    return _modeless(move_to_device_pass(program, device).module(), keyword), takes


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _demand_evaluation(program: torch.export.ExportedProgram, path: Path) -> None:
    """Refuse operations that dropout and batch normalisation are only while they train.

    A program cannot be brought to evaluation any more: its outputs would be noise, or depend on
    the other images of a batch.

    Raises:
        WeightsError: there are some.
    """
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        names = (argument.name for argument in schema.arguments)
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        # Statistics of the batch alone, without running ones, also standardise weights.
        trains = given.get("training") and given.get("running_mean") is not None
        if trains or given.get("train") or given.get("dropout_p"):
            raise _training(path, str(node.target))


def _training(path: Path, operation: str) -> WeightsError:
    return WeightsError(
        f"{path}: {operation} is in training mode; call .eval() on the network, and export it again"
    )


def _modeless(program: nn.Module, keyword: str | None = None) -> nn.Module:
    """Wrap a program as a module: it raises where it is asked for evaluation or no gradients."""
    from torch import nn

    class Program(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program

        def train(self, mode: bool = True) -> Program:
            return self

        def forward(self, images: Tensor) -> Any:
            return self.program(images) if keyword is None else self.program(**{keyword: images})

    return Program()


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        folders = {name.split("/")[1] for name in archive.namelist() if name.count("/") > 0}
    if "data.pkl" in folders and "code" not in folders:
        raise WeightsError(
            f"{path}: holds weights, or a pickled module, and no program; save it with "
            "torch.export.save, or build the network from code and give it `weights` (kind smp, "
            "torchvision or python)"
        )
    return "code" in folders


def _register_outputs_of_transformers(path: Path) -> None:
    """Import what such a program returns: importing it tells torch how to build one."""
    with zipfile.ZipFile(path) as archive:
        graphs = [name for name in archive.namelist() if name.endswith(".json")]
        named = any(b"transformers.modeling_outputs" in archive.read(name) for name in graphs)
    if named:
        with suppress(ImportError):
            import_torchvision()
            importlib.import_module("transformers.modeling_outputs")


def _demand_plain_tensors(path: Path) -> None:
    """Refuse what torch.export.load would unpickle, or run as a library.

    Raises:
        UnpicklingError: an example of its input holds more than tensors.
        WeightsError: a weight or constant is a pickled object, or there is compiled code.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if f"/{COMPILED}/" in name:
                raise WeightsError(
                    f"{path}: holds compiled code (AOTInductor), which would be run as it "
                    "is; save the program with torch.export.save"
                )
            if name.endswith(".pt") and archive.getinfo(name).file_size:
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            if not name.endswith("_config.json"):
                continue
            for key, entry in json.loads(archive.read(name)).get("config", {}).items():
                place = str(entry.get("path_name"))
                if entry.get("use_pickle") or not place.startswith(("weight_", "tensor_")):
                    raise WeightsError(
                        f"{path}: {key} is a pickled object, and unpickling can run code; "
                        "export a network of plain tensors"
                    )


@contextmanager
def as_weights_error(path: Path) -> Iterator[None]:
    """Say of whatever loading a program raises that the file is none, or damaged."""
    try:
        yield
    except StillroomError:
        raise
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # a damaged program fails in as many ways as it has parts
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0][:300]
        raise WeightsError(
            f"{path}: truncated, or no program of torch.export.save or torch.jit.save, of "
            f"one input, that this version of torch loads ({reason}); export it again"
        ) from error
