"""What the sections of teachers and of flow models have in common: an identity."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo

from stillroom.stages.models.weights import weights_sha256
from stillroom.stages.settings import KindSettings
from stillroom.storage_specs.errors import ConfigError

FIRST = "state_dict"
"""The key that was always read first: caches know files whose weights are below it without it."""


def _of_a_file(key: str, info: ValidationInfo) -> str:
    """Refuse a key into a file where there is no file."""
    file = str(info.field_name).removesuffix("_key")
    if info.data.get(file) is None:
        raise ConfigError(f"it says which tensors of a file, and no `{file}` names the file")
    return key


WeightsKey = Annotated[str, Field(min_length=1), AfterValidator(_of_a_file)] | None
"""Where in a file a network's tensors are, as "state_dict_ema"; stands after the file's field."""


class ModelSettings(KindSettings):
    """A model that comes from files: a cache knows it by their hashes, not by their paths."""

    added: ClassVar[tuple[str, ...]] = ()
    """Keys that are younger than some caches: only what is not their default is in the identity."""

    def content(self) -> dict[str, Any]:
        """Return hashes of the model's files, in place of their paths: here of `weights`, if any.

        With it goes `weights_key`, which says which tensors of the file are the model's.

        Raises:
            WeightsError: a file that must be hashed is not there.
        """
        if "weights" not in type(self).model_fields:
            return {}
        found: dict[str, Any] = {"weights_sha256": weights_sha256(getattr(self, "weights"))}  # noqa: B009
        key = getattr(self, "weights_key", None)
        return found if key in (None, FIRST) else {**found, "weights_key": key}

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the model's output, as JSON; no path is in it.

        A device "auto" stays "auto": it agrees with any.

        Raises:
            WeightsError: a file that must be hashed is not there.
        """
        fields = type(self).model_fields
        silent = {key for key in self.added if getattr(self, key) == fields[key].default}
        stated = self.model_dump(mode="json", exclude={"weights", "weights_key", "path", *silent})
        return {**stated, **self.content()}
