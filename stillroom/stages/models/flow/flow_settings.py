"""What the sections of all flow models have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from stillroom.stages.models.weights import weights_sha256
from stillroom.stages.settings import KindSettings


class FlowSettings(KindSettings):
    """Where a flow model runs, and how precisely.

    device: "auto" takes the first CUDA device, or the CPU
    precision: of the arithmetic, by autocast; coordinates, correlations and the flow stay float32
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"

    def content(self) -> dict[str, Any]:
        """Hashes of the files that the model comes from, in place of their paths."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Everything that decides what this model says about a pair, as JSON. No path is in it.

        Raises:
            WeightsError: a file that must be hashed is not there.
        """
        return {**self.model_dump(mode="json", exclude={"weights"}), **self.content()}


class LearntFlowSettings(FlowSettings):
    """A network, which is nothing without its weights: nothing is downloaded, nothing is random.

    weights: a local file, .safetensors or .pth
    """

    weights: Path

    def content(self) -> dict[str, Any]:
        """The sha256 of the weights."""
        return {"weights_sha256": weights_sha256(self.weights)}
