"""Train the auto-encoder of knowledge adaptation on cached features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from stillroom.stages.cache.covariance import Covariance
from stillroom.stages.models.autoencoder import AutoEncoder
from stillroom.stages.settings import Settings
from stillroom.storage_specs.artifacts import CODE, FEATURES, LAYER
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from stillroom.stages.cache.feature_frames import FeatureFrames

    OnStep = Callable[[int, int], None]

MEASURED = 256  # frames on which features and their reconstruction are measured
POLY_POWER = 0.9
LONGER = (2, 4, 8, 16)  # times the epochs that are given
GAIN = 10.0  # of the reconstruction's error in the loss, over the code's channels
Positive = Field(gt=0, allow_inf_nan=False)


class AdaptConfig(Settings):
    """How the code of a teacher's layer is made: the auto-encoder, and its training.

    Attributes:
        layer: of the teacher; "features/<layer>" must be cached
        name: what follows "code/" in the artifact's name; the layer's if left out. Codes of several
            names may stand side by side
        channels: of the code
        strides: of the three convolutions, each 1 or 2
        steps: epochs go on until there were so many; one epoch of a few hundred frames is too
            little for the auto-encoder to beat a PCA of its size, and that of the paper is 661
        beat_pca: while a PCA of the code's size loses less, train anew, twice as long each time
        epochs, batch, lr, momentum, weight_decay: of SGD; lr falls to 0 as (1 - t)^0.9
        sparsity: weight of the L1 norm of a frame's code
        seed: origin of the weights and of the order of the frames
    """

    layer: str = "penultimate"
    name: str | None = None
    channels: int = Field(default=128, gt=0)
    strides: tuple[Literal[1, 2], Literal[1, 2], Literal[1, 2]] = (2, 2, 2)
    epochs: int = Field(default=1, gt=0)
    steps: int | None = Field(default=None, gt=0)
    beat_pca: bool = False
    batch: int = Field(default=16, gt=0)
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    sparsity: float = Field(default=1e-7, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)

    @field_validator("layer", "name")
    @classmethod
    def _is_a_layers_name(cls, name: str | None) -> str | None:
        if name is not None and not LAYER.fullmatch(name):
            raise ConfigError("letters, digits, '_', '.' and '-', a letter or a digit first")
        return name

    @property
    def lengths(self) -> tuple[int, ...]:
        """How long it may be trained, in times of its epochs."""
        return (1, *(LONGER if self.beat_pca else ()))

    @property
    def features(self) -> str:
        """Name of the artifact that is read."""
        return f"{FEATURES}/{self.layer}"

    @property
    def code(self) -> str:
        """Name of the artifact that is made."""
        return f"{CODE}/{self.name or self.layer}"

    def identity(self) -> dict[str, Any]:
        """Return all that the code depends on, as JSON."""
        exclude = {"layer", "name"} | {
            key for key in ("steps", "beat_pca") if not getattr(self, key)
        }
        return {**self.model_dump(mode="json", exclude=exclude), "layer": self.features}


@dataclass(frozen=True)
class Measures:
    """What the code keeps of the features, on `frames` of them.

    Attributes:
        relative_mse: sum of squared errors of the reconstruction / of the distances from the mean
        pca_relative_mse: the same of a PCA of each position's channels, with `pca_components` of
            them: as many as bring `pca_numbers` closest to `code_numbers`, at least 1
        code_numbers, pca_numbers: that each of them stores a frame
    """

    frames: int
    relative_mse: float
    pca_relative_mse: float
    pca_components: int
    code_numbers: int
    pca_numbers: int

    @property
    def beats_pca(self) -> bool:
        """Whether the code loses no more than the PCA."""
        return self.relative_mse <= self.pca_relative_mse


def covariance_of(frames: FeatureFrames, on_step: OnStep) -> Covariance:
    """Compute mean and covariance of the channels at the shown positions of `MEASURED` frames."""
    chosen = frames.spread(MEASURED)
    found = Covariance.empty(frames.channels)
    for done, (features, shown) in enumerate(frames.batches([place] for place in chosen)):
        found = found.merge(Covariance.of(features[0, :, shown[0, 0]].T.numpy()))
        on_step(done + 1, len(chosen))
    return found


def train_autoencoder(
    frames: FeatureFrames,
    config: AdaptConfig,
    statistics: Covariance,
    on_step: OnStep,
    device: str = "cpu",
    times: int = 1,
) -> AutoEncoder:
    """Train an auto-encoder on cached features; the same arguments give the same weights.

    loss = mean over shown positions of 10 / K * |(x - x') / scale|^2 + sparsity * mean_b |code_b|_1

    He et al., CVPR 2019, eq. 1 and section 4.2: one epoch, learning rate 0.1, weight decay 1e-4,
    sparsity 1e-7; arXiv:1903.04688. The paper prints norms, and not over what they are taken; with
    10 / K (K: channels of the code) the steepest direction of the last layer has about the same
    curvature, 13, whatever the features' and the code's channels: 0.1 is then neither unstable nor
    slow. Momentum and the falling learning rate are those of the rest of the paper's training. The
    statistics of batch normalisation are taken anew at the end, with the final weights.

    Args:
        times: of the epochs that the config has

    Raises:
        ConfigError: the loss is not finite, or one frame of one position is all there is.
    """
    groups = list(_groups(len(frames), config, times))
    # On a GPU convolutions repeat only where they are asked to.
    repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng([]), repeatable:
        torch.manual_seed(config.seed)
        model = AutoEncoder(frames.channels, config.channels, config.strides)
        model.mean.copy_(torch.from_numpy(statistics.mean))
        model.scale.fill_(max(math.sqrt(statistics.variance), 1e-6))
        model.to(device).train()
        _demand_variance(model, frames, min(len(group) for group in groups))
        optimiser = torch.optim.SGD(
            model.parameters(),
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        for step, (features, shown) in enumerate(frames.batches(groups)):
            optimiser.param_groups[0]["lr"] = config.lr * (1 - step / len(groups)) ** POLY_POWER
            loss = _loss(model, features.to(device), shown.to(device), config.sparsity)
            _demand_finite(loss, step, config)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            on_step(step + 1, len(groups))
        _settle(model, frames, config.batch, device)
    return model.eval()


def measure(
    model: AutoEncoder,
    frames: FeatureFrames,
    statistics: Covariance,
    on_step: OnStep,
    device: str = "cpu",
) -> Measures:
    """Compare what comes back with a PCA of equal size, on the frames of `statistics`."""
    chosen, area, error = frames.spread(MEASURED), frames.height * frames.width, 0.0
    for done, (features, shown) in enumerate(frames.batches([place] for place in chosen)):
        with torch.no_grad():
            _, back = model(features.to(device))
            wrong = (back - model.standardised(features.to(device))) * model.scale
        error += float(wrong.square().masked_fill(~shown.to(device), 0).double().sum())
        on_step(done + 1, len(chosen))
    numbers = math.prod(code_shape(model, (frames.height, frames.width)))
    components = min(frames.channels, max(1, round(numbers / area)))
    total = float(np.trace(statistics.m2))
    return Measures(
        frames=len(chosen),
        relative_mse=error / total if total > 0 else 0.0,
        pca_relative_mse=statistics.left_by_pca(components),
        pca_components=components,
        code_numbers=numbers,
        pca_numbers=components * area,
    )


def code_shape(model: AutoEncoder, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return (K, h, w) of the code of features of this size."""
    return (model.channels, -(-size[0] // model.factor), -(-size[1] // model.factor))


def _groups(count: int, config: AdaptConfig, times: int = 1) -> Iterator[list[int]]:
    """The frames of every step: each epoch all of them, in another order, in like batches."""
    batches = -(-count // config.batch)
    epochs = max(config.epochs, -(-(config.steps or 0) // batches))
    for epoch in range(times * epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(count)
        for group in np.array_split(order, batches):
            yield group.tolist()


def _loss(model: AutoEncoder, features: Tensor, shown: Tensor, sparsity: float) -> Tensor:
    code, back = model(features)
    wrong = (back - model.standardised(features)).square().masked_fill(~shown, 0).sum()
    wrong = wrong / shown.sum().clamp(min=1) * (GAIN / model.channels)
    loss: Tensor = wrong + sparsity * code.abs().sum() / len(code)
    return loss


def _settle(model: AutoEncoder, frames: FeatureFrames, batch: int, device: str) -> None:
    """Take the statistics of batch normalisation from the final weights: a mean over batches."""
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    chosen = frames.spread(MEASURED)
    groups = [part.tolist() for part in np.array_split(chosen, -(-len(chosen) // batch))]
    with torch.no_grad():
        for features, _ in frames.batches(groups):
            model(features.to(device))


def _demand_variance(model: AutoEncoder, frames: FeatureFrames, smallest: int) -> None:
    """Batch normalisation needs more than one value."""
    _, height, width = code_shape(model, (frames.height, frames.width))
    if smallest * height * width < 2:
        raise ConfigError(
            f"a code of {height} x {width} cells of {smallest} frame has no variance to normalise "
            "by; give the [adapt] section smaller strides, or cache more frames"
        )


def _demand_finite(loss: Tensor, step: int, config: AdaptConfig) -> None:
    if not math.isfinite(loss.item()):
        raise ConfigError(
            f"the auto-encoder of {config.features} diverged: its loss is {loss.item()} in step "
            f"{step + 1}; lower lr ({config.lr:g}) in its [adapt] section. Nothing was written"
        )
