"""How a model of transformers is called: for logits before upsampling, and their features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stillroom.stages.models.dense_network import PENULTIMATE, with_layers
from stillroom.storage_specs.artifacts import LOGITS

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput


class HfForward:
    """Calls a model: logits as its classifier computes them where it was found, else its own."""

    def __init__(self, model: Any, classes: int) -> None:
        self._model, self._classes = model, classes
        self._searched = False
        self._classifier: nn.Module | None = None

    def __call__(self, images: Tensor) -> ModelOutput:
        """Return logits, and "penultimate" where the classifier was found."""
        if not self._searched:
            self.search(images)
        if self._classifier is None:
            return {LOGITS: self._model(pixel_values=images).logits}
        return self._through(self._classifier, images)

    def search(self, like: Tensor) -> None:
        """Find the convolution whose output is the model's logits but for upsampling.

        Models name it differently, and some have a second one for an auxiliary loss: so its output
        is compared.

        Args:
            like: an input, of a shape that the model takes
        """
        noise = torch.rand(1, *like.shape[1:], generator=torch.Generator().manual_seed(0))
        images = noise.to(like.device)
        layers = [
            layer
            for layer in self._model.modules()
            if isinstance(layer, nn.Conv2d) and layer.out_channels == self._classes
        ]
        with torch.no_grad():
            final = self._model(pixel_values=images).logits
            self._classifier = next(
                (layer for layer in reversed(layers) if self._makes(layer, images, final)), None
            )
        self._searched = True

    def _makes(self, layer: nn.Module, images: Tensor, final: Tensor) -> bool:
        """Whether a layer's output, upsampled, is the model's."""
        kept = self._through(layer, images)
        return LOGITS in kept and any(
            torch.allclose(
                torch.nn.functional.interpolate(
                    kept[LOGITS], size=final.shape[-2:], mode="bilinear", align_corners=corners
                ),
                final,
                rtol=1e-4,
                atol=1e-5,
            )
            for corners in (False, True)
        )

    def _through(self, classifier: nn.Module, images: Tensor) -> ModelOutput:
        kept: ModelOutput = {}

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept.update(with_layers({PENULTIMATE: inputs[0]}, logits=output))

        handle = classifier.register_forward_hook(keep)
        try:
            self._model(pixel_values=images)
        finally:
            handle.remove()
        return kept
