"""Teachers from transformers: any semantic segmentation model, from a folder or from the hub."""

from __future__ import annotations

import json
import logging
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import demand_finite, weights_sha256
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork

LOG = logging.getLogger(__name__)
NEAR = 0.5  # of 255: means and deviations that are one but for rounding
PART = re.compile(r"model-\d+-of-\d+\.safetensors")  # of a large model
COMMIT = re.compile(r"[0-9a-f]{40}")


class HfTeacherConfig(TeacherSettings):
    """A model that AutoModelForSemanticSegmentation can load. Layers: "penultimate" where found.

    Attributes:
        path: folder that `save_pretrained` wrote, or the id of a model on the hub
        revision: the commit on the hub, in full: a branch moves, and a cache must know its maker
    """

    kind: Literal["hf"]
    path: str = Field(min_length=1)
    revision: str | None = None

    @field_validator("path")
    @classmethod
    def _home_is_found(cls, path: str) -> str:
        try:
            return str(Path(path).expanduser()) if path.startswith("~") else path
        except RuntimeError as error:
            raise ValueError(f"path {path!r} begins with ~: {error}") from error

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
        ConfigError: transformers is not installed.
        WeightsError: files are missing or damaged, tensors do not fit or are not finite, or the
            classes are others.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "teachers of kind 'hf' need transformers; pip install stillroom[hf]"
        ) from error
    with _quiet(transformers):
        model = _load(transformers, config)
        _warn_of_other_classes(model.config, config)
        _warn_of_other_colours(transformers, config)
    classifier = _find_classifier(model.eval(), config)
    return TeacherNetwork(
        module=model,
        forward=lambda images: _forward(model, classifier, images),
        multiple=1,
        channels_last=False,
    )


def _load(transformers: Any, config: HfTeacherConfig) -> Any:
    local = config.folder.is_dir()
    place = {
        "pretrained_model_name_or_path": str(config.folder) if local else config.path,
        "revision": config.revision or "main",
        "local_files_only": local,
        "trust_remote_code": False,
    }
    with _as_weights_error(config.path):
        found = int(transformers.AutoConfig.from_pretrained(**place).num_labels)
    if found != config.num_classes():
        raise WeightsError(
            f"teacher {config.path} has {found} classes, but {config.num_classes()} are "
            "configured; give `classes` as the model was trained with"
        )
    with _as_weights_error(config.path):
        model, report = transformers.AutoModelForSemanticSegmentation.from_pretrained(
            **place, output_loading_info=True
        )
    for what in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, report.get(what, ())))
        if names:
            raise WeightsError(
                f"teacher {config.path}: the files do not fill the network: {len(names)} {what}: "
                f"{', '.join(names[:4])}; save it again with save_pretrained"
            )
    demand_finite(model.state_dict(), config.folder)
    return model


def _warn_of_other_classes(model: Any, config: HfTeacherConfig) -> None:
    """Warn where names or order of the model's classes differ from the run's.

    Whether "car" and "vehicle" are one class cannot be decided here, so that is no error.
    """
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


def _warn_of_other_colours(transformers: Any, config: HfTeacherConfig) -> None:
    """Warn where the model was trained on frames of another mean and deviation than the run's."""
    preprocessor = _preprocessor(transformers, config)
    if preprocessor.get("do_normalize") is False:
        return
    for key, wanted in (("mean", config.mean), ("std", config.std)):
        found = preprocessor.get(f"image_{key}")
        if not isinstance(found, list) or len(found) != len(wanted):
            continue
        colours = [round(255 * float(value), 3) for value in found]
        if any(abs(a - b) > NEAR for a, b in zip(colours, wanted, strict=True)):
            LOG.warning(
                "teacher %s: it was trained with %s = %s, of RGB 0..255, the run has %s; mend "
                "`%s` in its section",
                config.path,
                key,
                colours,
                list(wanted),
                key,
            )


def _preprocessor(transformers: Any, config: HfTeacherConfig) -> dict[str, Any]:
    """Read the model's preprocessor_config.json; {} where there is none."""
    local = config.folder.is_dir()
    try:
        file = transformers.utils.cached_file(
            str(config.folder) if local else config.path,
            "preprocessor_config.json",
            revision=config.revision or "main",
            local_files_only=local,
        )
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _as_weights_error(path: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"teacher {path}: cannot be loaded: {error}") from error


def _forward(model: Any, classifier: nn.Module | None, images: Tensor) -> ModelOutput:
    """Compute logits as the classifier does, where it was found; else as the model does."""
    from stillroom.stages.models.dense_network import PENULTIMATE, with_layers

    if classifier is None:
        return {LOGITS: model(pixel_values=images).logits}
    kept: ModelOutput = {}

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.update(with_layers({PENULTIMATE: inputs[0]}, logits=output))

    handle = classifier.register_forward_hook(keep)
    try:
        model(pixel_values=images)
    finally:
        handle.remove()
    return kept


def _find_classifier(model: Any, config: HfTeacherConfig) -> nn.Module | None:
    """Find the convolution whose output is the model's logits but for upsampling; else None.

    Models name it differently, and some have a second one for an auxiliary loss: so its output is
    compared.
    """
    import torch
    from torch import nn

    side = config.pad * -(-128 // config.pad)
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.out_channels == config.num_classes()
    ]
    with torch.no_grad():
        for layer in reversed(layers):
            try:
                final = model(pixel_values=images).logits
                grid = _forward(model, layer, images)[LOGITS]
            except (RuntimeError, ValueError, KeyError):
                return None  # measuring the strides reports what is wrong with this size
            for corners in (False, True):
                full = nn.functional.interpolate(
                    grid, size=final.shape[-2:], mode="bilinear", align_corners=corners
                )
                if torch.allclose(full, final, rtol=1e-4, atol=1e-5):
                    return layer
    return None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Hide the loading bar of transformers."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
