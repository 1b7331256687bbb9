"""What the sections of teachers and of flow models have in common: an identity."""

from __future__ import annotations

from typing import Any

from stillroom.stages.models.weights import weights_sha256
from stillroom.stages.settings import KindSettings


class ModelSettings(KindSettings):
    """A model that comes from files: a cache knows it by their hashes, not by their paths."""

    def content(self) -> dict[str, Any]:
        """Return hashes of the model's files, in place of their paths: here of `weights`, if any.

        Raises:
            WeightsError: a file that must be hashed is not there.
        """
        if "weights" not in type(self).model_fields:
            return {}
        return {"weights_sha256": weights_sha256(getattr(self, "weights"))}  # noqa: B009

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the model's output, as JSON; no path is in it.

        A device "auto" stays "auto": it agrees with any.

        Raises:
            WeightsError: a file that must be hashed is not there.
        """
        stated = self.model_dump(mode="json", exclude={"weights", "path"})
        return {**stated, **self.content()}
