"""What the sections of all flow models have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stillroom.stages.models.model_settings import ModelSettings, WeightsKey


class FlowSettings(ModelSettings):
    """Where a flow model runs, and how precisely.

    Attributes:
        device: "auto" takes the first CUDA device, or the CPU
        precision: of the arithmetic, by autocast; coordinates, correlations and the flow stay
            float32
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"


class LearntFlowSettings(FlowSettings):
    """A network, which needs its weights: nothing is downloaded, nothing is random.

    Attributes:
        weights: a local file, .safetensors or .pth
        weights_key: where in the file they are, if it holds several such networks
    """

    weights: Path
    weights_key: WeightsKey = None
