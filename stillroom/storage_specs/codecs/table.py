"""The codecs by name: numbers into fewer bits, one frame's array to what Zarr stores, and back.

A codec works on one frame, above Zarr, so that any Zarr reader opens the stored arrays; the few
numbers needed to undo it lie beside them as side arrays (`logits_scale`, `logits_offset`).
Decode before any geometry: quantised values are never interpolated.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.codecs.floor import Floor
from stillroom.storage_specs.codecs.fp8 import FP8
from stillroom.storage_specs.codecs.kl import KL
from stillroom.storage_specs.codecs.log import Log
from stillroom.storage_specs.codecs.plain import Exact, Half, Raw
from stillroom.storage_specs.codecs.quantised import Byte, Flow, Unit
from stillroom.storage_specs.codecs.rgb import Rgb
from stillroom.storage_specs.codecs.signed import Signed
from stillroom.storage_specs.codecs.topk import TopK
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.storage_specs.codecs.codec import Codec

CODECS: dict[str, type[Codec]] = {
    "raw": Raw,
    "exact": Exact,
    "half": Half,
    "byte": Byte,
    "unit": Unit,
    "floor": Floor,
    "flow": Flow,
    "kl": KL,
    "fp8": FP8,
    "topk": TopK,
    "log": Log,
    "signed": Signed,
    "rgb": Rgb,
}


def codec_from_dict(document: Mapping[str, Any] | str) -> Codec:
    """The codec of a `to_dict` or of a bare name.

    Raises:
        ConfigError: an unknown name, option or value.
    """
    options = {"name": document} if isinstance(document, str) else dict(document)
    name = options.pop("name", None)
    if name not in CODECS:
        raise ConfigError(f"unknown codec {name!r}; known: {', '.join(CODECS)}")
    known = [field.name for field in fields(CODECS[name])]
    unknown = sorted(set(options) - set(known))
    if unknown:
        options_known = f"known: {', '.join(known)}" if known else "it has no options"
        raise ConfigError(f"codec {name!r}: unknown option {unknown[0]!r}; {options_known}")
    return CODECS[name](**options)
