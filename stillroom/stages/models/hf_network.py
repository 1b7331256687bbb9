"""Models of transformers as teachers and students call them: logits before upsampling, features."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stillroom.stages.models.dense_network import PENULTIMATE, with_layers
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import demand_finite
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError, WeightsError
from stillroom.storage_specs.extras import how_to_install

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput


def import_transformers(who: str) -> Any:
    """Import transformers.

    Args:
        who: needs it, for the message: "teachers"

    Raises:
        ConfigError: it is not installed.
    """
    import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"{who} of kind 'hf' need transformers; {how_to_install('transformers')}"
        ) from error
    return transformers


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Hide the loading bar of transformers."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def as_weights_error(what: str) -> Iterator[None]:
    """Name the model, as `what`, in whatever transformers raises while it loads one."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{what}: cannot be loaded: {error}") from error


def demand_whole(model: Any, report: Mapping[str, Any], path: str) -> Any:
    """Return a teacher's model.

    Args:
        report: what transformers says of loading it from `path`

    Raises:
        WeightsError: the files do not fill it, or are not finite.
    """
    for what in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, report.get(what, ())))
        if names:
            raise WeightsError(
                f"teacher {path}: the files do not fill the network: {len(names)} {what}: "
                f"{', '.join(names[:4])}; save it again with save_pretrained"
            )
    demand_finite(model.state_dict(), Path(path))
    return model


class HfForward:
    """Calls a model: logits as its classifier computes them where it was found, else its own."""

    def __init__(self, model: Any, classes: int) -> None:
        self._model, self._classes = model, classes
        self._searched = False
        self._classifier: str | None = None

    def __call__(self, images: Tensor) -> ModelOutput:
        """Return logits, and "penultimate" where the classifier was found."""
        if not self._searched:
            self.search(images)
        return run_hf(self._model, images, self._classifier)

    def search(self, like: Tensor) -> None:
        """Find the classifier.

        Args:
            like: an input, of a shape that the model takes
        """
        self._classifier = find_classifier(self._model, self._classes, like)
        self._searched = True


def find_classifier(model: Any, classes: int, like: Tensor) -> str | None:
    """Name the convolution whose output is the model's logits but for upsampling; None: none is.

    Models name it differently, and some have a second one for an auxiliary loss: so its output is
    compared.

    Args:
        like: an input, of a shape that the model takes
    """
    noise = torch.rand(1, *like.shape[1:], generator=torch.Generator().manual_seed(0))
    images = noise.to(like.device)
    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.out_channels == classes
    ]
    with torch.no_grad():
        final = model(pixel_values=images).logits
        return next((name for name in reversed(names) if _makes(model, name, images, final)), None)


def run_hf(model: Any, images: Tensor, classifier: str | None) -> ModelOutput:
    """Compute logits, and "penultimate" where the name of the classifier is known.

    Args:
        images: (B, 3, H, W) normalised
    """
    if classifier is None:
        return {LOGITS: model(pixel_values=images).logits}
    kept: ModelOutput = {}

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.update(with_layers({PENULTIMATE: inputs[0]}, logits=output))

    handle = model.get_submodule(classifier).register_forward_hook(keep)
    try:
        model(pixel_values=images)
    finally:
        handle.remove()
    return kept


def _makes(model: Any, classifier: str, images: Tensor, final: Tensor) -> bool:
    """Whether a layer's output, upsampled, is the model's."""
    kept = run_hf(model, images, classifier)
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
