"""Teachers that a user's own function builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.python_target import Target, call_target
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.weights import load_weights
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.stages.models.dense_network import TeacherNetwork


class PythonTeacherConfig(TeacherSettings):
    """Whatever `target` returns: a module or callable from normalised images to named grids.

    It gets (B, 3, H, W) float32 and gives logits (B, C, h, w), or a dict of some of "logits",
    "features" (a dict of (B, A, h', w') by layer) and "depth" (B, h, w), in metres, 0: no value.

    Attributes:
        target: "module:function", called with `options`
        weights: loaded strictly into the module that it returns, if given
        weights_key: where in the file they are, if it holds several such networks
        version: part of the identity; change it when the function changes, so that no cache of the
            old one is taken for the new one's
    """

    kind: Literal["python"]
    target: Target
    weights: Path | None = None
    weights_key: WeightsKey = None
    options: dict[str, Any] = Field(default_factory=dict)
    version: str = "1"

    @property
    def may_lack_classes(self) -> bool:
        """Any network of one's own may."""
        return True


def load_python(config: PythonTeacherConfig) -> TeacherNetwork:
    """Call the user's function and load the weights into what it returns.

    Raises:
        ConfigError: no such function, or it does not return a network.
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    from torch import nn

    from stillroom.stages.models.dense_network import TeacherNetwork, as_model_output

    network = call_target(config.target, config.options)
    if not callable(network):
        raise ConfigError(
            f"target {config.target!r}: expected a module or callable, got {type(network).__name__}"
        )
    module = network if isinstance(network, nn.Module) else None
    if config.weights is not None:
        if module is None:
            raise ConfigError(
                f"target {config.target!r}: returns no torch module, so `weights` cannot be "
                "loaded; leave the key out and let the function load its own"
            )
        load_weights(module, config.weights, key=config.weights_key)
    return TeacherNetwork(
        module=module,
        forward=lambda images: as_model_output(network(images)),
        multiple=1,
        channels_last=False,
    )
