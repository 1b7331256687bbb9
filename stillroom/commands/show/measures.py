"""Reports of what a cache is worth: its fidelity to the teacher, its statistics, its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.commands.quantities import size
from stillroom.commands.show.reports import Shown, array_name, grid

if TYPE_CHECKING:
    from stillroom.pipeline.cache_tools.fidelity_of_set import SetFidelity
    from stillroom.pipeline.cache_tools.size import SizePlan
    from stillroom.pipeline.cache_tools.statistics import SetStats, StatsReport
    from stillroom.stages.evaluate.confusion import Scores
    from stillroom.stages.evaluate.output_errors import ArtifactFidelity


def fidelity(found: list[SetFidelity]) -> Shown:
    """What the cache says against the teacher live; then what warping costs."""
    parts: list[Any] = []
    for one in found:
        if parts:
            parts.append("")
        parts.append(f"{one.teacher} on {one.source}, {one.frames} frames, against it live")
        if one.device[0] != one.device[1]:
            parts.append(f"cached on {one.device[0]}, live on {one.device[1]}")
        table = grid("artifact", "codec", "max", "mean", "bound", "of bound", "a frame")
        table.columns[1].justify = "left"
        equal: list[str] = []
        logits = grid("logits", "KL", "spatial KL", "same class")
        for artifact in (*one.artifacts, *one.others):
            codec = f"({artifact.codec})" if artifact in one.others else artifact.codec
            table.add_row(*_errors(artifact, codec))
            if not artifact.bound and artifact.differing:
                share = f"{artifact.differing:.2g} of the pixels differ"
                equal.append(f"{artifact.artifact}: {share}")
            if artifact.kl is not None:
                logits.add_row(codec, *_divergences(artifact))
        parts += ["", "absolute error; in brackets: another codec, on the same live outputs", table]
        parts += equal
        parts += [f"{name}: {why}" for name, why in one.refused.items()]
        if logits.row_count:
            parts += ["", "nats a cell, nats a channel (T = 4), share of the cells", logits]
        if one.views:
            views = grid(
                "view", "KL", "same class", "mIoU live", "cached", "accuracy live", "cached"
            )
            for view in one.views:
                scores = (*_scores(view.live, view.said, "miou"),
                          *_scores(view.live, view.said, "pixel_accuracy"))  # fmt: skip
                views.add_row(view.view, f"{view.kl:.4f}", f"{view.agreement:.4f}", *scores)
            parts += ["", "cached and warped, against the teacher live on the warped frame", views]
        parts += ["", *one.recommendation]
        if one.picture is not None:
            parts.append(f"picture: {one.picture}")
    return Shown(parts, {"sets": [one.document() for one in found]})


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


def _divergences(one: ArtifactFidelity) -> list[str]:
    return [f"{one.kl:.2e}", f"{one.spatial_kl:.2e}", f"{one.agreement:.4f}"]


def _scores(live: Scores | None, said: Scores | None, name: str) -> tuple[str, str]:
    if live is None or said is None:
        return "-", "-"
    return f"{getattr(live, name):.4f}", f"{getattr(said, name):.4f}"


def stats(found: StatsReport) -> Shown:
    """Classes, confidence and thresholds of every teacher's set."""
    parts: list[Any] = []
    for one in found.sets:
        if parts:
            parts.append("")
        document = one.document()
        head = f"{one.teacher} on {one.source}, {one.stats.frames} frames"
        if one.missing_shards:
            head += f"; {one.missing_shards} shards are missing"
        parts += [head, _class_table(one, document), ""]
        for name, values in document.get("ranges", {}).items():
            parts.append(_range(name, values))
        if not one.stats.pixels:
            if not one.stats.ranges:
                parts.append("neither logits nor confidence are cached: no threshold can be judged")
            continue
        table = grid("threshold", "kept", "right among the kept")
        for step in document["thresholds"]:
            right = "-" if step["accuracy"] is None else f"{step['accuracy']:.2%}"
            table.add_row(f"{step['threshold']:.2f}", f"{step['kept']:.2%}", right)
        parts.append(table)
    if found.features is not None:
        parts.append(f"features: {found.features}")
    if found.picture is not None:
        parts.append(f"picture: {found.picture}")
    files = {"features": found.features, "picture": found.picture}
    return Shown(
        parts,
        {
            "sets": [one.document() for one in found.sets],
            **{name: None if path is None else str(path) for name, path in files.items()},
        },
    )


def _range(artifact: str, values: dict[str, float | None]) -> str:
    if not values["present"]:
        return f"{artifact}: no position has a value"
    least, mean, greatest = (f"{values[key]:.4g}" for key in ("least", "mean", "greatest"))
    return (
        f"{artifact}: {least} to {greatest}, mean {mean}; "
        f"{values['present']:.2%} of the positions have a value"
    )


def _class_table(one: SetStats, document: dict[str, Any]) -> Any:
    """The share of the pixels that each class has, in labels and in the teacher's words."""
    columns = ("labels", "pseudo_label", "argmax_of_logits")
    held = [name for name in columns if document[name]]
    table = grid("class", *(name.replace("_", " ") for name in held))
    totals = {name: sum(document[name].values()) for name in held}
    for name in (*one.classes, "none"):
        counts = [document[column].get(name, 0) for column in held]
        if any(counts) or len(one.classes) <= 40:
            shares = zip(counts, held, strict=True)
            table.add_row(name, *(f"{count / totals[column]:.2%}" for count, column in shares))
    return table


def sizes(found: SizePlan) -> Shown:
    """What each tier would take, array by array."""
    plan = grid("set", "frames", *(f"{tier} shards" for tier in found.tiers))
    for one in found.sets:
        plan.add_row(f"{one.source}/{one.set_name}", f"{one.frames}",
                     *(f"{one.shards[tier]}" for tier in found.tiers))  # fmt: skip
    table = grid("array", *found.tiers)
    for one in found.sets:
        for artifact in one.artifacts:
            used = (size(one.bytes[tier][artifact]) for tier in found.tiers)
            table.add_row(array_name(one.source, one.set_name, artifact), *used)
    totals = {tier: found.total(tier) for tier in found.tiers}
    table.add_row("in all", *(size(total) for total in totals.values()))
    table.add_row("a frame", *(size(total / max(1, found.frames)) for total in totals.values()))
    said = f"measured on {found.sample_frames} frames of each source; nothing written."
    free = "" if found.free_bytes is None else f" free disk: {size(found.free_bytes)}"
    parts: list[Any] = [plan, "", table, "", said + free]
    if found.overridden:
        parts.append(f"cache.codecs holds in every tier: {', '.join(found.overridden)}")
    return Shown(parts, found.document())
