"""A run's metrics as curves, drawn into its folder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stillroom.stages.pictures.curve_chart import Panel, curve_chart
from stillroom.stages.train.metrics import read_metrics

if TYPE_CHECKING:
    from pathlib import Path

CURVES = "curves.png"


def draw_curves(folder: Path) -> None:
    """Draw the loss, its terms and the validation scores of a run over its steps."""
    lines = read_metrics(folder)
    losses = [line for line in lines if "terms" in line]
    scores = [line for line in lines if "miou" in line.get("scores", {})]
    if not losses:
        return

    def over_steps(found: list[dict[str, Any]], values: list[float]) -> Any:
        return [line["step"] for line in found], values

    names = list(losses[0]["terms"])
    terms = {
        name: over_steps(losses, [line["terms"].get(name, math.nan) for line in losses])
        for name in names
    }
    panels = [
        Panel("loss", {"loss": over_steps(losses, [line["loss"] for line in losses])}),
        Panel("terms, unweighted", terms, logarithmic=True),
    ]
    gradients = [line for line in lines if "gradients" in line]
    if len(gradients) > 1:
        own = {
            name: over_steps(gradients, [line["gradients"].get(name, 0.0) for line in gradients])
            for name in gradients[0]["gradients"]
        }
        panels.append(Panel("gradients of the terms, weighted: 2-norm", own, logarithmic=True))
    if scores:
        miou = over_steps(scores, [line["scores"]["miou"] for line in scores])
        panels.append(Panel("validation mIoU", {"mIoU": miou}))
    curve_chart(folder / CURVES, panels, title=folder.name)
