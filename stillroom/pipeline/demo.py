"""`stillroom demo`: the whole path on scenes that it draws itself, by the same calls as any run.

    draw clips -> train a heavy teacher on the labelled ones -> cache its outputs on all of them
    -> train a small student twice, on labels alone and from the cache -> compare

The run files it leaves behind are ordinary ones: change them and run the commands in their heads.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cache_tools.preview import draw_preview
from stillroom.pipeline.open_model import open_model
from stillroom.pipeline.prediction_pictures import draw_predictions
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import CURVES
from stillroom.stages.pictures.iou_chart import iou_chart
from stillroom.storage_specs.errors import CacheUnwritable, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillroom.pipeline.evaluation import Evaluation
    from stillroom.pipeline.run_file.sections import RunConfig

RUN_FILES = ("teacher.toml", "student.toml")
COMMAND = re.compile(r"^(#   stillroom .*?\.toml)", re.MULTILINE)  # in their heads


@dataclass(frozen=True)
class DemoResult:
    """The scores of the demo, and the files that it wrote.

    Attributes:
        evaluations: of "teacher", "baseline" and "distilled"
    """

    evaluations: dict[str, Evaluation]
    pictures: tuple[Path, ...]
    run_files: tuple[Path, ...]

    @property
    def miou(self) -> dict[str, float]:
        """By network."""
        return {name: found.result.scores.miou for name, found in self.evaluations.items()}

    @property
    def gain(self) -> float:
        """Of mIoU by distillation."""
        return self.miou["distilled"] - self.miou["baseline"]

    def to_dict(self) -> dict[str, Any]:
        """Return scores and files as JSON."""
        return {
            "miou": self.miou,
            "gain": self.gain,
            "evaluations": {name: found.to_dict() for name, found in self.evaluations.items()},
            "pictures": [str(path) for path in self.pictures],
            "run_files": [str(path) for path in self.run_files],
        }


@dataclass(frozen=True)
class Steps:
    """The functions by which the demo builds, trains and scores, and logs what it does."""

    build: Callable[[RunConfig], object]
    train: Callable[[RunConfig], object]
    evaluate: Callable[[RunConfig, str], Evaluation]
    log: Callable[[str], None]


def run_demo(out: Path, overrides: Sequence[str], steps: Steps) -> DemoResult:
    """Do everything, or what is still to do of it, in the folder `out`.

    Args:
        overrides: as --set, for every run of the demo

    Raises:
        CacheUnwritable: the folder cannot be written.
    """
    teacher_file, student_file = _write_run_files(out, overrides)
    teacher = load_run(teacher_file, overrides)
    steps.log("drawing the labelled clips and keeping them in the cache")
    steps.build(teacher)
    steps.log("training the teacher on the labels")
    steps.train(teacher)
    student = load_run(student_file, overrides)
    steps.log("running the teacher once over labelled and unlabelled clips, into the cache")
    steps.build(student)
    steps.log("training the baseline: the small network on an eighth of the labels, alone")
    baseline = load_run(student_file, [*overrides, *_baseline(student, out)])
    steps.train(baseline)
    steps.log(
        "training it again, from the cache: those labels, and the teacher on unlabelled clips"
    )
    steps.train(student)
    steps.log("scoring all three on clips that none of them has seen")
    found = {
        "teacher": steps.evaluate(teacher, str(out / "teacher")),
        "baseline": steps.evaluate(baseline, str(out / "baseline")),
        "distilled": steps.evaluate(student, str(out / "distilled")),
    }
    return DemoResult(found, tuple(_draw(student, out, found)), (teacher_file, student_file))


def _write_run_files(out: Path, overrides: Sequence[str]) -> tuple[Path, Path]:
    """Write the demo's run files into `out`, with its paths filled in; keep what is there.

    The commands in their heads have the overrides: without them a run would be another one.
    """
    changed = "".join(f" --set {shlex.quote(each)}" for each in overrides)
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in RUN_FILES:
            packaged = resources.files("stillroom.pipeline") / "demo_runs" / name
            path = out / name
            if not path.exists():  # else it may have been changed
                text = packaged.read_text(encoding="utf8").replace("OUT", out.as_posix())
                path.write_text(COMMAND.sub(lambda found: found[0] + changed, text))
            written.append(path)
    except OSError as error:
        raise CacheUnwritable(
            f"{out}: cannot be written ({error.strerror}); give the demo another folder by --out"
        ) from error
    return written[0], written[1]


def _baseline(student: RunConfig, out: Path) -> list[str]:
    """Return the overrides of the baseline: the same labelled frames, and nothing else."""
    if student.train is None:
        raise ConfigError("the demo's student needs its [train] section")
    street = student.train.streams["street"]
    return [
        'terms=[{name="cross_entropy"}]',
        f"train.streams={{street={{batch={street.batch},every={street.every}}}}}",
        f"train.path={out.as_posix()}/baseline",
    ]


def _draw(run: RunConfig, out: Path, found: dict[str, Evaluation]) -> list[Path]:
    """Draw the cache as contact sheets, the networks' predictions, and their IoU as bars."""
    drawn = draw_preview(run.cache.path, None, 4, out / "cache.png")
    models = {name: open_model(run, str(out / name)) for name in found}
    sheet, chart = out / "comparison.png", out / "iou.png"
    results = {name: evaluation.result for name, evaluation in found.items()}
    draw_predictions(run, models, sheet, results)
    iou_chart(chart, {name: result.scores for name, result in results.items()})
    return [*drawn, sheet, chart, *(out / name / CURVES for name in found)]
