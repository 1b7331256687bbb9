"""Numbers into fewer bits: one frame's array to what Zarr stores, and back.

A codec works on one frame, above Zarr, so that any Zarr reader opens the stored arrays; the few
numbers needed to undo it lie beside them as side arrays (`logits_scale`, `logits_offset`).
Decode before any geometry: quantised values are never interpolated.
"""

from stillroom.storage_specs.codecs.codec import Codec as Codec
from stillroom.storage_specs.codecs.codec import Encoded as Encoded
from stillroom.storage_specs.codecs.fp8 import FP8 as FP8
from stillroom.storage_specs.codecs.kl import KL as KL
from stillroom.storage_specs.codecs.plain import Exact as Exact
from stillroom.storage_specs.codecs.plain import Half as Half
from stillroom.storage_specs.codecs.plain import Raw as Raw
from stillroom.storage_specs.codecs.steps import Byte as Byte
from stillroom.storage_specs.codecs.steps import Flow as Flow
from stillroom.storage_specs.codecs.steps import Unit as Unit
from stillroom.storage_specs.codecs.table import CODECS as CODECS
from stillroom.storage_specs.codecs.table import codec_from_dict as codec_from_dict
from stillroom.storage_specs.codecs.topk import TopK as TopK
