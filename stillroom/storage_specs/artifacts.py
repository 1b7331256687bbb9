"""The table of artifacts: a row each, with every property that other code reads.

`stages.models.makers` makes the artifacts of the same names from a teacher's output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from stillroom.storage_specs.errors import ConfigError

IGNORE = 255
"""Label of a pixel that has no class."""

LAYER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
AXIS_LENGTHS = {"rgb": 3, "uv": 2, "xyz": 3, "corners": 5}

# For code that is about this one artifact, as cross-entropy is about labels.
FRAMES = "frames"  # the set of a source's frames and their targets has this name too
LABELS = "labels"
LOGITS = "logits"
FEATURES = "features"
CODE = "code"
PSEUDO_LABEL = "pseudo_label"
CONFIDENCE = "confidence"
PIXEL_CONFIDENCE = "pixel_confidence"
FLOW = "flow"
DEPTH = "depth"
NORMALS = "normals"
BOXES = "boxes"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One kind of array that a frame may have.

    Attributes:
        made_by: what it comes from: the source itself, a teacher, the auto-encoder of a teacher's
            features, a flow model
        output: of a teacher: the grid of its output that the artifact is made from
        axes: of one frame's array; the cache puts the axis "frame" before them
        dtype: of the decoded array
        geometry: how a view moves it: "image" and "field" bilinear, "label" and "nearest" the pixel
            under the point (outside 255 and 0), "vector" bilinear with its vectors rescaled and u
            negated on a flip, "depth" bilinear over the values that are not 0, and divided by the
            view's enlargement, "direction" likewise over vectors that are not 0, made unit vectors
            again and x negated on a flip, "boxes" by their corners, cut to the view
        codecs: names of the codecs that may store it, the usual one first
        picture: how it is drawn, a key of `stages.pictures.picture_kinds`
        statistics: what `cache stats` counts of it
        fidelity: how a stored array is compared with what the teacher gives: by error alone, or by
            its share of the value, the cosine of its vectors, or the divergences of class
            distributions too
        fill_value: what the stored array holds where a frame is bad
        layered: named "<name>/<layer>"
        has_classes: its values, or its channels, are classes, whose names are kept with it
        settings: keys of the run file's [cache] that decide its values
        target: a source may label its frames with it; it then lies in the set of its frames
    """

    name: str
    made_by: Literal["source", "teacher", "autoencoder", "flow model"]
    output: str | None = None
    axes: tuple[str, ...]
    dtype: Literal["uint8", "float32"] = "float32"
    geometry: Literal["image", "label", "nearest", "field", "vector", "depth", "direction", "boxes"]
    codecs: tuple[str, ...]
    description: str
    picture: Literal[
        "photo",
        "classes",
        "sure_classes",
        "scores",
        "heat",
        "channels",
        "flow",
        "depth",
        "normals",
        "boxes",
    ]
    statistics: Literal["none", "classes", "scores", "confidence", "moments", "range"] = "none"
    fidelity: Literal["error", "relative_error", "cosine", "divergence"] = "error"
    fill_value: int = 0
    layered: bool = False
    has_classes: bool = False
    settings: tuple[str, ...] = ()
    target: bool = False

    @property
    def has_stride(self) -> bool:
        """True where a view moves it by its stride; else each value is one pixel of the canvas."""
        return self.geometry in ("field", "depth", "direction")

    @property
    def has_map(self) -> bool:
        """True where its values lie in rows and columns."""
        return "y" in self.axes


CHANNELS = ("channel", "y", "x")
PIXELS = ("y", "x")
FLOATS = ("byte", "half", "exact")

ARTIFACTS: dict[str, Artifact] = {
    FRAMES: Artifact(
        name=FRAMES,
        made_by="source",
        axes=("y", "x", "rgb"),
        dtype="uint8",
        geometry="image",
        codecs=("raw", "rgb"),
        description="the canvas frame, RGB",
        picture="photo",
    ),
    LABELS: Artifact(
        name=LABELS,
        made_by="source",
        axes=PIXELS,
        dtype="uint8",
        geometry="label",
        codecs=("raw",),
        description="the true class of each canvas pixel, 255 where there is none",
        picture="classes",
        statistics="classes",
        fill_value=IGNORE,
        has_classes=True,
        target=True,
    ),
    LOGITS: Artifact(
        name=LOGITS,
        made_by="teacher",
        output=LOGITS,
        axes=CHANNELS,
        geometry="field",
        codecs=("kl", *FLOATS, "topk"),
        description="class scores before softmax, at the teacher's own stride",
        picture="scores",
        statistics="scores",
        fidelity="divergence",
        has_classes=True,
    ),
    FEATURES: Artifact(
        name=FEATURES,
        made_by="teacher",
        output=FEATURES,
        axes=CHANNELS,
        geometry="field",
        codecs=(*FLOATS, "fp8"),
        description="activations of one named layer of the teacher",
        picture="channels",
        statistics="moments",
        fidelity="cosine",
        layered=True,
    ),
    CODE: Artifact(
        name=CODE,
        made_by="autoencoder",
        axes=CHANNELS,
        geometry="field",
        codecs=(*FLOATS, "fp8"),
        description="a layer's activations, compressed by an auto-encoder trained on them",
        picture="channels",
        layered=True,
    ),
    PSEUDO_LABEL: Artifact(
        name=PSEUDO_LABEL,
        made_by="teacher",
        output=LOGITS,
        axes=PIXELS,
        dtype="uint8",
        geometry="label",
        codecs=("raw",),
        description="the teacher's class of each canvas pixel, 255 below the confidence threshold",
        picture="sure_classes",
        statistics="classes",
        fill_value=IGNORE,
        has_classes=True,
        settings=("threshold",),
    ),
    CONFIDENCE: Artifact(
        name=CONFIDENCE,
        made_by="teacher",
        output=LOGITS,
        axes=PIXELS,
        geometry="field",
        codecs=("unit", "half", "exact"),
        description="the teacher's highest class probability, 0 to 1",
        picture="heat",
        statistics="confidence",
    ),
    PIXEL_CONFIDENCE: Artifact(
        name=PIXEL_CONFIDENCE,
        made_by="teacher",
        output=LOGITS,
        axes=PIXELS,
        geometry="nearest",
        codecs=("floor", "exact"),
        description="the probability of the class of each canvas pixel, which thresholds look at",
        picture="heat",
    ),
    FLOW: Artifact(
        name=FLOW,
        made_by="flow model",
        axes=("uv", "y", "x"),
        geometry="vector",
        codecs=("flow", "half", "exact"),
        description="displacement in canvas pixels from the frame to its partner, u right, v down",
        picture="flow",
    ),
    DEPTH: Artifact(
        name=DEPTH,
        made_by="teacher",
        output=DEPTH,
        axes=PIXELS,
        geometry="depth",
        codecs=("log", "half", "exact"),
        description="distance along the optical axis in metres, 0 where there is none",
        picture="depth",
        statistics="range",
        fidelity="relative_error",
        target=True,
    ),
    NORMALS: Artifact(
        name=NORMALS,
        made_by="source",
        axes=("xyz", "y", "x"),
        geometry="direction",
        codecs=("signed", "half", "exact"),
        description="unit vector of the surface, x right, y down, z forward; 0 where there is none",
        picture="normals",
        target=True,
    ),
    BOXES: Artifact(
        name=BOXES,
        made_by="source",
        axes=("box", "corners"),
        geometry="boxes",
        codecs=("exact",),
        description="x0, y0, x1, y1 of objects in canvas pixels, and class; -1 in rows without one",
        picture="boxes",
        has_classes=True,
        target=True,
    ),
}

TARGETS = tuple(name for name, row in ARTIFACTS.items() if row.target)
"""What a source may label its frames with: members of the set of its frames."""


def artifact_of(name: str) -> Artifact:
    """Find the row of an array's name: "logits", "features/penultimate", or a bare "features".

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
