"""Reports of scores: one model class by class, several side by side, and along clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.commands.quantities import gflops, parameters
from stillroom.commands.show.reports import Shown, grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.pipeline.evaluation import Evaluation
    from stillroom.pipeline.video import VideoEvaluation
    from stillroom.stages.evaluate.footage import ClipScores, FootageScores

MOST_CLIPS, MOST_FAULTS = 10, 10  # lines; `--json` has all


def evaluations(found: Sequence[Evaluation]) -> Shown:
    """Scores of models, and what they cost; the document of one model is its own."""
    parts = _one(found[0]) if len(found) == 1 else _side_by_side(found)
    videos = {one.model: one.video for one in found if one.video is not None}
    if videos:
        parts += ["", *_along_clips(videos)]
    if found[0].sheet is not None:
        parts.append(f"predictions: {found[0].sheet}")
    parts += [f"along a clip: {path}" for path in found[0].pictures]
    documents = [one.document() for one in found]
    return Shown(parts, documents[0] if len(found) == 1 else {"models": documents})


def _one(found: Evaluation) -> list[Any]:
    scores, cost = found.result.scores, found.cost
    table = grid("class", "IoU", "accuracy")
    for name, iou, accuracy in zip(scores.classes, scores.iou, scores.accuracy, strict=True):
        table.add_row(name, _said(iou), _said(accuracy))
    return [
        f"{found.model} on {found.source}, {found.result.frames} frames",
        table,
        f"mIoU {scores.miou:.4f}   pixel accuracy {scores.pixel_accuracy:.4f}   "
        f"mean accuracy {scores.mean_accuracy:.4f}",
        *_remarks(found),
        f"{parameters(cost.parameters)} parameters   {gflops(cost.flops)} GFLOPs at "
        f"{cost.height}x{cost.width}   {cost.speed.frames_per_second:.1f} frames/s "
        f"(median {_ms(cost.speed.median_ms)}, p95 {_ms(cost.speed.p95_ms)}) "
        f"on {cost.speed.device}",
    ]


def _side_by_side(found: Sequence[Evaluation]) -> list[Any]:
    first = found[0]
    classes = grid("IoU", *(one.model for one in found))
    for place, name in enumerate(first.result.scores.classes):
        classes.add_row(name, *(_said(one.result.scores.iou[place]) for one in found))
    table = grid("", "mIoU", "pixel accuracy", "parameters", "GFLOPs", "frames/s", "median", "p95")
    for one in found:
        scores, cost = one.result.scores, one.cost
        table.add_row(
            one.model,
            f"{scores.miou:.4f}",
            f"{scores.pixel_accuracy:.4f}",
            parameters(cost.parameters),
            gflops(cost.flops),
            f"{cost.speed.frames_per_second:.1f}",
            _ms(cost.speed.median_ms),
            _ms(cost.speed.p95_ms),
        )
    cost = first.cost
    return [
        f"{len(found)} models on {first.source}, {first.result.frames} frames",
        classes,
        "",
        table,
        *_remarks(first),
        f"at {cost.height}x{cost.width} on {cost.speed.device}",
    ]


def _remarks(found: Evaluation) -> list[str]:
    """What the scores leave out; the same of all models."""
    said = []
    if found.result.scores.absent:
        absent = ", ".join(found.result.scores.absent)
        said.append(f"no pixel in the labels, left out of the means: {absent}")
    if found.result.unlabelled:
        said.append(f"frames without a label, not predicted: {found.result.unlabelled}")
    skipped = [f"{frame.frame_id}: {frame.reason}" for frame in found.result.skipped]
    return said + _faults(skipped, "frame")


def _along_clips(found: dict[str, VideoEvaluation]) -> list[Any]:
    first = next(iter(found.values()))
    settings, scores = first.settings, first.scores
    table = grid(
        "", "clip", "pairs", "TC", "visible", "pixels that stay", "visible", "Tsb", "frame error"
    )
    table.columns[1].justify = "left"
    for model, one in found.items():
        rows: list[tuple[str, ClipScores | FootageScores]]
        rows = [(f"all {len(one.scores.clips)}", one.scores)]
        if len(one.scores.clips) <= MOST_CLIPS:
            rows = [(clip.name, clip) for clip in one.scores.clips] + rows * (len(scores.clips) > 1)
        for name, row in rows:
            table.add_row(model, name, f"{row.pairs}", *_steadiness(row))
    missing = sum(clip.missing_pairs for clip in scores.clips)
    skipped = [f"{frame.frame_id}: {frame.reason}" for frame in scores.skipped]
    left_out = [f"{clip.clip}: {clip.reason}" for clip in scores.left_out]
    parts: list[Any] = [f"along {settings.source}, flow {settings.flow}", table]
    if missing:
        parts.append(
            f"pairs left out, since a frame is missing, unusable or of another size: {missing}"
        )
    return [
        *parts,
        *_faults(skipped, "frame"),
        *_faults(left_out, "clip"),
        "TC: mIoU of predictions with the next frame's; Tsb: warping error of probabilities; frame "
        "error: of the frames, the flow's own",
    ]


def _steadiness(found: ClipScores | FootageScores) -> list[str]:
    whole, visible = found.consistency.whole, found.consistency.visible
    return [
        f"{whole.miou:.4f}",
        _said(None if visible is None else visible.miou),
        f"{whole.pixels:.4f}",
        _said(None if visible is None else visible.pixels),
        f"{found.stability:.5f}",
        f"{found.frame_error:.5f}",
    ]


def _faults(lines: Sequence[str], what: str) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - MOST_FAULTS} more"] if len(lines) > MOST_FAULTS else []
    return [
        f"{len(lines)} {what}{'s' * (len(lines) > 1)} could not be used:",
        *(f"  {line}" for line in lines[:MOST_FAULTS]),
        *more,
    ]


def _ms(time: float) -> str:
    return f"{time:.0f} ms" if time >= 20 else f"{time:.1f} ms"


def _said(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"
