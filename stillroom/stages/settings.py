"""The base of every section of a run file: frozen, and strict about unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """One section of a run file. Unknown keys are faults; values cannot change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)
