"""Scores as text: one model class by class, several side by side, and along clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.commands.quantities import gflops, parameters, place
from stillroom.commands.show.grid import grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from stillroom.pipeline.evaluation import Evaluation
    from stillroom.pipeline.video import VideoEvaluation
    from stillroom.stages.evaluate.clip_scores import ClipScores, VideoScores
    from stillroom.stages.models.looks_settings import LooksSettings

MOST_CLIPS, MOST_FAULTS = 10, 10  # lines; `--json` has all


def evaluations(found: Sequence[Evaluation]) -> list[RenderableType]:
    """Lay out the scores of models, and what they cost."""
    parts = _of_tasks(found)
    if with_classes := [one for one in found if one.segmentation is not None]:
        one = len(with_classes) == 1
        parts = [*(_one(with_classes[0]) if one else _side_by_side(with_classes)), *parts]
    else:
        parts += [f"{one.model}: {_cost(one)}" for one in found]
    videos = {one.model: one.video for one in found if one.video is not None}
    if videos:
        parts += ["", *_along_clips(videos)]
    if found[0].sheet is not None:
        parts.append(f"predictions: {place(found[0].sheet)}")
    return [*parts, *(f"along a clip: {place(path)}" for path in found[0].pictures)]


def _one(found: Evaluation) -> list[RenderableType]:
    scores = found.result.scores
    columns = scores.iou, scores.accuracy, found.result.boundary.iou
    rows = zip(scores.classes, *(map(_score, column) for column in columns), strict=True)
    return [
        f"{found.model} on {_place(found)}",
        grid(("class", "IoU", "accuracy", "boundary IoU"), rows),
        f"mIoU {scores.miou:.4f}   pixel accuracy {scores.pixel_accuracy:.4f}   "
        f"mean accuracy {scores.mean_accuracy:.4f}   "
        f"boundary mIoU {found.result.boundary.miou:.4f}",
        *_remarks(found),
        _cost(found),
    ]


def _cost(found: Evaluation) -> str:
    cost = found.cost
    return (
        f"{parameters(cost.parameters)} parameters   {gflops(cost.flops)} GFLOPs at "
        f"{cost.height}x{cost.width}   {cost.speed.frames_per_second:.1f} frames/s "
        f"(median {_ms(cost.speed.median_ms)}, p95 {_ms(cost.speed.p95_ms)}) "
        f"on {cost.speed.device}"
    )


def _of_tasks(found: Sequence[Evaluation]) -> list[RenderableType]:
    """Lay out a table for each task beside classes, a line a model."""
    parts: list[RenderableType] = []
    for task in dict.fromkeys(task for one in found for task in one.tasks):
        scored = [(one.model, one.tasks[task]) for one in found if task in one.tasks]
        first = scored[0][1]
        rows = [[name, *(f"{each:.4f}" for each in one.scores.values())] for name, one in scored]
        parts += [
            f"{task} of {found[0].source}, {first.frames} frames, size: {first.size}",
            grid((task, *first.scores), rows),
        ]
        if first.without:
            parts.append(f"frames without {task}, not predicted: {first.without}")
        skipped = [f"{frame.frame_id}: {frame.reason}" for frame in first.skipped]
        bad = [f"{frame.frame_id}: {frame.reason}" for frame in first.bad_targets]
        parts += [*_faults(skipped, "frame"), *_faults(bad, task)]
    return parts


def _side_by_side(found: Sequence[Evaluation]) -> list[RenderableType]:
    first, cost = found[0], found[0].cost
    columns = (map(_score, one.result.scores.iou) for one in found)
    classes = zip(first.result.scores.classes, *columns, strict=True)
    heads = (
        "",
        "mIoU",
        "pixel accuracy",
        "boundary mIoU",
        "parameters",
        "GFLOPs",
        "frames/s",
        "median",
        "p95",
    )
    return [
        f"{len(found)} models on {_place(first)}",
        grid(("IoU", *(one.model for one in found)), classes),
        "",
        grid(heads, map(_line, found)),
        *_remarks(first),
        f"at {cost.height}x{cost.width} on {cost.speed.device}",
    ]


def _line(one: Evaluation) -> list[str]:
    scores, cost = one.result.scores, one.cost
    return [
        one.model,
        f"{scores.miou:.4f}",
        f"{scores.pixel_accuracy:.4f}",
        f"{one.result.boundary.miou:.4f}",
        parameters(cost.parameters),
        gflops(cost.flops),
        f"{cost.speed.frames_per_second:.1f}",
        _ms(cost.speed.median_ms),
        _ms(cost.speed.p95_ms),
    ]


def _place(found: Evaluation) -> str:
    place = f"{found.source}, {found.result.frames} frames, size: {found.result.size}"
    return place + _looks(found.looks) if found.looks.several() else place


def _looks(looks: LooksSettings) -> str:
    parts = [f"scales {', '.join(f'{scale:g}' for scale in looks.scales)}"]
    parts += ["mirror images"] if looks.flip else []
    if looks.tile is not None:
        parts.append(f"windows of {looks.tile[0]}x{looks.tile[1]}")
    return f"; looks: {'; '.join(parts)}"


def _remarks(found: Evaluation) -> list[str]:
    """Return what the scores leave out; it is the same for all models."""
    remarks = []
    if found.result.scores.absent:
        absent = ", ".join(found.result.scores.absent)
        remarks.append(f"no pixel in the labels, left out of the means: {absent}")
    if found.result.scores.ignored:
        ignored = ", ".join(found.result.scores.ignored)
        remarks.append(f"ignored, left out of the means: {ignored}")
    if found.result.unlabelled:
        remarks.append(f"frames without a label, not predicted: {found.result.unlabelled}")
    skipped = [f"{frame.frame_id}: {frame.reason}" for frame in found.result.skipped]
    bad_labels = [f"{frame.frame_id}: {frame.reason}" for frame in found.result.bad_labels]
    return remarks + _faults(skipped, "frame") + _faults(bad_labels, "label")


def _along_clips(found: dict[str, VideoEvaluation]) -> list[RenderableType]:
    first = next(iter(found.values()))
    settings, scores = first.settings, first.scores
    rows: list[list[str]] = []
    for model, one in found.items():
        clips = one.scores.clips
        if len(clips) <= MOST_CLIPS:
            rows += [[model, clip.name, *_steadiness(clip)] for clip in clips]
        if len(clips) > 1:
            rows.append([model, f"all {len(clips)}", *_steadiness(one.scores)])
    heads = (
        "",
        "clip",
        "pairs",
        "TC",
        "visible",
        "as released",
        "pixels that stay",
        "visible",
        "Tsb",
        "frame error",
    )
    parts: list[RenderableType] = [
        f"along {settings.source}, flow {settings.flow}",
        grid(heads, rows, left=(0, 1)),
    ]
    missing = sum(clip.missing_pairs for clip in scores.clips)
    if missing:
        parts.append(
            f"pairs left out, since a frame is missing, unusable or of another size: {missing}"
        )
    return [
        *parts,
        *_faults([f"{frame.frame_id}: {frame.reason}" for frame in scores.skipped], "frame"),
        *_faults([f"{clip.clip}: {clip.reason}" for clip in scores.left_out], "clip"),
        "TC: mIoU of predictions with the next frame's; Tsb: warping error of probabilities; frame "
        "error: of the frames, the flow's own",
    ]


def _steadiness(found: ClipScores | VideoScores) -> list[str]:
    whole, visible = found.consistency.whole, found.consistency.visible
    return [
        f"{found.pairs}",
        f"{whole.miou:.4f}",
        _score(None if visible is None else visible.miou),
        f"{found.consistency.released:.4f}",
        f"{whole.pixels:.4f}",
        _score(None if visible is None else visible.pixels),
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


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"
