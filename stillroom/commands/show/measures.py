"""The quality of a cache as text: its fidelity to the teacher, its statistics, its size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stillroom.commands.quantities import place, size
from stillroom.commands.show.grid import array_name, grid

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from stillroom.pipeline.cache_tools.fidelity import SetFidelity
    from stillroom.pipeline.cache_tools.size import SizePlan
    from stillroom.pipeline.cache_tools.statistics import StatsReport
    from stillroom.pipeline.cache_tools.stats_counter import SetStats
    from stillroom.stages.evaluate.equivariance import ViewFidelity
    from stillroom.stages.evaluate.output_errors import ArtifactFidelity


def fidelity(found: list[SetFidelity]) -> list[RenderableType]:
    """Lay out the cache against the teacher live; then what warping costs."""
    parts: list[RenderableType] = []
    for one in found:
        parts += ["", *_fidelity_of_set(one)] if parts else _fidelity_of_set(one)
    return parts


def _fidelity_of_set(one: SetFidelity) -> list[RenderableType]:
    parts: list[RenderableType] = [
        f"{one.teacher} on {one.source}, {one.frames} frames, against it live"
    ]
    if one.device[0] != one.device[1]:
        parts.append(f"cached on {one.device[0]}, live on {one.device[1]}")
    named = [(artifact, artifact.codec) for artifact in one.artifacts]
    named += [(artifact, f"({artifact.codec})") for artifact in one.others]
    columns = "artifact", "codec", "max", "mean", "bound", "of bound", "a frame"
    errors = grid(columns, (_errors(artifact, codec) for artifact, codec in named), left=(0, 1))
    parts += ["", "absolute error; in brackets: another codec, on the same live outputs", errors]
    parts += [
        f"{artifact.artifact}: {artifact.differing:.2g} of the pixels differ"
        for artifact, _ in named
        if not artifact.bound and artifact.differing
    ]
    parts += [
        f"{artifact.artifact} {codec}: within {artifact.relative_error:.2g} of each value"
        for artifact, codec in named
        if artifact.relative_error is not None
    ]
    parts += [
        f"{artifact.artifact} {codec}: mean cosine {artifact.cosine:.6f}"
        for artifact, codec in named
        if artifact.cosine is not None
    ]
    parts += [f"{name}: {why}" for name, why in one.refused.items()]
    divergences = [
        (codec, f"{artifact.kl:.2e}", f"{artifact.spatial_kl:.2e}", f"{artifact.agreement:.4f}")
        for artifact, codec in named
        if artifact.kl is not None
    ]
    if divergences:
        logits = grid(("logits", "KL", "spatial KL", "same class"), divergences)
        parts += ["", "nats a position, nats a channel (T = 4), share of the positions", logits]
    if one.views:
        columns = "view", "KL", "same class", "mIoU live", "cached", "accuracy live", "cached"
        views = grid(columns, map(_view, one.views))
        parts += ["", "cached and warped, against the teacher live on the warped frame", views]
    parts += ["", *one.recommendation]
    return parts if one.picture is None else [*parts, f"picture: {place(one.picture)}"]


def _errors(one: ArtifactFidelity, codec: str) -> list[str]:
    return [
        one.artifact,
        codec,
        f"{one.max_error:.2g}" if one.bound else "-",
        f"{one.mean_error:.2g}" if one.bound else "-",
        f"{one.bound:.2g}",
        f"{one.of_bound:.3f}" if one.bound else "-",
        size(one.bytes),
    ]


def _view(view: ViewFidelity) -> list[str]:
    scores = ["-"] * 4
    if view.live is not None and view.cached is not None:
        both = view.live, view.cached
        scores = [f"{each.miou:.4f}" for each in both]
        scores += [f"{each.pixel_accuracy:.4f}" for each in both]
    return [view.view, f"{view.kl:.4f}", f"{view.agreement:.4f}", *scores]


def stats(found: StatsReport) -> list[RenderableType]:
    """Lay out classes, confidence and thresholds of every teacher's set."""
    parts: list[RenderableType] = []
    for one in found.sets:
        parts += ["", *_stats_of_set(one)] if parts else _stats_of_set(one)
    if found.features is not None:
        parts.append(f"features: {place(found.features)}")
    if found.picture is not None:
        parts.append(f"picture: {place(found.picture)}")
    return parts


def _stats_of_set(one: SetStats) -> list[RenderableType]:
    document = one.to_dict()
    head = f"{one.teacher} on {one.source}, {one.stats.frames} frames"
    if one.missing_shards:
        head += f"; {one.missing_shards} shards are missing"
    parts: list[RenderableType] = [head]
    if one.stats.of_classes or not one.stats.ranges:
        parts += [_class_table(one, document), ""]
        parts += _class_weights(document["class_weights"])
    parts += [_range(name, values) for name, values in document.get("ranges", {}).items()]
    if not one.stats.pixels:
        if not one.stats.ranges:
            parts.append("neither logits nor confidence are cached: no threshold can be judged")
        return parts
    thresholds = (
        (
            f"{step['threshold']:.2f}",
            f"{step['kept']:.2%}",
            "-" if step["accuracy"] is None else f"{step['accuracy']:.2%}",
        )
        for step in document["thresholds"]
    )
    return [*parts, grid(("threshold", "kept", "right among the kept"), thresholds)]


def _class_weights(weights: dict[str, float]) -> list[RenderableType]:
    """Lay out weights as a line for the run file's terms on labels."""
    if not weights:
        return []
    entries = ", ".join(f"{json.dumps(name)} = {weight:g}" for name, weight in weights.items())
    return [f"class_weights = {{ {entries} }}  # 1 / ln(1.02 + share)", ""]


APART = ("present", "histogram")  # of a range: what is no value of it


def _range(artifact: str, values: dict[str, Any]) -> str:
    if not values["present"]:
        return f"{artifact}: no position has a value"
    shown = {key: f"{value:.4g}" for key, value in values.items() if key not in APART}
    return (
        f"{artifact}: {shown['least']} to {shown['greatest']}, mean {shown['mean']}; 5 % below "
        f"{shown['quantile_05']}, half below {shown['quantile_50']}, 95 % below "
        f"{shown['quantile_95']}; {values['present']:.2%} of the positions have a value, in "
        f"{values['frames']} frames"
    )


def _class_table(one: SetStats, document: dict[str, Any]) -> Table:
    """Lay out each class's share of the pixels, in labels and in the teacher's output."""
    held = [name for name in ("labels", "pseudo_label", "argmax_of_logits") if document[name]]
    totals = {name: sum(document[name].values()) for name in held}
    rows = []
    for name in (*one.classes, "none"):
        counts = {column: document[column].get(name, 0) for column in held}
        if any(counts.values()) or len(one.classes) <= 40:
            rows.append([name, *(f"{counts[each] / totals[each]:.2%}" for each in held)])
    return grid(("class", *(name.replace("_", " ") for name in held)), rows)


def sizes(found: SizePlan) -> list[RenderableType]:
    """Lay out what each tier would take, array by array."""
    sets = (
        (f"{one.source}/{one.set_name}", one.frames, *(one.shards[tier] for tier in found.tiers))
        for one in found.sets
    )
    arrays = [
        [array_name(one.source, one.set_name, artifact),
         *(size(one.bytes[tier][artifact]) for tier in found.tiers)]
        for one in found.sets
        for artifact in one.artifacts
    ]  # fmt: skip
    totals = [found.total(tier) for tier in found.tiers]
    arrays.append(["in all", *map(size, totals)])
    arrays.append(["a frame", *(size(total / max(1, found.frames)) for total in totals)])
    free = "" if found.free_bytes is None else f" free disk: {size(found.free_bytes)}"
    measured = f"measured on {found.sample_frames} frames of each source; nothing written.{free}"
    parts: list[RenderableType] = [
        grid(("set", "frames", *(f"{tier} shards" for tier in found.tiers)), sets),
        "",
        grid(("array", *found.tiers), arrays),
        "",
        measured,
    ]
    if found.overridden:
        parts.append(f"cache.codecs holds in every tier: {', '.join(found.overridden)}")
    return parts
