"""The run file of a run, by the config that its folder keeps, which has every default filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from stillroom.pipeline.run_file.sections import CacheConfig, RunConfig
from stillroom.stages.cache.adapt import AdaptConfig
from stillroom.stages.models.flow.flow_model import FLOW_MODELS
from stillroom.stages.models.students.families import STUDENTS
from stillroom.stages.models.teachers.families import TEACHERS
from stillroom.stages.sources.open import SOURCES
from stillroom.stages.train.losses.table import LOSSES
from stillroom.stages.train.settings import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

KINDS: dict[str, Mapping[str, tuple[type[BaseModel], Any]]] = {
    "sources": SOURCES,
    "teachers": TEACHERS,
    "flows": FLOW_MODELS,
}


def as_run_file(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run document that such a config came from, without what it had not set.

    Args:
        config: as of a run folder's config.json
    """
    found: dict[str, Any] = {}
    for section, table in KINDS.items():
        found[section] = {
            name: _set_in(one, table[one["kind"]][0]) for name, one in config[section].items()
        }
    found["cache"] = _set_in(config["cache"], CacheConfig)
    found["adapt"] = {name: _set_in(one, AdaptConfig) for name, one in config["adapt"].items()}
    found["student"] = _set_in(config["student"], STUDENTS[config["student"]["kind"]][0])
    found["terms"] = [_set_in(one, LOSSES[one["name"]]) for one in config["terms"]]
    found["train"] = _set_in(config["train"], TrainConfig)
    rest = {name: config[name] for name in RunConfig.model_fields if name not in found}
    found |= {name: _without_none(one) for name, one in rest.items() if one is not None}
    return {name: one for name, one in found.items() if one != {}}


def _set_in(section: Mapping[str, Any], settings: type[BaseModel]) -> dict[str, Any]:
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in settings.model_fields.items()
        if name != "kind" and not field.is_required()
    }
    return {
        key: _without_none(value)
        for key, value in section.items()
        if value is not None and (key not in defaults or value != defaults[key])
    }


def _without_none(value: Any) -> Any:
    """Leave out what is not set, which TOML cannot say."""
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value
