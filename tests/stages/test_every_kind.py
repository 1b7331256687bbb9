"""What holds for every entry of the tables that the sections of a run file choose from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.flow.flow_model import FLOW_MODELS, FlowModelConfig
from stillroom.stages.models.students.families import STUDENTS, StudentConfig
from stillroom.stages.models.teachers.ensemble_settings import EnsembleTeacherConfig
from stillroom.stages.models.teachers.families import TEACHERS, TeacherConfig
from stillroom.stages.sources.open import SOURCES, SourceConfig
from stillroom.stages.sources.views import ViewsConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "run_file.md"
TABLES: dict[str, tuple[dict[str, Any], Any]] = {  # by their heading on the page
    "## `[sources.NAME]`": (SOURCES, SourceConfig),
    "## `[teachers.NAME]`": (TEACHERS, TeacherConfig),
    "## `[flows.NAME]`": (FLOW_MODELS, FlowModelConfig),
    "## `[student]`": (STUDENTS, StudentConfig),
}
MADE_OF_OTHERS = {  # of the same file, and so in no table
    SourceConfig: {ViewsConfig.__name__},
    TeacherConfig: {EnsembleTeacherConfig.__name__},
    FlowModelConfig: set[str](),
    StudentConfig: set[str](),
}
ENTRIES = [
    pytest.param(heading, kind, settings, id=f"{heading.strip('#`[ ]')}-{kind}")
    for heading, (table, _) in TABLES.items()
    for kind, (settings, _) in table.items()
]


@pytest.mark.parametrize(("heading", "kind", "settings"), ENTRIES)
def test_an_entry_is_named_by_its_kind_and_documented(
    heading: str, kind: str, settings: Any
) -> None:
    assert get_args(settings.model_fields["kind"].annotation) == (kind,)
    _, _, section = PAGE.read_text().partition(heading)
    section = section.partition("\n## ")[0]
    row = re.search(rf"^\| `{kind}` \|.*$", section, re.MULTILINE)
    assert row, f"{PAGE.name}: no row for `{kind}` under {heading}"
    kinds = "|".join(TABLES[heading][0])
    for_all = re.sub(rf"^\| `({kinds})` \|.*$", "", section, flags=re.MULTILINE)
    for key in set(settings.model_fields) - {"kind"}:
        assert f"`{key}`" in row[0] + for_all, f"{PAGE.name}: `{key}` of `{kind}` under {heading}"


@pytest.mark.parametrize(("table", "union"), TABLES.values(), ids=TABLES)
def test_a_section_is_read_by_the_settings_of_its_kind(table: dict[str, Any], union: Any) -> None:
    branches = {each.__name__ for each in get_args(get_args(union)[0])}
    assert branches == {each.__name__ for each, _ in table.values()} | MADE_OF_OTHERS[union]
    with pytest.raises(ValidationError, match="expected tags: '" + "', '".join(table)):
        TypeAdapter(union).validate_python({"kind": "no such kind"})
