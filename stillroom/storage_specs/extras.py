"""Packages that come with an extra of stillroom's, by the names they are imported by."""

from __future__ import annotations

_TRAIN = (
    "PIL", "cv2", "matplotlib", "safetensors", "segmentation_models_pytorch", "tensorboard", "timm",
    "torch", "torchvision",
)  # fmt: skip
EXTRAS = {
    **dict.fromkeys(_TRAIN, "train"),
    "ray": "ray",
    "transformers": "hf",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "torch_pruning": "prune",
}


def how_to_install(package: str) -> str:
    """Tell what installs a package that is missing; `package` is a key of EXTRAS."""
    extra = EXTRAS[package]
    return f"run `pip install -e '.[{extra}]'` in stillroom's own folder"
