"""Reports of students: what training came to, what each term does, what the demo found."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from stillroom.commands.quantities import duration, parameters, size
from stillroom.commands.show.reports import Shown, grid

if TYPE_CHECKING:
    from stillroom.pipeline.demo import DemoResult
    from stillroom.stages.train.check import Check, TermCheck
    from stillroom.stages.train.job import TrainResult


def train_result(result: TrainResult) -> Shown:
    """What a run came to."""
    head = "this run was finished before" if result.already_finished else "trained"
    waiting = result.wait_seconds / result.seconds if result.seconds else 0.0
    parts: list[Any] = [
        f"{head}: {result.steps} steps in {duration(result.seconds)}, "
        f"{waiting:.1%} of it waiting for data",
        "last losses: " + ", ".join(f"{name} {value:.4g}" for name, value in result.losses.items()),
    ]
    if result.best_score is not None:
        parts.append(f"best validation mIoU {result.best_score:.4f} at step {result.best_step}")
    skipped = {name: count for name, count in result.skipped.items() if count}
    if skipped:
        listing = ", ".join(f"{count} of {name}" for name, count in skipped.items())
        parts.append(f"bad frames left out: {listing} (stillroom cache info RUN.toml --bad)")
    parts.append(f"model: {result.paths['model']}")
    return Shown(parts, result.to_dict())


def term_checks(found: Check) -> Shown:
    """Every term of a run in its first steps."""
    table = grid("stream", "term", "weight", "value", "gradient", "time", "memory")
    table.columns[1].justify = "left"
    for one in found.terms:
        table.add_row(
            one.stream,
            one.label,
            f"{one.weight:g}",
            _first_to_last(one.values),
            _first_to_last(one.gradients),
            f"{one.seconds * 1e3:.1f} ms",
            size(one.peak_bytes),
        )
    explained = (
        "value: unweighted, first step to last; gradient: 2-norm of the weighted term's, by the "
        "student's parameters; time and memory: of the term alone, forward and back"
    )
    terms = sum(one.seconds for one in found.terms)
    whole = f"a whole step of training: {found.step_seconds:.2f} s; its terms alone: {terms:.2f} s"
    silent = [one for one in found.terms if one.gradients and not any(one.gradients)]
    remarks = [Text(_nothing_to_learn(one), style="yellow") for one in silent]
    return Shown([table, *remarks, whole, explained], asdict(found))


def _nothing_to_learn(one: TermCheck) -> str:
    return (
        f"term {one.label} on stream {one.stream} had no gradient: nothing to learn from; "
        "`stillroom cache stats RUN.toml` counts pseudo labels"
    )


def _first_to_last(values: list[float]) -> str:
    return f"{values[0]:.3g} > {values[-1]:.3g}" if len(values) > 1 else f"{values[0]:.3g}"


def demo_result(result: DemoResult) -> Shown:
    """Baseline against distilled student, and where to look."""
    table = grid("network", "test mIoU", "pixel accuracy", "parameters", "frames/s")
    for name, found in result.evaluations.items():
        table.add_row(
            name,
            f"{found.result.scores.miou:.4f}",
            f"{found.result.scores.pixel_accuracy:.4f}",
            parameters(found.cost.parameters),
            f"{found.cost.speed.frames_per_second:.0f}",
        )
    miou = {name: found.result.scores.miou for name, found in result.evaluations.items()}
    gain = miou["distilled"] - miou["baseline"]
    parts: list[Any] = [
        table,
        f"baseline {miou['baseline']:.4f} -> distilled {miou['distilled']:.4f} "
        f"({100 * gain:+.1f} points of mIoU, the same network, no cost when it runs)",
        "",
        "pictures:",
        *(f"  {path}" for path in result.pictures),
        "run files, to change and run again:",
        *(f"  {path}" for path in result.run_files),
    ]
    document = {
        "miou": miou,
        "gain": gain,
        "evaluations": {name: found.document() for name, found in result.evaluations.items()},
        "pictures": [str(path) for path in result.pictures],
        "run_files": [str(path) for path in result.run_files],
    }
    return Shown(parts, document)
