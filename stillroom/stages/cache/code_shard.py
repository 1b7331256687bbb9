"""Stage one for one shard of codes: features -> auto-encoder -> encode -> write -> commit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.cache.cache_shard import put_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.models.autoencoder import AutoEncoder
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.manifest import FrameRow


@dataclass(frozen=True)
class CodeJob:
    """What turns one source's features into codes.

    Attributes:
        features, layer: the set and the array that are read; target, code: those that are written,
            shard by shard of the same frames
        batch: frames at once; cut inside the shard, so that a shard is the same bytes every time
    """

    features: ArtifactSet
    layer: str
    target: ArtifactSet
    code: str
    model: AutoEncoder
    batch: int
    device: str = "cpu"


def cache_codes(job: CodeJob, shard: int) -> None:
    """Fill and commit one shard; frames that are bad in the features stay bad.

    Raises:
        CacheCorrupt: a checksum fails in the features.
        CacheUnwritable: no space or no permission; nothing was committed.
    """
    writer = job.target.writer(shard)
    rows = job.features.part(shard).rows
    good = [row for row in rows if row.status == "ok"]
    for row in rows:
        if row.status != "ok":
            writer.bad(row)
    for start in range(0, len(good), job.batch):
        batch = good[start : start + job.batch]
        began = time.perf_counter()
        codes = _encode(job, batch)
        each = (time.perf_counter() - began) / len(batch)
        for row, code in zip(batch, codes, strict=True):
            put_row(writer, replace(row, seconds=each, confidence=None), {job.code: code})
    writer.commit()


def _encode(job: CodeJob, rows: list[FrameRow]) -> NDArray[np.float32]:
    features = np.stack([job.features.read(job.layer, row.index) for row in rows])
    with torch.no_grad():
        code: NDArray[np.float32] = (
            job.model.encode(torch.from_numpy(features).to(job.device)).cpu().numpy()
        )
    return code
