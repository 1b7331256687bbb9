"""The `[train]` section of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from stillroom.stages.settings import Settings
from stillroom.stages.train.augment_settings import Transform
from stillroom.stages.train.photometric import PhotometricConfig
from stillroom.stages.view import ViewConfig

Cached = BeforeValidator(lambda of: None if of == "cached" else of)
"""What is left out stands for "cached": older runs did not know the key."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class StreamConfig(Settings):
    """Frames that each step takes a batch of.

    Attributes:
        source: a cached source; the stream's own name if left out
        batch: frames a step
        labelled: whether terms may read the labels and other targets; left out, if the source has
            any; False hides them
        every: take one frame in `every`, the first included: a labelled eighth is `every = 8`
        complement: take the frames that `every` leaves out instead; with `labelled = false` the two
            streams are a semi-supervised split of one source
        triplets: the name of a cached model of motion: every frame comes with a neighbour before it
            and one after it, and `batch` counts triplets
        draws: how many of the cached neighbours of a frame on either side to choose among; all if
            left out
        mix: paste a part of each frame of an unlabelled batch over another one, which what is
            cached of them follows: "cutmix" a box, "classmix" half the classes of the pseudo label
    """

    source: str | None = None
    batch: int = Field(gt=0)
    labelled: bool | None = None
    every: int = Field(default=1, gt=0)
    complement: bool = False
    triplets: str | None = None
    draws: int | None = Field(default=None, gt=0)
    mix: Literal["cutmix", "classmix"] | None = None

    @model_validator(mode="after")
    def _something_is_left(self) -> StreamConfig:
        if self.complement and self.every == 1:
            raise ValueError("complement takes what `every` leaves out, and every = 1 leaves none")
        if self.draws is not None and self.triplets is None:
            raise ValueError("draws is of neighbours: name a model of motion, triplets = ...")
        return self

    @model_validator(mode="after")
    def _pairs_can_be_mixed(self) -> StreamConfig:
        if self.mix is not None and self.triplets is not None:
            raise ValueError(
                "mix is of single frames: what is pasted into a clip does not follow its flow; "
                "leave out mix, or triplets"
            )
        if self.mix is not None and self.batch % 2:
            raise ValueError(
                f"mix pastes the frames of a pair into each other: batch must be even, got "
                f"{self.batch}"
            )
        return self


class OptimiserConfig(Settings):
    """How the weights move.

    Attributes:
        lr: learning rate of the first step after warm-up
        momentum: of SGD (without Nesterov); AdamW does not read it
        encoder_lr_factor: multiplies the learning rate of the student's encoder
        lr_factors: the same of any part of its network, by name, as "encoder.layer1"; of a part in
            a part the inner one's holds
        decay: "kernels" decays the weights of convolutions and matrices alone, no bias and nothing
            of a normalisation; all parameters if left out
        clip: largest 2-norm of the whole gradient; None clips nothing
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    encoder_lr_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    lr_factors: dict[str, Positive] | None = None
    decay: Literal["kernels"] | None = None
    clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class ValidationConfig(Settings):
    """Scores while training, for best.pt; the last step is always validated.

    Attributes:
        source: a labelled source of the run file
        every: steps between two validations
    """

    source: str
    every: int = Field(default=500, gt=0)


class TrainConfig(Settings):
    """One student's training.

    Attributes:
        path: the run folder
        streams: by name; the first one defines the epoch, the others cycle
        steps, epochs: exactly one of them; an epoch is one pass of the first stream
        unlabelled_weight: weight of the unlabelled streams' loss beside the labelled streams'
        task_weights: "uncertainty" learns a factor for the terms of each task beside the student;
            they weigh what their sections say if left out
        teacher: where artifacts come from: "online", of the teachers, which run in every step on
            the student's own views; "hybrid", from the cache where it has them, else online
        view, jitter: what the student sees of a frame
        augment: transforms of torchvision for that, in their order; they move no pixel
        schedule: of the learning rate over the steps: "poly" (if left out), "cosine", "milestones"
            or "constant"
        poly_power: of "poly": lr * (1 - step / steps) ** poly_power
        milestones: of "milestones": the steps from which on the learning rate is multiplied by
            `milestone_factor` once more, 0.1 if left out
        warmup_steps: the learning rate rises linearly over so many steps
        freeze_norm: batch normalisation of the student's "encoder", or of "all" of it, goes by the
            statistics that it came with, and does not change them; its scale and shift still learn
        ema: decay of an exponential moving average of the weights, validated and exported instead
        device: "auto" takes the first CUDA device, or the CPU
        amp: of the student on a GPU: "auto" is float16, whose loss is scaled; "bfloat16" needs no
            scale; "off" is float32, in which a CPU always computes
        accumulate: batches of every stream whose gradients a step adds up, for frames that do not
            fit at once; 1 if left out
        sync_batch_norm: whether batch normalisation is over the frames of all workers, as one
            process has it; False: each worker's own. True if left out
        compile: lets torch.compile make kernels of the student, on its first steps
        seed: with the frame and the epoch, the origin of every random number
        threads: threads that read and decode ahead
        loader: "processes" takes so many processes instead, which share memory with this one
        decode: where frames and artifacts are decoded and brought to their views: "device" has the
            host read what is stored and no more; left out, the device where that is a GPU
        validation: when to score the student, and on what
        checkpoint_every, log_every: steps between two checkpoints, two lines of metrics
        gradients_every: steps between two measurements of each term's own gradient, which cost a
            backward pass a term; 0 measures none
    """

    path: Path
    streams: dict[str, StreamConfig] = Field(min_length=1)
    steps: int | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    unlabelled_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    task_weights: Literal["uncertainty"] | None = None
    teacher: Annotated[Literal["online", "hybrid"] | None, Cached] = None
    view: ViewConfig = ViewConfig()
    jitter: PhotometricConfig = PhotometricConfig()
    augment: tuple[Transform, ...] | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: Literal["poly", "cosine", "milestones", "constant"] | None = None
    poly_power: float = Field(default=0.9, ge=0, allow_inf_nan=False)
    milestones: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    milestone_factor: Positive | None = None
    warmup_steps: int = Field(default=0, ge=0)
    freeze_norm: Literal["encoder", "all"] | None = None
    ema: float | None = Field(default=None, gt=0, lt=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["auto", "bfloat16", "off"] = "auto"
    accumulate: int | None = Field(default=None, gt=0)
    sync_batch_norm: bool | None = None
    compile: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=2, gt=0)
    loader: Literal["threads", "processes"] = "threads"
    decode: Literal["device", "host"] | None = None
    validation: ValidationConfig | None = None
    checkpoint_every: int = Field(default=500, gt=0)
    log_every: int = Field(default=20, gt=0)
    gradients_every: int = Field(default=200, ge=0)

    @model_validator(mode="after")
    def _length_is_given_once(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, and not both")
        return self

    @model_validator(mode="after")
    def _keys_are_of_the_schedule(self) -> TrainConfig:
        schedule = self.schedule or "poly"
        if self.poly_power != 0.9 and schedule != "poly":
            raise ValueError(f'poly_power is of schedule = "poly", and it is "{schedule}"')
        given = self.milestones is not None
        if given != (schedule == "milestones") or (self.milestone_factor and not given):
            raise ValueError(
                'schedule = "milestones" and milestones, such as [6000, 8000], come together'
            )
        if list(self.milestones or ()) != sorted(set(self.milestones or ())):
            raise ValueError(
                f"milestones: expected rising steps, got {list(self.milestones or ())}"
            )
        return self
