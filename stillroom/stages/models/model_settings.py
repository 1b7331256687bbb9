"""What the sections of teachers and of flow models have in common: an identity."""

from __future__ import annotations

from typing import Any, ClassVar

from stillroom.stages.models.weights import weights_sha256
from stillroom.stages.settings import KindSettings


class ModelSettings(KindSettings):
    """A model that comes from files: a cache knows it by their hashes, not by their paths."""

    added: ClassVar[tuple[str, ...]] = ()
    """Keys that are younger than some caches: only what is not their default is in the identity."""

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
        fields = type(self).model_fields
        silent = {key for key in self.added if getattr(self, key) == fields[key].default}
        stated = self.model_dump(mode="json", exclude={"weights", "path", *silent})
        return {**stated, **self.content()}
