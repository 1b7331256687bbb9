"""`stillroom init`: look at folders of data, and write a first run file for what lies there."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cache_tools.sample import evenly
from stillroom.stages.sources.look import ROLES, FoundSource, look
from stillroom.stages.sources.open import SOURCES, open_source
from stillroom.storage_specs.errors import ConfigError, FrameError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from stillroom.stages.sources.source import Source

LARGEST = 1024  # side of a canvas that is not asked for
CROP = 256
BATCH = 8
COLUMN = 38  # where comments begin
SAMPLE = 12  # frames of a source whose sizes are looked at
GRID = 32  # sides that every network of segmentation-models-pytorch takes without padding

TEACHER = """\
[teachers.heavy]
kind = "hf"                           # docs/teachers.md: torchvision, smp, onnx, export, python
path = "FOLDER"                       # as save_pretrained wrote it; or a hub id with `revision`
                                      # other classes than the data's: `classes`, `mapping`"""

PIXELWISE = """\
[[terms]]                             # probabilities, pixel by pixel; docs/losses.md has all terms
name = "pixelwise_kl"
teacher = "heavy\""""

HINT = """\
# A teacher makes a student better than labels alone do. Lines that it needs begin with a # and no
# space behind it: take this # off.
"""

STUDENT = """\
[student]
kind = "smp"                          # or hf, torchvision, python
architecture = "FPN"
encoder = "mobilenet_v2"              # encoder_weights = "FILE" starts it from ImageNet"""


@dataclass(frozen=True)
class FirstRun:
    """A run file that was written.

    Attributes:
        sources: by name
        frames: how many each has
    """

    path: Path
    sources: dict[str, FoundSource]
    frames: dict[str, int]
    canvas: tuple[int, int]

    @property
    def has_labels(self) -> bool:
        """Whether it trains without a teacher."""
        return any(found.role == "train" for found in self.sources.values())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "path": str(self.path),
            "canvas": list(self.canvas),
            "sources": {
                name: {
                    "role": found.role,
                    "kind": found.settings["kind"],
                    "frames": self.frames[name],
                    "remarks": list(found.remarks),
                }
                for name, found in self.sources.items()
            },
        }


def write_first_run(folders: Sequence[Path], path: Path) -> FirstRun:
    """Write a run file, with comments, that caches and trains on what the folders hold.

    Raises:
        ConfigError: the file is there already or cannot be written, or a folder holds nothing that
            is known.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already; give --out another name, or remove it")
    sources = _named([found for folder in folders for found in look(folder)])
    opened = {name: _open(found.settings) for name, found in sources.items()}
    frames = {name: len(source) for name, source in opened.items()}
    seen = _sizes(opened[name] for name, found in sources.items() if found.is_trained_on)
    canvas = _canvas(seen)
    run = FirstRun(path, sources, frames, canvas)
    text = _text(shlex.join(map(str, folders)), run, seen)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    except OSError as error:
        if path.is_file():  # half of it, on a full disk
            path.unlink()
        raise ConfigError(
            f"{path}: the run file cannot be written ({error.strerror}); give --out another place"
        ) from error
    return run


def _named(found: Sequence[FoundSource]) -> dict[str, FoundSource]:
    """Name sources by their roles; of labelled frames without any to score on, a fifth is."""
    roles = {each.role for each in found}
    named: dict[str, FoundSource] = {}
    for each in sorted(found, key=lambda each: ROLES.index(each.role)):  # the epoch is train's
        name = each.role
        number = sum(key.split("_")[0] == name for key in named)
        named[f"{name}_{number + 1}" if number else name] = each
    if "train" not in roles or roles & {"val", "test"}:
        return named
    whole = named["train"]
    if kept := len(_open(whole.settings)) // 5:
        remark = "no split to score on: a fifth of the frames is kept for it"
        rest = {**whole.settings, "skip": kept}
        named["train"] = FoundSource("train", rest, (*whole.remarks, remark))
        named["val"] = FoundSource("val", {**whole.settings, "take": kept})
    return named


def _open(settings: Mapping[str, Any]) -> Source:
    kind, _ = SOURCES[settings["kind"]]
    return open_source(kind(**settings))


def _sizes(sources: Iterable[Source]) -> Counter[tuple[int, int]]:
    """Count the sizes (height, width) of some frames, spread over each source."""
    found: Counter[tuple[int, int]] = Counter()
    for source in sources:
        for index in evenly(range(len(source)), SAMPLE):
            with suppress(FrameError, SourceUnavailable):  # which a build names
                height, width = source.load(index).image.shape[:2]
                found[height, width] += 1
    return found


def _canvas(seen: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The size that most images have, if it is not too large: nothing is then interpolated."""
    if not seen:
        return 360, 640
    (height, width), _ = seen.most_common(1)[0]
    scale = min(1.0, LARGEST / max(height, width))
    if scale == 1:
        return height, width
    height, width = (max(GRID, round(side * scale / GRID) * GRID) for side in (height, width))
    return height, width


def _text(given: str, run: FirstRun, seen: Counter[tuple[int, int]]) -> str:
    """The run file; without labels there is something to learn only from a teacher."""
    off = _commented if run.has_labels else str
    parts = [
        _head(given, run.path),
        *(_source(name, found, run.frames[name]) for name, found in run.sources.items()),
        (HINT if run.has_labels else "") + off(TEACHER),
        _cache(run, seen, off),
        STUDENT,
        '[[terms]]\nname = "cross_entropy"\n'
        + off('teacher = "heavy"                     # its pseudo labels where labels are missing'),
        off(PIXELWISE),
        _train(run, off),
    ]  # fmt: skip
    scored = [name for name, found in run.sources.items() if found.role in ("val", "test")]
    if scored:
        parts.append(f'[evaluate]\nsource = "{scored[0]}"')
    return "\n\n".join(parts) + "\n"


def _commented(text: str) -> str:
    return "\n".join(f"#{line}" for line in text.splitlines())


def _head(given: str, path: Path) -> str:
    return f"""\
# A first run file, by `stillroom init {given}`. Every key: docs/run_file.md
#
#   stillroom cache build {path} --dry-run    bytes and minutes
#   stillroom cache build {path}
#   stillroom train {path}
#   stillroom eval runs/{path.stem} {path}
#
# Paths are relative to the folder that you call from."""


def _source(name: str, found: FoundSource, frames: int) -> str:
    lines = [f"# {remark}" for remark in found.remarks]
    lines.append(f"[sources.{name}]".ljust(COLUMN) + f"# {frames} frames")
    lines += [f"{key} = {_toml(value)}" for key, value in found.settings.items()]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _cache(run: FirstRun, seen: Counter[tuple[int, int]], off: Callable[[str], str]) -> str:
    about = "height, width"
    if seen:
        (height, width), count = seen.most_common(1)[0]
        about += f"; {count} of {sum(seen.values())} frames looked at are {height}x{width}"
    cached = [name for name, found in run.sources.items() if found.is_trained_on]
    canvas = f"canvas = {list(run.canvas)}".ljust(COLUMN) + f"# {about}"
    return "\n".join(
        [
            f'[cache]\npath = "runs/{run.path.stem}.cache"',
            canvas,
            f"sources = {json.dumps(cached)}",
            off('artifacts = ["logits", "pseudo_label", "confidence"]   # of teacher "heavy"'),
        ]
    )


def _train(run: FirstRun, off: Callable[[str], str]) -> str:
    crop = [min(CROP, side // GRID * GRID) or side for side in run.canvas]
    streams = []
    for name, found in run.sources.items():
        line = f"streams.{name} = {{ batch = {min(BATCH, run.frames[name])} }}"
        if found.is_trained_on:
            streams.append(line if found.role == "train" else off(line))
    return "\n".join(
        [
            f'[train]\npath = "runs/{run.path.stem}"',
            "steps = 2000                          # a first look; papers take 40000 and more",
            f"view = {{ crop = {crop}, scale = [0.5, 2.0], flip = true }}",
            'optimiser = { name = "adamw", lr = 0.001, weight_decay = 0.01 }',
            *streams,
        ]
    )
