"""What the processor that comes with a model of transformers does to a frame.

Its file, preprocessor_config.json, is read as the settings of a teacher: channels, scale, mean and
deviation. Its resizing and cropping are not done: a teacher sees the whole canvas frame, or `size`.
"""

from __future__ import annotations

import json
import logging
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from stillroom.storage_specs.errors import ConfigError, WeightsError

TOLD = logging.getLogger(__name__)  # of what was taken from its file: users see it
NAME = "preprocessor_config.json"
PROCESSORS = "processor_config.json"  # of newer files: with the image processor inside, if any
PER_PIXEL = ("do_rescale", "do_normalize", "do_flip_channel_order")  # done here
PLACE = ("do_resize", "do_center_crop", "do_pad")  # left to canvas and `size`
NO_MATTER = ("do_reduce_labels", "do_convert_rgb")  # frames are RGB; labels are not a teacher's
OFFSETS = ("offset", "rescale_offset")  # x * factor - 1 in some video models
FAMILIES: dict[str, dict[str, Any]] = {  # what a class does whatever its file says
    "MobileViT": {"do_normalize": False},
}
DEFAULTS: dict[str, dict[str, Any]] = {  # what a class does where its file says nothing
    "MobileViT": {"do_flip_channel_order": True},
    "Tipsv2Dpt": {"do_normalize": False},
}
ENDINGS = ("ImageProcessor", "FeatureExtractor", "Fast", "Pil")
PIXEL = 1 / 255
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
OTHER = "other"  # of Pillow's ways of resizing
DIGITS = 3  # of means and deviations in 0..255: 0.485 becomes 123.675 and not 123.67500000000001


def read_processor(path: str, revision: str | None, *, ask: bool = True) -> dict[str, Any]:
    """Read what a model's files say of its processor; {} where they say nothing.

    Args:
        path: a local folder, or the id of a model on the hub
        ask: the hub, for what is not on this machine yet

    Raises:
        WeightsError: a file is there and damaged, or cannot be had.
    """
    local = revision is None or Path(path).is_dir()
    for name, key in ((PROCESSORS, "image_processor"), (NAME, None)):
        file = _local(path, name) if local else _from_the_hub(path, revision, name, ask=ask)
        found = {} if file is None else _read(file)
        described = found if key is None else found.get(key)
        if isinstance(described, dict) and described:
            return described
    return {}


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{file}: cannot be read ({error}); copy it again, or remove it and give channels, "
            "scale, mean and std in the teacher's section"
        ) from error
    return found if isinstance(found, dict) else {}


def settings_of(processor: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the keys of a teacher's section that say what a processor does to the pixels.

    "channels" where it turns them round; "mean" and "std" of 0..255, or "normalize" and "scale";
    "resample", which may be `OTHER`.

    Raises:
        ConfigError: it does what no key can say, or states what is none; named.
    """
    family = _family(processor)
    stated = {key: value for key, value in processor.items() if value is not None}
    does = {**DEFAULTS.get(family, {}), **stated, **FAMILIES.get(family, {})}
    _demand_known(does, path)
    made: dict[str, Any] = {"channels": "bgr"} if does.get("do_flip_channel_order") else {}
    if "resample" in does:
        made["resample"] = RESAMPLE.get(does["resample"], OTHER)
    factor = _factor(does, path)
    if not does.get("do_normalize", True):
        return {**made, "normalize": False, "scale": factor}
    for key in ("mean", "std"):
        values = _three(does, f"image_{key}", path)
        if values is not None:
            made[key] = tuple(round(value / factor, DIGITS) for value in values)
    return made


def size_of(processor: dict[str, Any]) -> tuple[int, int] | None:
    """Return the one (height, width) that a processor resizes to; None where there is none."""
    size = processor.get("size") if processor.get("do_resize", True) else None
    if isinstance(size, int):  # of old files
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    return None


def _local(path: str, name: str) -> Path | None:
    file = Path(path) / name
    return file if file.is_file() else None


def _from_the_hub(path: str, revision: str | None, name: str, *, ask: bool) -> Path | None:
    """Return the file of a commit, from the local copy where there is one."""
    file, reason = (_asked_once if ask else _kept)(path, revision, name)
    if reason:
        raise WeightsError(
            f"teacher {path}: its {name} cannot be had from the hub ({reason}); connect once, or "
            "give channels, mean and std in the teacher's section"
        )
    return file


def _kept(path: str, revision: str | None, name: str) -> tuple[Path | None, str]:
    """Look among the copies on this machine: (file, "why it is not known")."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        return None, str(error)
    found = try_to_load_from_cache(path, name, revision=revision)
    if isinstance(found, str):
        return Path(found), ""
    # Else None, or a mark that the commit has no such file.
    return None, "it was not asked for yet" if found is None else ""


@lru_cache
def _asked_once(path: str, revision: str | None, name: str) -> tuple[Path | None, str]:
    """Ask the hub: (file, "why it does not answer"); a model need not have the file."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        return None, str(error)
    try:
        return Path(hf_hub_download(path, name, revision=revision)), ""
    except LocalEntryNotFoundError as error:
        return None, str(error)
    except EntryNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, str(error)


def _family(processor: dict[str, Any]) -> str:
    name = str(
        processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    )
    for ending in reversed(ENDINGS):
        name = name.removesuffix(ending)
    return name


def _demand_known(does: dict[str, Any], path: str) -> None:
    known = {*PER_PIXEL, *PLACE, *NO_MATTER}
    strange = [
        key
        for key, value in does.items()
        if value is True and (key in OFFSETS or (key.startswith("do_") and key not in known))
    ]
    if strange:
        raise ConfigError(
            f"teacher {path}: its processor does what no key of a teacher says: "
            f"{', '.join(sorted(strange))}; wrap the model in a function that does it "
            '(kind = "python"), or set it to false in its '
            f"{NAME} if frames need it not"
        )
    turned = does.get("do_flip_channel_order") and does.get("do_normalize", True)
    colours = [_three(does, f"image_{key}", path) for key in ("mean", "std")]
    if turned and any(each is not None and len(set(each)) > 1 for each in colours):
        raise ConfigError(
            f"teacher {path}: its processor turns channels round and normalises, in an order that "
            f"its {NAME} does not say; give channels, mean and std in the teacher's section"
        )


def _factor(does: dict[str, Any], path: str) -> float:
    factor = does.get("rescale_factor", PIXEL) if does.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise ConfigError(f"teacher {path}: {NAME}: expected a rescale_factor > 0, got {factor!r}")
    return float(factor)


def _three(does: dict[str, Any], key: str, path: str) -> tuple[float, ...] | None:
    """Three numbers, of a list or of one for all channels; None where there are none."""
    values = does.get(key)
    if values is None:
        return None
    listed = [values] * 3 if isinstance(values, int | float) else values
    if not isinstance(listed, list) or len(listed) != 3 or not _are_numbers(listed):
        raise ConfigError(
            f"teacher {path}: {NAME}: expected three numbers as {key}, one a channel, got {values}"
        )
    if key == "image_std" and min(listed) <= 0:
        raise ConfigError(f"teacher {path}: {NAME}: expected image_std above 0, got {values}")
    return tuple(map(float, listed))


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(each, int | float) and math.isfinite(each) for each in values)


def class_names_of(path: str) -> tuple[str, ...]:
    """Return the names of the classes of a model in a folder; () where they cannot be read."""
    try:
        file = Path(path).expanduser() / "config.json"
        named = json.loads(file.read_text(encoding="utf-8"))["id2label"]
        return tuple(str(named[str(number)]) for number in range(len(named)))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return ()
