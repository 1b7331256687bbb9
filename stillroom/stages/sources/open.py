"""From a run file's section to a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stillroom.stages.sources.camvid import CamVidConfig, open_camvid
from stillroom.stages.sources.cityscapes import CityscapesSequenceConfig, open_cityscapes_sequence
from stillroom.stages.sources.clips import ClipsConfig, open_clips
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.sources.image_mask import ImageMaskConfig, open_image_mask
from stillroom.stages.sources.images import ImagesConfig, open_images
from stillroom.stages.sources.video import VideoConfig, open_video
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stillroom.stages.sources.source import Source

# Each has `folders()`, where its files lie, and `stated()`, what it alone says of the identity.
SourceConfig = Annotated[
    CamVidConfig
    | ImageMaskConfig
    | ImagesConfig
    | ClipsConfig
    | CityscapesSequenceConfig
    | VideoConfig
    | DemoConfig,
    Field(discriminator="kind"),
]

SOURCES: dict[str, Callable[[Any], Source]] = {
    "camvid": open_camvid,
    "image_mask": open_image_mask,
    "images": open_images,
    "clips": open_clips,
    "cityscapes_sequence": open_cityscapes_sequence,
    "video": open_video,
    "demo": DemoSource,
}


def open_source(config: SourceConfig) -> Source:
    """List a source's frames; of videos, the frames are counted by decoding them once.

    Raises:
        ConfigError: the config's folders do not hold what it says, or its kind is unknown.
    """
    opener = SOURCES.get(config.kind)
    if opener is None:
        raise ConfigError(f"no source kind {config.kind!r}; known: {', '.join(sorted(SOURCES))}")
    return opener(config)
