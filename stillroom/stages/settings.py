"""The base of every section of a run file: frozen, and strict about unknown keys."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterable


class Settings(BaseModel):
    """One section of a run file. Unknown keys are faults; values cannot change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class KindSettings(Settings):
    """A section of one of several kinds; each class declares its own `kind`, a Literal."""

    if TYPE_CHECKING:
        kind: str


def one_of(classes: Iterable[type[Settings]], key: str = "kind") -> Any:
    """Return the type of a section whose `key` says which of these classes it is."""
    return Annotated[reduce(or_, classes), Field(discriminator=key)]
