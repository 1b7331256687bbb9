"""Students as text: how training ended, what each term does, the comparison of the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from stillroom.commands.quantities import duration, parameters, place, size
from stillroom.commands.show.grid import grid

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stillroom.pipeline.demo import DemoResult
    from stillroom.stages.train.check import Check
    from stillroom.stages.train.job import TrainResult
    from stillroom.stages.train.profile import Profile


def train_result(result: TrainResult) -> list[RenderableType]:
    """Lay out how training ended."""
    head = "this run was finished before" if result.already_finished else "trained"
    waiting = result.wait_seconds / result.seconds if result.seconds else 0.0
    parts: list[RenderableType] = [
        f"{head}: {result.steps} steps in {duration(result.seconds)}, "
        f"{waiting:.1%} of it waiting for data",
        "last losses: " + ", ".join(f"{name} {value:.4g}" for name, value in result.losses.items()),
    ]
    if result.best_score is not None:
        name = "mIoU" if result.score == "miou" else result.score
        parts.append(f"best validation {name} {result.best_score:.4f} at step {result.best_step}")
    skipped = {name: count for name, count in result.skipped.items() if count}
    if skipped:
        listing = ", ".join(f"{count} of {name}" for name, count in skipped.items())
        parts.append(f"bad frames left out: {listing} (stillroom cache info RUN.toml --bad)")
    return [*parts, f"model: {place(result.paths['model'])}"]


def term_checks(found: Check) -> list[RenderableType]:
    """Lay out every term of a run in its first steps."""
    rows = (
        (one.stream, one.label, f"{one.weight:g}", _first_to_last(one.values),
         _first_to_last(one.gradients), f"{one.seconds * 1e3:.1f} ms", size(one.peak_bytes))
        for one in found.terms
    )  # fmt: skip
    columns = "stream", "term", "weight", "value", "gradient", "time", "memory"
    remarks = [
        Text(
            f"term {one.label} on stream {one.stream} had no gradient: nothing to learn from; "
            "`stillroom cache stats RUN.toml` counts pseudo labels",
            style="yellow",
        )
        for one in found.terms
        if one.gradients and not any(one.gradients)
    ]
    terms = sum(one.seconds for one in found.terms)
    return [
        grid(columns, rows, left=(0, 1)),
        *remarks,
        f"a whole step of training: {found.step_seconds:.2f} s; its terms alone: {terms:.2f} s",
        "value: unweighted, first step to last; gradient: 2-norm of the weighted term's, by the "
        "student's parameters; time and memory: of the term alone, forward and back",
    ]


def training_profile(found: Profile) -> list[RenderableType]:
    """Lay out where the time of a step goes."""
    of_step, of_loader = (
        [(part.name, f"{part.seconds * 1e3:.2f} ms", f"{part.share:.1%}") for part in parts]
        for parts in (found.parts, found.loader)
    )
    held_up = next(part for part in (*found.loader, *found.parts) if part.name == found.bottleneck)
    return [
        grid(("of a step", "time", "share"), of_step),
        *([grid(("beside it, in the loader", "time", "share"), of_loader)] if of_loader else []),
        f"a step takes {found.step_seconds * 1e3:.1f} ms, mean of {found.steps}; a GPU is waited "
        "for after each part, which makes a step slower than in training",
        f"what holds it up: {found.bottleneck} ({held_up.share:.1%}); {found.advice}",
        f"trace: {place(found.trace)} (chrome://tracing, https://ui.perfetto.dev)",
    ]


def _first_to_last(values: list[float]) -> str:
    return f"{values[0]:.3g} > {values[-1]:.3g}" if len(values) > 1 else f"{values[0]:.3g}"


def demo_result(result: DemoResult) -> list[RenderableType]:
    """Lay out the comparison of baseline and distilled student, and name the files."""
    rows = (
        (name, f"{found.result.scores.miou:.4f}", f"{found.result.scores.pixel_accuracy:.4f}",
         parameters(found.cost.parameters), f"{found.cost.speed.frames_per_second:.0f}")
        for name, found in result.evaluations.items()
    )  # fmt: skip
    miou = result.miou
    return [
        grid(("network", "test mIoU", "pixel accuracy", "parameters", "frames/s"), rows),
        f"baseline {miou['baseline']:.4f} -> distilled {miou['distilled']:.4f} "
        f"({100 * result.gain:+.1f} points of mIoU, the same network, no cost when it runs)",
        "",
        "pictures:",
        *(f"  {place(path)}" for path in result.pictures),
        "run files, to change and run again:",
        *(f"  {place(path)}" for path in result.run_files),
    ]
