"""What a cache may hold for one frame: names, axes, and how each moves with the picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from stillroom.storage_specs.errors import ConfigError

IGNORE = 255
"""Label of a pixel that has no class."""

LAYER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
AXIS_LENGTHS = {"rgb": 3, "uv": 2}


@dataclass(frozen=True)
class Artifact:
    """One kind of array that a frame may have.

    geometry: how a view moves it: "image" and "field" bilinear, "label" nearest, "vector" bilinear
        with its vectors rescaled and u negated on a flip
    dtype: of the decoded array
    axes: of one frame's array; the cache puts the axis "frame" before them
    codecs: names of the codecs that may store it, the usual one first
    fill: what the stored array holds where a frame is bad
    layered: named "<name>/<layer>"
    """

    name: str
    geometry: Literal["image", "label", "field", "vector"]
    dtype: Literal["uint8", "float32"]
    axes: tuple[str, ...]
    codecs: tuple[str, ...]
    description: str
    fill: int = 0
    layered: bool = False


FLOATS = ("byte", "half", "exact")

ARTIFACTS: dict[str, Artifact] = {
    "frames": Artifact(
        "frames", "image", "uint8", ("y", "x", "rgb"), ("raw",), "the canvas frame, RGB"
    ),
    "labels": Artifact(
        "labels",
        "label",
        "uint8",
        ("y", "x"),
        ("raw",),
        "the true class of each canvas pixel, 255 where there is none",
        fill=IGNORE,
    ),
    "logits": Artifact(
        "logits",
        "field",
        "float32",
        ("channel", "y", "x"),
        ("kl", *FLOATS, "topk"),
        "class scores before softmax, at the teacher's own stride",
    ),
    "features": Artifact(
        "features",
        "field",
        "float32",
        ("channel", "y", "x"),
        (*FLOATS, "fp8"),
        "activations of one named layer of the teacher",
        layered=True,
    ),
    "code": Artifact(
        "code",
        "field",
        "float32",
        ("channel", "y", "x"),
        (*FLOATS, "fp8"),
        "a layer's activations, compressed by an auto-encoder that was trained on them",
        layered=True,
    ),
    "pseudo_label": Artifact(
        "pseudo_label",
        "label",
        "uint8",
        ("y", "x"),
        ("raw",),
        "the teacher's class of each canvas pixel, 255 below the confidence threshold",
        fill=IGNORE,
    ),
    "confidence": Artifact(
        "confidence",
        "field",
        "float32",
        ("y", "x"),
        ("unit", "half", "exact"),
        "the teacher's highest class probability, 0 to 1",
    ),
    "flow": Artifact(
        "flow",
        "vector",
        "float32",
        ("uv", "y", "x"),
        ("flow", "half", "exact"),
        "displacement in canvas pixels from the frame to its partner, u right and v down",
    ),
}


def artifact_of(name: str) -> Artifact:
    """The artifact behind an array name: "logits", "features/penultimate", or a bare "features".

    Raises:
        ConfigError: no such artifact; the message offers the nearest name.
    """
    family, slash, layer = name.partition("/")
    artifact = ARTIFACTS.get(family)
    if artifact is None:
        near = get_close_matches(family, ARTIFACTS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown artifact {name!r}; {hint}known: {', '.join(ARTIFACTS)}")
    if slash and not artifact.layered:
        raise ConfigError(f"artifact {name!r}: {family!r} has no layers; write {family!r}")
    if slash and not LAYER.fullmatch(layer):
        raise ConfigError(
            f"artifact {name!r}: a layer's name is letters, digits, '_', '.' and '-', "
            "and begins with a letter or a digit"
        )
    return artifact
