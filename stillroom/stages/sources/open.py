"""Every kind of source by its name in a run file: its settings, and what opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.stages.settings import one_of
from stillroom.stages.sources.boxes import BoxesConfig, open_boxes
from stillroom.stages.sources.camvid import CamVidConfig, open_camvid
from stillroom.stages.sources.cityscapes import CityscapesSequenceConfig, open_cityscapes_sequence
from stillroom.stages.sources.clips import ClipsConfig, open_clips
from stillroom.stages.sources.data_sets import SETTINGS, open_data_set
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.sources.hf_dataset import HfDatasetSettings, open_hf_dataset
from stillroom.stages.sources.image_mask import ImageMaskConfig, open_image_mask
from stillroom.stages.sources.images import ImagesConfig, open_images
from stillroom.stages.sources.rgbd import RgbdConfig, open_rgbd
from stillroom.stages.sources.video import VideoConfig, open_video
from stillroom.stages.sources.views import Views, ViewsConfig
from stillroom.stages.sources.webdataset import WebDatasetSettings, open_webdataset
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.stages.sources.source import Source
    from stillroom.stages.sources.source_settings import SourceSettings

SOURCES: dict[str, tuple[type[SourceSettings], Callable[[Any], Source]]] = {
    "camvid": (CamVidConfig, open_camvid),
    "image_mask": (ImageMaskConfig, open_image_mask),
    "images": (ImagesConfig, open_images),
    "clips": (ClipsConfig, open_clips),
    "cityscapes_sequence": (CityscapesSequenceConfig, open_cityscapes_sequence),
    "video": (VideoConfig, open_video),
    "rgbd": (RgbdConfig, open_rgbd),
    "boxes": (BoxesConfig, open_boxes),
    "demo": (DemoConfig, DemoSource),
    "webdataset": (WebDatasetSettings, open_webdataset),
    "hf_dataset": (HfDatasetSettings, open_hf_dataset),
    **{kind: (settings, open_data_set) for kind, settings in SETTINGS.items()},
}

if TYPE_CHECKING:
    SourceConfig = SourceSettings
else:
    SourceConfig = one_of([*(settings for settings, _ in SOURCES.values()), ViewsConfig])


def open_source(config: SourceConfig) -> Source:
    """List a source's frames; of videos, the frames are counted by decoding them once.

    Raises:
        ConfigError: the config's folders do not hold what it says, or its kind is unknown.
    """
    if isinstance(config, ViewsConfig):
        return Views(config, open_source(config.frames))
    if config.kind not in SOURCES:
        raise ConfigError(f"no source kind {config.kind!r}; known: {', '.join(sorted(SOURCES))}")
    _, opener = SOURCES[config.kind]
    return opener(config)
