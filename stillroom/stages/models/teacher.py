"""Teachers: uint8 frames in, named grids out, the same for every kind of network."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from stillroom.stages.models.class_mapping import in_run_classes
from stillroom.stages.models.inference import as_frames, inference
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError

# torch is imported by the functions below: planning a build must not wait for it.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import Grid, ModelOutput, TeacherNetwork
    from stillroom.stages.models.teachers.families import TeacherConfig


class Teacher:
    """A network with the preparation of its input; call it on frames.

    Attributes:
        classes: names; None where only their number is known, or there are none
        strides: pixels of a frame to one position, for each grid of its output: "logits", which a
            teacher of something else than classes lacks, each "features/<layer>", "depth"
        device: where it runs
    """

    def __init__(
        self,
        config: TeacherConfig,
        network: TeacherNetwork,
        device: str,
        description: dict[str, Any],
        canvas: tuple[int, int] | None = None,
    ) -> None:
        from stillroom.stages.models.dense_network import Normalise
        from stillroom.stages.models.looks import Looks
        from stillroom.stages.models.resized_input import stride_on_canvas

        self._config = config
        self._description = description
        self._network = network
        self.device = device
        self._canvas = canvas or config.size
        _demand_multiple(config, network.multiple)
        mean, std = config.colours()
        self._normalise = Normalise(mean, std, config.pad, channels_last=network.channels_last).to(
            device
        )
        if network.module is not None:
            network.module.to(device).eval().requires_grad_(False)
        self._groups = config.groups()
        self._grids = self._measured()
        self.strides = {name: grid.stride for name, grid in self._grids.items()}
        if config.size is not None and self._canvas is not None:
            self.strides = {
                name: stride_on_canvas(stride, config.size, self._canvas)
                for name, stride in self.strides.items()
            }
        self.classes = config.mapped().class_names() if LOGITS in self._grids else None
        self._looks = Looks(self._predict, config) if config.several() else None

    def _measured(self) -> dict[str, Grid]:
        """Measure its grids at the size that it will see."""
        from stillroom.stages.models.dense_network import measure_grids

        config, made_for = self._config, self._network.made_for
        classes = None if config.classes is None else config.mapped().num_classes()
        seen = config.size or self._canvas

        def network(images: Tensor) -> ModelOutput:
            return self._in_run_classes(self._network.forward(images))

        try:
            grids = measure_grids(network, config.pad, classes, self.device, seen)
        except ConfigError as error:
            itself = error.__cause__ is not None  # the network did not run
            if made_for is None or made_for == seen or not itself:
                raise
            raise ConfigError(
                f"{error}\n  its files say that it was made for {made_for[0]}x{made_for[1]}: set "
                f"`size = {list(made_for)}` in its section"
            ) from error
        if classes == 1 and LOGITS in grids:
            raise ConfigError(
                "teacher: its logits have one channel, whose softmax is 1 everywhere: every pixel "
                "would count as sure; where a sigmoid of it tells two classes apart, set "
                "`binary = true` and name both, the one of low values first: "
                'classes = ["background", "object"]'
            )
        return grids

    def _in_run_classes(self, output: ModelOutput) -> ModelOutput:
        """Bring the network's own logits to the run's classes."""
        config = self._config
        if not config.binary and self._groups is None:
            return output
        if LOGITS not in output:
            key = "binary" if config.binary else "mapping"
            raise ConfigError(f"{key}: this teacher gives no logits of classes; leave it out")
        return {**output, LOGITS: self._logits_in_run_classes(output[LOGITS])}

    def _logits_in_run_classes(self, logits: Tensor) -> Tensor:
        channels, binary = self._config.num_channels(), self._config.binary
        return in_run_classes(logits, channels, self._groups, binary=binary)

    @property
    def num_classes(self) -> int:
        """Number of channels of its logits.

        Raises:
            ConfigError: it gives no logits.
        """
        if LOGITS not in self._grids:
            raise ConfigError(f"teacher: gives {', '.join(self._grids)}, and no logits of classes")
        return self._grids[LOGITS].channels

    @property
    def module(self) -> nn.Module | None:
        """What holds its parameters; None for a bare callable."""
        return self._network.module

    @property
    def precision(self) -> str:
        """Of its arithmetic: "float32", "float16" or "bfloat16"."""
        return self._config.precision

    def identity(self) -> dict[str, Any]:
        """Return what decides this teacher's output: its config's identity, with its device.

        It is that of the files as they were loaded, whatever has become of them since.
        """
        return {**deepcopy(self._description), "device": self.device}

    def __call__(self, frames: NDArray[np.uint8] | Tensor) -> ModelOutput:
        """Return the grids of a batch by name: (B, ..., h, w) float32, h = ceil(H / stride).

        Args:
            frames: (B, H, W, 3) uint8 RGB

        Raises:
            ArtifactError: frames of another shape or dtype.
            ConfigError: what the network gives does not follow the number or size of the frames.
        """
        return self.run(frames)[1]

    def run(self, frames: NDArray[np.uint8] | Tensor) -> tuple[ModelOutput, ModelOutput]:
        """Return the grids as the network itself gives them, and those of a call.

        Its own are padded, in its own classes and numbers, of the frames as they are.
        """
        import torch

        own, output = self._at_once(frames)
        if self._looks is not None and LOGITS in output:
            with torch.inference_mode():
                batch = as_frames(frames).to(self.device, non_blocking=True)
                found = [self._looks.log_cells(frame, self.strides[LOGITS]) for frame in batch]
                output[LOGITS] = torch.stack(found)
        return own, output

    def _predict(self, frames: Tensor) -> tuple[Tensor, int]:
        """One look."""
        return self._at_once(frames)[1][LOGITS], self.strides[LOGITS]

    def _at_once(self, frames: NDArray[np.uint8] | Tensor) -> tuple[ModelOutput, ModelOutput]:
        """See `run`; by one look."""
        from stillroom.stages.models.dense_network import crop

        with inference(self.device, self._config.precision):
            images = self._images(frames)
            own = self._network.forward(images)
            output = self._in_run_classes(own)
            _demand_batch(output, len(images))
            strides = {name: self._grids[name].stride for name in output}
            output = crop(output, strides, images, *(self._config.size or frames.shape[1:3]))
        output = self._on_frames(output, (frames.shape[1], frames.shape[2]))  # in full precision
        return own, {name: grid.float().contiguous() for name, grid in output.items()}

    def own_logits(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        """Return logits upsampled as the network itself does it: as its author will score it.

        SMP's heads upsample with aligned corners, up to half a position from where the
        cached ones lie.

        Args:
            frames: (B, H, W, 3) uint8 RGB

        Returns:
            (B, C, H, W) float32

        Raises:
            ArtifactError: frames of another shape or dtype.
            ConfigError: this network has no upsampling of its own.
        """
        if self._looks is not None:
            raise ConfigError("teacher: a mean over several looks has no upsampling of its own")
        if self._network.own_logits is None:
            raise ConfigError("teacher: this network does not upsample its logits by itself")
        with inference(self.device, self._config.precision):
            own = self._network.own_logits(self._images(frames))
            logits = self._logits_in_run_classes(own)
        if self._config.size is None:
            return logits[..., : frames.shape[1], : frames.shape[2]].float()
        from torch.nn.functional import interpolate

        size = frames.shape[1], frames.shape[2]
        return interpolate(logits.float(), size, mode="bilinear", antialias=True)

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether it runs on frames of a (height, width) other than its canvas."""
        import numpy as np

        try:
            self(np.zeros((1, *size, 3), np.uint8))
        except Exception:  # of a foreign network, which may raise anything
            return False
        return True

    def _images(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        """Resize, normalise and pad: (B, 3, H', W'), channels in the network's order."""
        batch = as_frames(frames).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if self._config.channels == "bgr":
            batch = batch.flip(1)
        if self._config.size is not None:
            from stillroom.stages.models.resized_input import resize_frames

            batch = resize_frames(batch, self._config.size, self._config.resample)
        images: Tensor = self._normalise(batch)
        return images

    def _on_frames(self, output: ModelOutput, frames: tuple[int, int]) -> ModelOutput:
        """Bring the grids of resized frames to (height, width) of the frames themselves."""
        from stillroom.stages.models.resized_input import grid_on_canvas

        size = self._config.size
        if size is None:
            return output
        return {
            name: grid_on_canvas(
                name, grid, (self._grids[name].stride, self.strides[name]), (size, frames)
            )
            for name, grid in output.items()
        }


def _demand_multiple(config: TeacherConfig, multiple: int) -> None:
    key, sides = ("pad", (config.pad,)) if config.size is None else ("size", config.size)
    if any(side % multiple for side in sides):
        stated = config.pad if config.size is None else list(config.size)
        raise ConfigError(
            f"teacher: {key}={stated}, but this network needs sides that are multiples of "
            f"{multiple}"
        )


def _demand_batch(output: ModelOutput, frames: int) -> None:
    for name, grid in output.items():
        if len(grid) != frames:
            raise ConfigError(
                f"{name}: {frames} frames give a grid of shape {tuple(grid.shape)}, expected "
                f"({frames}, ...), a grid for each; mend the network, or set cache.batch = 1 if it "
                "takes one frame at a time"
            )
