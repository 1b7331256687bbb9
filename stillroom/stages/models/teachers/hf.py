"""Teachers from transformers: of semantic segmentation, depth or features, from files or a hub."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stillroom.stages.models.class_mapping import binary_hint
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.teachers.hf_processor import (
    OTHER,
    PLACE,
    TOLD,
    class_names_of,
    read_processor,
    settings_of,
    size_of,
)
from stillroom.stages.models.weights import weights_sha256
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from stillroom.stages.models.dense_network import TeacherNetwork

LOG = logging.getLogger(__name__)
COLOURS = ("normalize", "scale", "mean", "std")
NEAR = 0.5  # of 255: means and deviations that are one but for rounding
PART = re.compile(r"model-\d+-of-\d+\.safetensors")  # of a large model
COMMIT = re.compile(r"[0-9a-f]{40}")


class HfTeacherConfig(TeacherSettings):
    """A model that AutoModelForSemanticSegmentation can load. Layers: "penultimate" where found.

    Attributes:
        task: what it gives: "depth" of AutoModelForDepthEstimation's, "features" of AutoModel's
        path: folder that `save_pretrained` wrote, or the id of a model on the hub
        revision: the commit on the hub, in full: a branch moves, and a cache must know its maker
    """

    kind: Literal["hf"]
    path: str = Field(min_length=1)
    revision: str | None = None
    task: Literal["segmentation", "depth", "features"] = "segmentation"

    added: ClassVar[tuple[str, ...]] = (*TeacherSettings.added, "task")

    @property
    def may_lack_classes(self) -> bool:
        """A model of another task does."""
        return self.task != "segmentation"

    @field_validator("path")
    @classmethod
    def _home_is_found(cls, path: str) -> str:
        try:
            return str(Path(path).expanduser()) if path.startswith("~") else path
        except RuntimeError as error:
            raise ValueError(f"path {path!r} begins with ~: {error}") from error

    @model_validator(mode="before")
    @classmethod
    def _own_classes_are_mapped(cls, section: Any) -> Any:
        if not isinstance(section, dict) or not section.get("mapping") or section.get("classes"):
            return section
        names = class_names_of(str(section.get("path")))
        return {**section, "classes": names} if names else section

    @model_validator(mode="after")
    def _commit_is_named(self) -> HfTeacherConfig:
        looks_local = self.path.startswith((".", "/")) or self.path.count("/") > 1
        if looks_local or self.folder.is_dir():
            return self
        if self.revision is None or not COMMIT.fullmatch(self.revision):
            raise ValueError(
                f"{self.path!r} is no local folder, so it is taken for a hub id; give the commit "
                "(40 hexadecimal digits) as `revision`"
            )
        return self

    @property
    def folder(self) -> Path:
        """`path` as a local folder, whether it exists or not."""
        return Path(self.path)

    def completed(self) -> HfTeacherConfig:
        """Let its processor's file say what the network gets, where the section does not.

        A section with any of normalize, scale, mean and std says all of these by itself.

        Raises:
            ConfigError: the processor does what no key can say.
            WeightsError: its file cannot be had or read.
        """
        return self._completed(ask=True)

    def _completed(self, *, ask: bool) -> HfTeacherConfig:
        groups = [("channels",), COLOURS, *([("resample",)] if self.size is not None else [])]
        open_keys = {
            key
            for group in groups
            if not self.model_fields_set.intersection(group)
            for key in group
        }
        if not open_keys:
            return self
        settings = settings_of(read_processor(self.path, self.revision, ask=ask), self.path)
        taken = {key: value for key, value in settings.items() if key in open_keys}
        if taken.get("resample") == OTHER:
            raise ConfigError(
                f"teacher {self.path}: its processor resizes by another `resample` than 2 or 3, "
                "bilinear or bicubic; state resample = 'bilinear' or 'bicubic' to have one of these"
            )
        completed = self.model_copy(update=taken)
        same = (completed.channels, completed.resample) == (self.channels, self.resample)
        if same and not _other_colours(completed, self):
            return self  # equal but for rounding: it stays the teacher that it was
        return completed

    def identity(self) -> dict[str, Any]:
        """Return that of the section with its processor's settings; see `ModelSettings`.

        Of a model on the hub these are read from copies on this machine, and are as in the section
        where there is none: a student trains from a cache without asking anybody.
        """
        try:
            completed = self._completed(ask=False)
        except WeightsError as error:
            LOG.info("%s", error)
            completed = self
        return super(HfTeacherConfig, completed).identity()

    def content(self) -> dict[str, Any]:
        """The hub id, or the sha256 of each file of the folder that decides the network."""
        if self.revision is not None and not self.folder.is_dir():
            return {"path": self.path}
        files = [self.folder / "config.json", *sorted(self.folder.glob("*.safetensors"))]
        if not any(file.name == "model.safetensors" or PART.fullmatch(file.name) for file in files):
            # Only then are they read, and other .bin files (training_args.bin) never.
            weights = sorted(self.folder.glob("pytorch_model*.bin"))
            if not weights:
                raise WeightsError(
                    f"teacher path {self.path}: expected a folder with config.json and "
                    "model.safetensors, as save_pretrained writes it"
                )
            files += weights
        return {"files_sha256": {file.name: weights_sha256(file) for file in files}}


def load_hf(config: HfTeacherConfig) -> TeacherNetwork:
    """Load the model; no code that comes with it is run.

    Raises:
        ConfigError: transformers is not installed, or its processor does what no key can say.
        WeightsError: files are missing or damaged, tensors do not fit or are not finite, or the
            classes are others.
    """
    import torch

    from stillroom.stages.models.dense_network import TeacherNetwork
    from stillroom.stages.models.hf_network import HfForward, import_transformers, quiet
    from stillroom.stages.models.teachers.hf_depth import depth_network
    from stillroom.stages.models.teachers.hf_features import feature_network

    transformers = import_transformers("teachers")
    processor: dict[str, Any] = {}
    with suppress(WeightsError):  # the section says all by itself, or `completed` had raised
        processor = read_processor(config.path, config.revision)
    with quiet(transformers):
        model = _load(transformers, config)
        if config.task == "segmentation":
            _warn_of_other_classes(model.config, config)
        _warn_of_other_input(config, processor)
        _tell(config, processor)
    if config.task != "segmentation":
        network_of = {"depth": depth_network, "features": feature_network}[config.task]
        return network_of(model, config.path)
    forward = HfForward(model.eval(), config.num_channels())
    side = config.pad * -(-128 // config.pad)
    with suppress(Exception):  # a model of another size is searched when it is called on that
        forward.search(torch.zeros(1, 3, side, side))
    return TeacherNetwork(
        module=model,
        forward=forward,
        multiple=1,
        channels_last=False,
        made_for=size_of({"size": getattr(model.config, "image_size", None)}) or size_of(processor),
    )


def _load(transformers: Any, config: HfTeacherConfig) -> Any:
    from stillroom.stages.models.hf_network import as_weights_error, demand_whole
    from stillroom.stages.models.teachers.hf_depth import load_depth
    from stillroom.stages.models.teachers.hf_features import load_features

    local = config.folder.is_dir()
    place = {
        "pretrained_model_name_or_path": str(config.folder) if local else config.path,
        "revision": config.revision or "main",
        "local_files_only": local,
        "trust_remote_code": False,
    }
    if config.task != "segmentation":
        load = {"depth": load_depth, "features": load_features}[config.task]
        return demand_whole(*load(transformers, config.path, place), config.path)
    with as_weights_error(f"teacher {config.path}"):
        found = int(transformers.AutoConfig.from_pretrained(**place).num_labels)
    if found != config.num_channels():
        raise WeightsError(
            f"teacher {config.path} has {found} classes, but {config.num_channels()} are "
            "configured; give `classes` as the model was trained with, and a `mapping` where the "
            "run's are others" + binary_hint(found, config.num_channels())
        )
    with as_weights_error(f"teacher {config.path}"):
        model, report = transformers.AutoModelForSemanticSegmentation.from_pretrained(
            **place, output_loading_info=True
        )
    return demand_whole(model, report, config.path)


def _warn_of_other_classes(model: Any, config: HfTeacherConfig) -> None:
    """Warn where names or order of the model's classes differ from the run's.

    Whether "car" and "vehicle" are one class cannot be decided here, so that is no error.
    """
    if config.binary:  # its one name is that of the second of two
        return
    named = [str(model.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_classes())]
    wanted = config.class_names()
    nameless = all(name == f"LABEL_{i}" for i, name in enumerate(named))
    if wanted is not None and not nameless and named != list(wanted):
        LOG.warning(
            "teacher %s: its classes and those of the run differ in names or order; give `classes` "
            "in its order, or a teacher of this run's classes\n  teacher  %s\n  run      %s",
            config.path,
            ", ".join(named),
            ", ".join(wanted),
        )


def _warn_of_other_input(config: HfTeacherConfig, processor: dict[str, Any]) -> None:
    """Warn where keys that the section states differ from what the model was trained with."""
    settings = settings_of(processor, config.path)
    if "channels" in settings and settings["channels"] != config.channels:
        LOG.warning(
            "teacher %s: it was trained with channels = %r, the run has %r; mend `channels` in its "
            "section",
            config.path,
            settings["channels"],
            config.channels,
        )
    trained = config.model_copy(update={"normalize": True, "scale": 1.0, **settings})
    for key, found, wanted in _other_colours(trained, config):
        if key in settings or "normalize" in settings:
            LOG.warning(
                "teacher %s: it was trained with %s = %s, of RGB 0..255, the run has %s; mend `%s` "
                "in its section",
                config.path,
                key,
                found,
                wanted,
                key,
            )


def _tell(config: HfTeacherConfig, processor: dict[str, Any]) -> None:
    """Say what was taken from its processor's file, and what of it is not done."""
    fields = type(config).model_fields
    taken = [
        f"{key} = {value}"
        for key, value in settings_of(processor, config.path).items()
        if getattr(config, key) == value != fields[key].default
    ]
    left = [key for key in PLACE if processor.get(key) is True]
    if left and config.size is None:
        size = size_of(processor)
        does = "" if size is None else f" (`size = {list(size)}` resizes)"
        taken.append(f"without its {', '.join(left)}: it sees the whole canvas{does}")
    if taken:
        TOLD.info("teacher %s: by its processor: %s", config.path, ", ".join(taken))


def _other_colours(
    one: HfTeacherConfig, other: HfTeacherConfig
) -> list[tuple[str, list[float], list[float]]]:
    """Return (mean or std, that of one, that of the other), of RGB 0..255, where they differ."""
    straight = {"channels": "rgb"}
    colours = [each.model_copy(update=straight).colours() for each in (one, other)]
    most = [min(NEAR, 0.01 * std) for std in colours[0][1]]
    return [
        (key, list(found), list(wanted))
        for key, found, wanted in zip(("mean", "std"), *colours, strict=True)
        if any(abs(a - b) > limit for a, b, limit in zip(found, wanted, most, strict=True))
    ]
