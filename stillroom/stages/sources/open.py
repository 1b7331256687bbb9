"""From a run file's section to a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stillroom.stages.sources.camvid import CamVidConfig, open_camvid
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.sources.image_mask import ImageMaskConfig, open_image_mask
from stillroom.stages.sources.images import ImagesConfig, open_images
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stillroom.stages.sources.source import Source

SourceConfig = Annotated[
    CamVidConfig | ImageMaskConfig | ImagesConfig | DemoConfig, Field(discriminator="kind")
]

SOURCES: dict[str, Callable[[Any], Source]] = {
    "camvid": open_camvid,
    "image_mask": open_image_mask,
    "images": open_images,
    "demo": DemoSource,
}


def open_source(config: CamVidConfig | ImageMaskConfig | ImagesConfig | DemoConfig) -> Source:
    """List a source's frames; nothing is decoded yet.

    Raises:
        ConfigError: the config's folders do not hold what it says, or its kind is unknown.
    """
    opener = SOURCES.get(config.kind)
    if opener is None:
        raise ConfigError(f"no source kind {config.kind!r}; known: {', '.join(sorted(SOURCES))}")
    return opener(config)
