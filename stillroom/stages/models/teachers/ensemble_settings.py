"""The section of a teacher that is the mean of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PrivateAttr, model_validator

from stillroom.stages.class_lists import agree, numbered
from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def _weighed(members: Any) -> Any:
    """Give each name of a list the weight 1."""
    if not isinstance(members, list | tuple):
        return members
    if len(set(members)) < len(members):
        raise ConfigError("a member is named twice; give it a weight: { NAME = 2.0 }")
    return dict.fromkeys(members, 1.0)


OWN = {"kind", "members", "average", "features", "device", *LooksSettings.model_fields}
"""Keys that say something of an ensemble; the others of a teacher are its members' alone."""

Weights = Annotated[
    dict[str, Annotated[PositiveFloat, Field(allow_inf_nan=False)]],
    Field(min_length=1),
    BeforeValidator(_weighed),
]


class EnsembleTeacherConfig(TeacherSettings):
    """The mean of what other teachers of the run file say; they have their own input and looks.

    Attributes:
        members: names of their sections, with weights or all alike
        average: "probabilities": logits are the logarithm of the members' mean class probability;
            "logits": the mean of their logits
        features: the member whose features, and whatever else is no logits, are the ensemble's; the
            first if left out
    """

    kind: Literal["ensemble"]
    members: Weights
    average: Literal["probabilities", "logits"] = "probabilities"
    features: str | None = None

    _built_from: dict[str, TeacherSettings] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _the_rest_is_the_members(self) -> Self:
        if others := sorted(self.model_fields_set - OWN):
            raise ConfigError(
                f"{', '.join(others)}: an ensemble has no network of its own; set it in the "
                "sections of its members"
            )
        if self.features is not None and self.features not in self.members:
            raise ConfigError(
                f"features: {self.features!r} is no member; known: {', '.join(self.members)}"
            )
        return self

    def of(self, teachers: Mapping[str, TeacherSettings]) -> Self:
        """Return the section with those of its members, on their device where they agree on one.

        Raises:
            ConfigError: they have other classes than each other.
        """
        seen = {name: one.mapped() for name, one in teachers.items()}
        classes = [numbered(one.classes or 0) for one in seen.values()]
        # Numbers agree with any names: members are held against one that has some.
        named = [one.classes for one in seen.values() if one.class_names()]
        known = (named or [one.classes for one in seen.values()])[0]
        if not all(known and agree(numbered(known), other) for other in classes):
            listing = (
                f"\n  {name}  {', '.join(of) or 'none'}"
                for name, of in zip(seen, classes, strict=True)
            )
            raise ConfigError(
                "members: expected teachers of the same classes, in one order, got"
                f"{''.join(listing)}\n  bring them to the run's by `mapping`, each in its section"
            )
        update: dict[str, Any] = {"classes": known}
        if self.device == "auto" and len(devices := {one.device for one in seen.values()}) == 1:
            update["device"] = devices.pop()
        found = self.model_copy(update=update)
        found._built_from = dict(teachers)
        return found

    @property
    def first(self) -> str:
        """The member whose features are the ensemble's."""
        return self.features or next(iter(self.members))

    def built_from(self) -> dict[str, TeacherSettings]:
        """Return the members' sections; on the ensemble's device, if it names one."""
        if self.device == "auto":
            return self._built_from
        update = {"device": self.device}
        return {name: one.model_copy(update=update) for name, one in self._built_from.items()}

    def placed(self, device: str) -> Self:  # noqa: D102
        if self.device != "auto":
            return self
        found = self.model_copy()
        found._built_from = {name: one.placed(device) for name, one in self._built_from.items()}
        return found

    def completed(self) -> Self:  # noqa: D102
        found = self.model_copy()
        found._built_from = {name: one.completed() for name, one in self._built_from.items()}
        return found

    def identity(self) -> dict[str, Any]:
        """Return what decides the output: the members', without names and devices."""
        found = {key: value for key, value in super().identity().items() if key in OWN}
        members = [
            {**one.identity(), "weight": self.members[name]}
            for name, one in self._built_from.items()
        ]
        for one in members:
            del one["device"]
        return {**found, "features": [*self.members].index(self.first), "members": members}
