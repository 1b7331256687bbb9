"""Importing torchvision where its compiled operators cannot be loaded.

A torchvision wheel built for CUDA fails to import beside a CPU build of torch ("operator
torchvision::nms does not exist"): its extension library is silently skipped, and the import then
describes two operators that were never declared. Networks need none of these operators, so
declaring the two schemas is enough for torchvision, timm, segmentation-models-pytorch and
transformers to work. Where torchvision imports by itself this does nothing.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    import torch

BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
MISSING_SCHEMAS = (f"nms{BOXES}", f"qnms{BOXES}")

_importing = threading.Lock()
_declared: list[torch.library.Library] = []  # schemas vanish with the object that declared them


def import_torchvision() -> None:
    """Make `import torchvision` work in this process; call it before importing what builds on it.

    Raises:
        ConfigError: torchvision is not installed.
    """
    with _importing:
        try:
            importlib.import_module("torchvision")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "torchvision is not installed; install the release that matches torch"
            ) from error
        except RuntimeError as error:
            if "operator torchvision::" not in str(error) or _declared:
                raise
            _forget_half_imported()
            _declare_schemas()
            importlib.import_module("torchvision")


def _forget_half_imported() -> None:
    """Drop the submodules that a failed import leaves behind, so that the next starts afresh."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_schemas() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in MISSING_SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
